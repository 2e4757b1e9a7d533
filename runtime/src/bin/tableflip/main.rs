//! The program `tableflip`: replaces, stops and watches a running service. `tableflip::program` has all of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tableflip::program::run_from(std::env::args_os())
}
