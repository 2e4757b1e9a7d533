//! What the engine thread and the body share: the inbox, the gates of the listeners, the count of open connections, the parameters.

pub(crate) mod drain;
pub(crate) mod gate;
pub(crate) mod gate_control;
pub(crate) mod managed;
#[cfg(all(test, loom, upgrades))]
mod models;
pub(crate) mod params;
pub(crate) mod shared;
