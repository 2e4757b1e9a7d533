//! Variables with the prefix of the crate that are garbled, unknown or left over: each stops the start with one line that
//! names it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use crate::harness::{Command, Dir, Exit, Process, Service};

/// Starts a service that cannot start; returns the line that it said on stderr.
#[track_caller]
fn refusal(command: Command<'_>, dir: &Dir) -> String {
    let log = dir.join("log");
    // One directory may see several starts.
    match std::fs::remove_file(&log) {
        Ok(()) | Err(_) => {}
    }
    let service = command.start();
    assert_eq!(service.first().exit(), Exit::Status(1), "{}", service.log());
    service.wait_until_all_are_gone();
    assert!(!service.has_said(service.first(), "init"), "its body ran");
    assert_eq!(service.pidfile(), None);
    let log = service.log();
    assert_eq!(log.lines().count(), 1, "one line says it: {log}");
    let line = log.trim_end().to_owned();
    assert!(line.starts_with("tableflip: cannot start: "), "{line}");
    line
}

/// A variable with a value that cannot be used, and words that its refusal has.
#[track_caller]
fn assert_refused(name: impl AsRef<OsStr>, value: impl AsRef<OsStr>, words: &[&str]) {
    let dir = Dir::new();
    let line = refusal(dir.victim().env(&name, value), &dir);
    for word in words.iter().copied().chain(name.as_ref().to_str()) {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
}

#[test]
fn a_garbled_value_is_refused_by_the_name_of_its_variable() {
    for name in ["TABLEFLIP_UPGRADE_TIMEOUT", "TABLEFLIP_PROBATION", "TABLEFLIP_DRAIN_TIMEOUT"] {
        assert_refused(name, "soon", &["soon", "30s"]);
        // A number without a unit would be a guess.
        assert_refused(name, "30", &["`30`"]);
        assert_refused(name, "-1s", &["`-1s`"]);
        assert_refused(name, "", &["``"]);
        assert_refused(name, "99999999999999999999s", &[]);
        assert_refused(name, OsString::from_vec(b"1\xff".to_vec()), &["is not UTF-8"]);
    }
    assert_refused("TABLEFLIP_UPGRADE_SIGNAL", "SIGKILL", &["SIGKILL", "SIGHUP", "SIGUSR2"]);
    assert_refused("TABLEFLIP_UPGRADE_SIGNAL", "1", &["SIGHUP"]);
    assert_refused("TABLEFLIP_LISTEN_ECHO", "127.0.0.1:http", &["127.0.0.1:http"]);
    assert_refused("TABLEFLIP_LISTEN_ECHO", "", &[]);
    assert_refused("TABLEFLIP_LISTEN_ECHO", "tcp://127.0.0.1:1?backlog=many", &["backlog"]);
}

#[test]
fn a_pid_file_that_is_none_is_refused_by_the_name_of_its_variable() {
    assert_refused("TABLEFLIP_PIDFILE", "/", &[]);
    assert_refused("TABLEFLIP_PIDFILE", "..", &[]);
    assert_refused("TABLEFLIP_PIDFILE", "", &[]);
}

#[test]
fn a_variable_that_means_nothing_is_refused() {
    // A typing error is the most likely cause, so what there is is said as well.
    assert_refused("TABLEFLIP_FOO", "1", &["unknown", "TABLEFLIP_PIDFILE", "TABLEFLIP_LISTEN_ECHO"]);
    assert_refused("TABLEFLIP_PROBATON", "1s", &["unknown", "TABLEFLIP_PROBATION"]);
    assert_refused("TABLEFLIP_LISTEN_OTHER", "127.0.0.1:0", &["unknown"]);
    assert_refused("TABLEFLIP_", "", &["unknown"]);
    assert_refused(OsString::from_vec(b"TABLEFLIP_\xff".to_vec()), "1", &["unknown", "TABLEFLIP_"]);
}

#[test]
fn a_stray_handover_is_refused() {
    const NAME: &str = "TABLEFLIP_HANDOVER";
    for value in ["banana", "-1", "99999999999", "", "7 ", "3.5", "0x7"] {
        assert_refused(NAME, value, &[&format!("{value:?}"), "not the number of a descriptor", "unset it"]);
    }
    assert_refused(NAME, OsString::from_vec(b"7\xff".to_vec()), &["not the number of a descriptor"]);
    // Nothing that is started from a test has this many, and the standard streams are not a channel.
    for value in ["999", "70000", "0", "1", "2"] {
        assert_refused(NAME, value, &[&format!("{value:?}"), "no such descriptor", "unset it"]);
    }
}

/// As LISTEN_PID does. A child of a service with several threads finds the variable.
#[test]
fn b11_what_is_for_another_process_is_passed_over() {
    for variable in ["TABLEFLIP_HANDOVER", "TABLEFLIP_SUPERVISOR"] {
        let dir = Dir::new();
        let (service, process) = dir.victim().env(variable, "999:1").serve();
        assert_eq!(service.connect().who(), (1, process.pid()));
        let new = service.upgrade(&process);
        assert_eq!(service.connect().who(), (2, new.pid()));
        let script = format!("export {variable}=999:$$; exec \"$@\"");
        let dir = Dir::new();
        let line = refusal(dir.victim().started_by("sh", &["-c", &script, "sh"]), &dir);
        assert!(line.contains("no such descriptor"), "{line}");
    }
}

/// C code may read the environment in another thread: with one, nothing is removed. A child finds the variables, and they
/// name their addressee.
#[test]
fn b11_the_environment_of_a_process_with_threads_stays_as_it_is() {
    let dir = Dir::new();
    let found = |service: &Service, process: &Process| {
        assert_eq!(service.connect().ask("do run found env"), "done");
        service.wait(process, "ran");
        let text = std::fs::read_to_string(dir.join("found")).unwrap();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        (value("TABLEFLIP_HANDOVER="), value("LISTEN_PID="), value("LISTEN_FDS="))
    };
    let one = "1".to_owned();
    let command = dir.victim().env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let (service, old) = command.plan("main thread").serve();
    assert_eq!(found(&service, &old), (None, Some(one.clone()), Some(one)));
    service.plan("main thread");
    let new = service.upgrade(&old);
    let (handover, pid, fds) = found(&service, &new);
    let handover = handover.expect("it is left");
    assert!(handover.ends_with(&format!(":{}", new.pid())), "{handover}");
    assert_eq!((pid, fds), (None, None), "a successor does not get them");
    service.wait(&new, "alone");
    let third = service.upgrade(&new);
    assert_eq!(found(&service, &third), (None, None, None), "it has one thread");
    // A service that the body starts is the first of its kind.
    let inner = dir.victim().env("TABLEFLIP_HANDOVER", handover);
    drop(service);
    let (service, process) = inner.serve();
    assert_eq!(service.connect().who(), (1, process.pid()));
}

/// A descriptor of that number there is, but it is not a channel, or there is nobody on its other end.
#[test]
fn a_stray_handover_of_another_descriptor_is_refused() {
    let dir = Dir::new();
    std::fs::write(dir.join("plain"), "").unwrap();
    let start = |kind: &str, argument: &str| {
        let command =
            dir.victim().binary(env!("CARGO_BIN_EXE_with_channel")).arg(kind).arg(dir.join(argument));
        let line = refusal(command.arg(env!("CARGO_BIN_EXE_victim")), &dir);
        assert!(line.contains("`TABLEFLIP_HANDOVER`") && line.contains("unset it"), "{line}");
        line
    };
    for kind in ["file", "stream", "internet"] {
        let line = start(kind, "plain");
        assert!(line.contains("the descriptor is not a handover channel"), "{line}");
    }
    let line = start("closed", "-");
    assert!(line.contains("its other end is closed"), "{line}");
}

/// A11. It would have two owners, each of whom closes it.
#[test]
fn a11_one_descriptor_of_two_variables_is_refused() {
    let dir = Dir::new();
    for (kind, variable) in [("twice", "TABLEFLIP_SUPERVISOR"), ("listen", "LISTEN_FDS")] {
        let command = dir.victim().binary(env!("CARGO_BIN_EXE_with_channel")).arg(kind).arg("-");
        let line = refusal(command.arg(env!("CARGO_BIN_EXE_victim")), &dir);
        let first = format!("environment variable `{variable}`: ");
        assert!(line.contains(&first) && line.contains("is that of `TABLEFLIP_HANDOVER`"), "{line}");
    }
}
