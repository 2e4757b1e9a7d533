//! One of the services that the documentation shows: `BODY` says which. Without it, says which there are, a line each: the page and
//! its line, and the listeners with their schemes.

use std::env;
use std::process::ExitCode;

/// A service and where it is shown.
struct Shown {
    page: &'static str,
    line: usize,
    listeners: &'static [(&'static str, &'static str)],
    run: fn() -> ExitCode,
}

include!(concat!(env!("OUT_DIR"), "/shown.rs"));

fn main() -> ExitCode {
    if let Ok(number) = env::var("BODY") {
        let number: usize = number.parse().expect("BODY is a number");
        return (SHOWN[number].run)();
    }
    for Shown { page, line, listeners, .. } in SHOWN {
        let listeners: String = listeners.iter().map(|(name, scheme)| format!(" {name}={scheme}")).collect();
        println!("{page}:{line}{listeners}");
    }
    ExitCode::SUCCESS
}
