//! Subcommands and a configuration file, over upgrades under load.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use load::{Service, Version};

const PROGRAM: &str = env!("CARGO_BIN_EXE_config-hello");

fn write(file: &Path, more: &str) {
    write_with("127.0.0.1:0", file, more);
}

fn write_with(http: &str, file: &Path, more: &str) {
    let text = format!("http = {http:?}\ngreeting = \"Hello\"\n{more}\n");
    fs::write(file, text).expect("it can be written");
}

fn service() -> Service {
    let command = Service::of(PROGRAM);
    let file = command.path("hello.toml");
    write(&file, "drain_timeout = \"1m\"");
    command.args(["serve", "--file", "hello.toml"]).start()
}

#[test]
fn no_request_is_lost() {
    load::http_across_upgrades(service(), Version::Http1);
}

#[test]
fn a_broken_file_fails_the_upgrade_and_a_mended_one_does_not() {
    let mut service = service();
    let file = service.path("hello.toml");
    for (more, reason) in [
        ("overlap = \"never\"", "`never`: expected one of refuse, wait, hasten"),
        ("drain = \"1m\"", "unknown field `drain`, expected one of `http`, `greeting`,"),
        ("drain_timeout = \"1\"", "option `drain_timeout`: `1` is not a duration such as"),
        ("greeting = 1", "duplicate key"),
    ] {
        write(&file, more);
        let told = service.refused_upgrade();
        assert!(told.starts_with("the successor could not start: "), "{told}");
        assert!(told.contains(reason), "{told}");
        // The file, and the place in it.
        let is_of_the_file = more != "drain_timeout = \"1\"";
        let place = "hello.toml: TOML parse error at line 3, column";
        assert_eq!(told.contains(place), is_of_the_file, "{told}");
    }
    fs::remove_file(&file).expect("it is there");
    let told = service.refused_upgrade();
    assert!(told.contains("hello.toml: No such file"), "{told}");

    let before = service.pid();
    write(&file, "overlap = \"wait\"");
    assert_ne!(service.upgrade(), before);

    // The service has a name, so a file may move its only listener.
    write_with("127.0.0.2:0", &file, "");
    service.upgrade();
    assert_eq!(service.address("http").ip().to_string(), "127.0.0.2");
    service.stop();
}

/// Runs the program to its end, with the address that it would bind in use, and a pid file that it would write.
fn run(arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let used = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (file, pidfile) = (dir.path().join("hello.toml"), dir.path().join("pid"));
    let address = used.local_addr().expect("it is bound");
    let text = format!("http = \"{address}\"\ngreeting = \"Hello\"\npidfile = {pidfile:?}\n");
    fs::write(&file, text).expect("it can be written");
    let output =
        Command::new(PROGRAM).args(arguments).current_dir(dir.path()).output().expect("it is started");
    let files: Vec<_> =
        fs::read_dir(dir.path()).expect("a directory").map(|entry| entry.expect("a file").path()).collect();
    assert_eq!(files, [file], "{arguments:?}");
    output
}

#[test]
fn help_a_bad_flag_and_another_subcommand_bind_nothing() {
    for (arguments, status, stdout, stderr) in [
        (&["--help"][..], 0, "Brings the data into the form of this release", ""),
        (&["serve", "--help"], 0, "--file <FILE>", ""),
        (&["migrate", "--dry-run"], 0, "migrated, dry run: true\n", ""),
        (&["serve", "--flie", "hello.toml"], 2, "", "unexpected argument '--flie' found"),
        (&["migrated"], 2, "", "unrecognized subcommand 'migrated'"),
        // The counterpart: this one binds.
        (&["serve", "--file", "hello.toml"], 1, "", "cannot bind tcp://127.0.0.1:"),
    ] {
        let output = run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {out}{err}");
        assert!(out.contains(stdout) && err.contains(stderr), "{arguments:?}: {out}{err}");
    }
}
