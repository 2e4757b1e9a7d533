//! The program `tableflip`: replaces, stops and watches a running service.

#[cfg(all(target_os = "linux", not(tableflip_portable)))]
mod program;

use std::process::ExitCode;

#[cfg(all(target_os = "linux", not(tableflip_portable)))]
fn main() -> ExitCode {
    program::main()
}

/// The condition is that of `cfg(upgrades)` in the library.
#[cfg(not(all(target_os = "linux", not(tableflip_portable))))]
fn main() -> ExitCode {
    eprintln!("tableflip: only on Linux can services be upgraded, and have a control socket");
    ExitCode::FAILURE
}
