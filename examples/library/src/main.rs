//! The program of the library.

use std::net::SocketAddr;
use std::process::ExitCode;

use library_lines::{Config, serve};

fn main() -> ExitCode {
    serve(Config { listen: SocketAddr::from(([127, 0, 0, 1], 7002)), ending: String::new() })
}
