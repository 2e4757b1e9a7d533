//! The start of a process, step by step, and the run of the body until the engine's verdict.

#[cfg_attr(not(upgrades), path = "portable/run/begin.rs")]
pub(crate) mod begin;
pub(crate) mod body;
mod service;
