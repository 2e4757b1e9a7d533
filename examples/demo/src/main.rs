//! Upgrades a real HTTP service while 2,000 requests a second reach it, and counts what its clients lose.
//!
//! `cargo run --release -p demo` builds `examples/hello`, starts it, keeps it under load from new connections and
//! keep-alive connections, upgrades it five times, and prints how long that took and what was lost. `--help` lists
//! what can be varied.
//!
//! * `args`: the command line. `binary`: cargo builds the service.
//! * `service`: the service in its directory. `process`: a process held by its descriptor.
//! * `client`: one request, and how exactly it was lost. `load`: the schedule of all of them.
//! * `tally`: what became of every request. `report`: what a person is told about it. `progress`: until then.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod run;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("demo: a running service can be upgraded on Linux only");
    ExitCode::FAILURE
}
