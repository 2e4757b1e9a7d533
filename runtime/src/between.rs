//! What the engine thread and the body share: the inbox, the gates of the listeners, the count of open connections, the parameters.

mod body_flags;
pub(crate) mod drain;
pub(crate) mod gate;
pub(crate) mod gate_control;
pub(crate) mod handles;
mod inbox;
pub(crate) mod listeners;
pub(crate) mod managed;
#[cfg(all(test, loom, upgrades))]
mod models;
pub(crate) mod note;
pub(crate) mod params;
pub(crate) mod passed_on;
mod pool;
pub(crate) mod resumed;
pub(crate) mod shared;
