//! Every body that the documentation shows ends at once with nothing open, after its probation and at a stop.

use std::process::Command;

use load::Service;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bodies");

#[test]
fn every_body_that_is_shown_ends_at_once_with_nothing_open() {
    let output = Command::new(PROGRAM).output().expect("it says what there is");
    let shown = String::from_utf8(output.stdout).expect("text");
    assert!(shown.lines().count() >= 20, "{shown}");
    for (number, line) in shown.lines().enumerate() {
        let (place, listeners) = line.split_once(' ').unwrap_or((line, ""));
        println!("{place}");
        let mut command = Service::of(PROGRAM)
            .env("BODY", number.to_string())
            .env("TABLEFLIP_SUPERVISE", "never")
            .env("TABLEFLIP_PREFLIGHT", "true")
            .env("TABLEFLIP_PROBE", "false")
            .env("TABLEFLIP_VERIFY", "true");
        for (name, scheme) in listeners.split_whitespace().filter_map(|listener| listener.split_once('=')) {
            let path = command.path(name).display().to_string();
            let address = match scheme {
                "unix-seqpacket" => format!("unix-seqpacket:@{path}"),
                "unix" | "unix-dgram" => format!("{scheme}://{path}"),
                _ => format!("{scheme}://127.0.0.1:0"),
            };
            command = command.listen(name, &address);
        }
        command.start().stop();
    }
}
