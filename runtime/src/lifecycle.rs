//! The life of one process as a pure state machine: `(State, Event) -> (State, Actions)`. It does no I/O, and knows no time and
//! no text.
//!
//! The engine feeds each event to [`State::step`] and carries out the actions. Both processes of an upgrade run the same `step`.
//! Through an upgrade without a fault they go through these phases:
//!
//! * the predecessor: `Serving`, `Checking`, `Upgrading`, `Probing`, `Pausing`, `Committed`, `Standby`, `Announcing` (under a service
//!   manager), `Draining`, `Ended`;
//! * the successor: `Starting`, `Prepared`, `TakingOver`, `Serving`.
//!
//! # The files
//!
//! | file | content |
//! |---|---|
//! | `event.rs`, `action.rs` | what the engine reports, and what it carries out; the timers, the failures, the ends |
//! | `phase.rs`, `state.rs` | the phases; the state of a process, and what the service manager learns of it |
//! | `step.rs` | the entry: what each event changes in every phase, and the choice of the phase |
//! | `start.rs` | `Starting`, `Prepared`, `TakingOver`: from the start of a process until it serves |
//! | `serving.rs` | `Serving`, `Checking`: a request to upgrade, and the check of the new release |
//! | `handover.rs` | `Upgrading`, `Probing`, `Pausing`, `Committed`: from the start of the successor until it serves |
//! | `probation.rs` | `Standby`, `Announcing`: the successor serves, and this process can still resume |
//! | `revert.rs` | `Reverting`: the end of a successor that failed, and the return to `Serving` |
//! | `recall.rs` | `Recalling`, `Yielding`, `Yielded`, `Draining(Reverted)`: a successor that serves gives the service back |
//! | `drain.rs` | `Draining`: a stop, or the end of a predecessor |
//! | `rescue.rs` | `Draining(Rescue)`: the successor died when this process could not resume any more |
//! | `moving.rs`, `moving/` | two machines of their own: the owner of each connection that moves to the successor, and their model |
//!
//! `table.rs` visits every pair of state and event, and writes the whole table to `transitions.txt`. `model.rs` searches every
//! order of events of several processes, with a crash between any two actions.
//!
//! # The rules
//!
//! Every transition keeps four rules:
//!
//! * Two processes never accept from the same listener. A process opens its gates only in one of four cases. It never had a
//!   predecessor; it has received `COMMIT`; its predecessor is dead or over; its successor is dead or over.
//! * A process is *dead* when no part of it can run any more. Its started process is reaped, the process that sent its last
//!   message is dead, and no process has its end of the channel. The end of the channel alone is no death. The exit of the
//!   started process alone is no death either, because that process may have forked. A process is *over* when it has closed its
//!   gates for good and has sent `OVER`, even if its `main` goes on.
//! * The predecessor resumes only after an unwanted successor is dead, or is over.
//! * The process that a service manager follows exits last: to the manager its exit is the end of the service, and the manager
//!   then ends all others. So the manager is asked to follow the successor only after the probation. In a stop of both processes
//!   the followed process waits for the other one.

// The portable half uses a few of the names.
#![cfg_attr(not(upgrades), allow(unused_imports, reason = "what concerns a successor never happens"))]

mod action;
mod drain;
mod event;
mod handover;
pub(crate) mod moving;
mod phase;
mod probation;
mod recall;
mod rescue;
mod revert;
mod serving;
mod start;
mod state;
mod step;

#[cfg(test)]
mod model;
#[cfg(test)]
mod table;

pub(crate) use action::{Action, End, Failure, NoRevert, Refusal, StartFailure};
pub(crate) use event::{Event, Timer};
pub(crate) use phase::{Drain, Phase, Rescue};
pub use state::Overlap;
pub(crate) use state::{Followed, Known, Predecessor, State};
