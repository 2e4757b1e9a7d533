//! Tests with real processes; `harness.rs` says how to write one.

mod attribute;
mod control;
mod deaths;
mod deploy;
mod drain;
mod environment;
mod failures;
mod fake_predecessor;
mod fake_successor;
mod harness;
mod http;
mod inheritance;
mod limits;
mod look;
mod many;
mod overlap;
mod preflight;
mod program;
mod promises;
mod signals;
mod sockets;
mod start_errors;
mod stop;
mod story;
mod supervise;
mod upgrader;
