//! Upgrades a real service while 2,000 requests a second reach it, and counts what its clients lose: requests, and sockets.
//!
//! `cargo run --release -p demo` builds `examples/hello`, starts it, keeps it under load from new connections and
//! keep-alive connections, upgrades it five times, and prints how long that took and what was lost. `--help` lists
//! what can be varied.
//!
//! * `run`: the order of events. `args`: the command line. `binary`: cargo builds the service.
//! * `service`: the service in its directory. A process of it is a `Process` of the package `processes`, as in the tests.
//! * `client`: one request, and how exactly it was lost. `http` is the client of the demo itself, `other` those of other protocols.
//!   `load`: the schedule of the requests.
//! * `control`: the request to upgrade, the phases, and the outcome.
//! * `tally`: the outcome of every request. `report`: the text or JSON at the end. `progress`: the display until then.
//! * `drawing`: the picture of a run. `svg`: any such picture as SVG. `svg_file`: its file. Both are files of the program
//!   `tableflip`.
//! * `foreign`: what the package `demo-clients` adds. The libraries of its clients take longer to build than all else. So this
//!   program does without them, and executes that program for a service that needs such a client.

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
