//! The engine: the thread that feeds events to the life cycle and carries out its actions.
//!
//! It is plain code around poll(2), so that an upgrade works while the runtime of the body is blocked, and so that the
//! async and the blocking flavour share it. Nothing here runs on the path of a connection.
//!
//! | file | what the engine does there |
//! |---|---|
//! | `core.rs` | the loop: requests, arrivals, deadlines, the step of the life cycle, its actions |
//! | `data.rs` | what it knows of the body, the listeners and the requests |
//! | `body.rs` | what it hears from the body: ready, returned, drained |
//! | `listeners.rs` | the sockets and their gates: opens, drains, closes |
//! | `ending.rs` | the end of the process, and the reasons of a start that fails |
//! | `status.rs` | what the body and operators are told |
//! | `stops.rs` | which stop signals count as one request |
//! | `neighbours.rs` | the data on the predecessor, the successor and the service manager |
//! | `upgrade.rs`, `upgrade/` | the part towards each neighbour |

mod body;
mod core;
mod data;
mod ending;
mod listeners;
mod status;
mod stops;

#[cfg_attr(not(upgrades), path = "portable/engine/neighbours.rs")]
mod neighbours;
#[cfg_attr(not(upgrades), path = "portable/engine/upgrade.rs")]
mod upgrade;

pub(crate) use self::core::{Engine, Process};
pub(crate) use self::neighbours::Neighbours;
#[cfg(upgrades)]
pub(crate) use self::neighbours::PredecessorLink;
