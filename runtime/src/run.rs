//! The start of a process, step by step, and the run of the body until the engine's verdict.
//!
//! | file | what is in it |
//! |---|---|
//! | `begin.rs` | the order of a start |
//! | `surroundings.rs` | the predecessor, the supervisor and the service manager, and what they have given this process |
//! | `offer.rs` | the offer of the predecessor |
//! | `sources.rs` | the listeners: adopted, or bound; the control socket |
//! | `host.rs` | a process, or a test |
//! | `body.rs` | runs the body until the verdict of the engine |
//! | `service.rs` | `configure`, `Service::run`, `Service::run_blocking` and the exit code |

pub(crate) mod begin;
pub(crate) mod body;
pub(crate) mod host;
#[cfg(upgrades)]
mod offer;
pub(crate) mod service;
#[cfg_attr(not(upgrades), path = "portable/run/sources.rs")]
mod sources;
#[cfg_attr(not(upgrades), path = "portable/run/surroundings.rs")]
mod surroundings;
