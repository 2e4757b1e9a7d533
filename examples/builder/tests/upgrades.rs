//! The builder over upgrades under load, and a variable that is no address.

use std::process::Command;

use load::{Lines, Service};

const PROGRAM: &str = env!("CARGO_BIN_EXE_builder-lines");

#[test]
fn no_line_is_lost() {
    let mut service = Service::of(PROGRAM).env("LISTEN", "127.0.0.1:0").env("PREFIX", "> ").start();
    let client = Lines::tcp(service.address("lines"), "hello\n", "> hello\n");
    load::across_upgrades(&mut service, || client.clone());
    service.stop();
}

#[test]
fn a_variable_that_is_no_address_is_one_line_on_stderr() {
    let output = Command::new(PROGRAM).env("LISTEN", "localhost").output().expect("it is started");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr, "tableflip: cannot start: LISTEN=localhost: invalid socket address syntax\n");
}
