//! The demo as a program: it executes the program with further clients for a service that needs one, and names what is wrong first.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn the_demo_builds_that_program_and_becomes_it() {
    // It says what it is to build, and names another program in its place.
    let cargo = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cargo");
    let artifact =
        r#"{"reason":"compiler-artifact","target":{"name":"demo-clients"},"executable":"/bin/echo"}"#;
    fs::write(&cargo, format!("#!/bin/sh\necho \"$@\" >&2\necho '{artifact}'\n")).expect("it can be written");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("it is there");
    let arguments = ["--service", "tls", "--upgrades", "7", "--json"];
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    let output = demo.args(arguments).env("CARGO", cargo).output().expect("it runs");
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(stderr.starts_with("build --package demo-clients --bin demo-clients "), "{stderr}");
    assert_eq!(stdout, format!("{}\n", arguments.join(" ")), "{stderr}");
    assert!(output.status.success());
}

#[test]
fn a_picture_that_cannot_be_written_is_an_error_before_anything_is_built() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.args(["--report", "/nonexistent/run.svg"]).env("CARGO", "/nonexistent/cargo");
    let output = demo.output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let expected = "demo: cannot write the picture /nonexistent/run.svg: No such file or directory (os error 2); --report \
                    names a file to write\n";
    assert_eq!(stderr, expected);
    assert_eq!(output.status.code(), Some(1));
}
