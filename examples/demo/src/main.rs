//! The demo with its own client of HTTP; the library has the rest.

use std::process::ExitCode;

fn main() -> ExitCode {
    demo::main(None)
}
