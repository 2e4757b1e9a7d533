//! A test that cannot run here, and tests that take long.

use std::env;
use std::io::{self, Write};
use std::thread;

/// Says why the test of this thread is skipped: past the capture of the output of tests, for `.ci/run` to count.
///
/// # Panics
///
/// Stderr cannot be written.
pub fn skip(reason: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    writeln!(io::stderr(), "skipped: {name}: {reason}").expect("stderr can be written");
}

/// Whether the tests that take long are wanted: `SLOW_TESTS` or `CI` is set.
pub fn is_slow_wanted() -> bool {
    ["SLOW_TESTS", "CI"].iter().any(|name| env::var_os(name).is_some())
}
