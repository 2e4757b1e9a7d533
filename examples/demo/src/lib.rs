//! Upgrades a real service while 2,000 requests a second reach it, and counts what its clients lose.
//!
//! `cargo run --release -p demo` builds `examples/hello`, starts it, keeps it under load from new connections and
//! keep-alive connections, upgrades it five times, and prints how long that took and what was lost. `--help` lists
//! what can be varied.
//!
//! * `run`: the order of events. `args`: the command line. `binary`: cargo builds the service.
//! * `service`: the service in its directory. Its processes are of the package `processes`, as in all tests.
//! * `client`: one request, and how exactly it was lost; `http` is the demo's own, `other` those of other protocols.
//!   `load`: the schedule of all of them.
//! * `tally`: what became of every request. `report`: what a person is told about it. `progress`: until then.
//! * `foreign`: what the package `demo-clients` adds. The libraries of its clients take longer to build than all else, so
//!   that this one does without, and becomes that program when it is asked for a service that needs them.

use std::process::ExitCode;

mod foreign;
#[cfg(target_os = "linux")]
mod run;

pub use foreign::{Foreign, Make, Prepare, Setting};

/// The program. Without `prepare` it has only its own client of HTTP.
#[cfg(target_os = "linux")]
pub fn main(prepare: Option<Prepare>) -> ExitCode {
    run::main(prepare)
}

/// The program, which has nothing to show here.
#[cfg(not(target_os = "linux"))]
pub fn main(_prepare: Option<Prepare>) -> ExitCode {
    eprintln!("demo: a running service can be upgraded on Linux only");
    ExitCode::FAILURE
}
