//! What every part of the crate uses: addresses, errors, limits, log lines, the status, and how a thread waits for a
//! value.

pub(crate) mod address;
#[cfg(upgrades)]
pub(crate) mod answer;
pub(crate) mod error;
pub(crate) mod identity;
pub(crate) mod limits;
pub(crate) mod path_text;
pub(crate) mod probe;
pub(crate) mod report;
pub(crate) mod returned;
pub mod status;
pub(crate) mod suggest;
pub(crate) mod sync;
pub(crate) mod unadopted;
