//! The start of a process in its order, and its body until the engine's verdict.

#[cfg_attr(not(upgrades), path = "portable/run/begin.rs")]
pub(crate) mod begin;
pub(crate) mod body;
mod service;
