//! A service as a user writes it: with the attribute, without a subscriber for its events. The test learns only what a client sees.

use std::fs;

use crate::harness::{Command, Dir, Exit, Service, Signal};

/// The process that the pid file names, once it is another one than `before`.
fn wait_for_pidfile(dir: &Dir, service: &Service, before: Option<u32>) -> u32 {
    dir.wait_until("a pid file of another process", || service.pidfile().filter(|pid| Some(*pid) != before))
}

fn command<'a>(dir: &'a Dir, binary: &str) -> Command<'a> {
    let echo = format!("unix://{}", dir.join("echo").display());
    let command = dir.command(dir.join(binary)).env("TABLEFLIP_LISTEN_ECHO", echo);
    command.env("TABLEFLIP_PROBATION", "50ms")
}

/// One whose body takes its listener at run time.
fn start_at_run_time(dir: &Dir, flavor: &str) -> Service {
    dir.copy(env!("CARGO_BIN_EXE_at_run_time"), "svc");
    command(dir, "svc").arg(flavor).start()
}

fn start(dir: &Dir, binary: &str) -> Service {
    command(dir, binary).start()
}

#[test]
fn a_service_of_ten_lines() {
    let dir = Dir::new();
    dir.copy(env!("CARGO_BIN_EXE_ten_lines"), "svc");
    let service = start(&dir, "svc");
    lives_through_an_upgrade(&dir, &service);
}

/// Its body has the declared listener by name, whatever address the environment gives it; and so has the next one's.
#[test]
fn a_service_that_takes_its_listener_at_run_time() {
    for flavor in ["tasks", "threads"] {
        let dir = Dir::new();
        let service = start_at_run_time(&dir, flavor);
        lives_through_an_upgrade(&dir, &service);
    }
}

#[test]
fn a_successor_that_does_not_take_its_listener_leaves_the_old_one_serving() {
    for flavor in ["tasks", "threads"] {
        let dir = Dir::new();
        let service = start_at_run_time(&dir, flavor);
        let pid = wait_for_pidfile(&dir, &service, None);
        fs::write(dir.join("forget"), "").unwrap();
        service.first().signal(Signal::HUP);
        let failed = format!(
            "tableflip: [generation 1, pid {pid}] upgrade failed: the successor could not start: listener `echo`: it is \
             declared, and the body does not take it; it was process "
        );
        dir.wait_until("line on stderr", || service.log().contains(&failed).then_some(()));
        assert_eq!(service.connect_unix("echo").ask("hello"), "hello");
        assert_eq!(service.pidfile(), Some(pid));
    }
}

/// B3: whatever the body is declared by, and whatever its type is called.
#[test]
fn b3_the_error_that_a_body_returns_is_the_reason() {
    for flavor in ["tasks", "threads", "doubt", "builder"] {
        let dir = Dir::new();
        let service = start_at_run_time(&dir, flavor);
        let pid = wait_for_pidfile(&dir, &service, None);
        fs::write(dir.join("fail"), "").unwrap();
        service.first().signal(Signal::HUP);
        let failed = format!(
            "tableflip: [generation 1, pid {pid}] upgrade failed: the successor could not start: the body returned before it was \
             ready: \"no /etc/v.toml\"; it was process "
        );
        dir.wait_until("line on stderr", || service.log().contains(&failed).then_some(()));
        assert_eq!(service.pidfile(), Some(pid), "{flavor}");
    }
}

fn lives_through_an_upgrade(dir: &Dir, service: &Service) {
    let first = wait_for_pidfile(dir, service, None);
    assert_eq!(first, service.first().pid());
    let mut before = service.connect_unix("echo");
    assert_eq!(before.ask("hello"), "hello");

    service.first().signal(Signal::HUP);
    let second = wait_for_pidfile(dir, service, Some(first));
    let second = service.process(second);
    let mut after = service.connect_unix("echo");
    assert_eq!(after.ask("hello"), "hello");
    assert_eq!(before.ask("still there?"), "still there?");
    drop(before);
    assert_eq!(service.first().exit(), Exit::Status(0));
    assert_eq!(after.ask("and you?"), "and you?");
    drop(after);

    second.signal(Signal::TERM);
    assert_eq!(second.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
    assert_eq!(service.pidfile(), None);
    assert!(!dir.join("echo").exists());
    assert_eq!(service.log(), "", "there was nothing to complain of");
}

/// P10. Without a subscriber there is stderr for what an operator has to know, one line each.
#[test]
fn what_goes_wrong_is_on_stderr() {
    let dir = Dir::new();
    let binary = dir.copy(env!("CARGO_BIN_EXE_ten_lines"), "svc");
    let service = start(&dir, "svc");
    let pid = wait_for_pidfile(&dir, &service, None);
    fs::rename(dir.copy("/bin/false", "bad"), &binary).unwrap();
    service.first().signal(Signal::HUP);
    let begin = format!(
        "tableflip: [generation 1, pid {pid}] upgrade failed: the successor exited with status 1 before it served; it was \
         process "
    );
    dir.wait_until("line on stderr", || service.log().ends_with('\n').then_some(()));
    let log = service.log();
    let rest = log.strip_prefix(&begin).unwrap_or_else(|| panic!("{log}"));
    let (successor, rest) = rest.split_once("; ").unwrap();
    assert!(successor.parse::<u32>().is_ok_and(|successor| successor != pid), "{log}");
    assert_eq!(rest, "this process serves on\n");
    assert_eq!(service.connect_unix("echo").ask("hello"), "hello");
    assert_eq!(service.pidfile(), Some(pid));
}

/// The configuration file of the service `configured`.
fn configure(dir: &Dir, text: &str) {
    fs::write(dir.join("svc.conf"), text).unwrap();
}

fn configured<'a>(dir: &'a Dir, argument: &str) -> Command<'a> {
    dir.copy(env!("CARGO_BIN_EXE_configured"), "svc");
    dir.command(dir.join("svc")).arg(argument)
}

#[test]
fn an_upgrade_takes_the_configuration_of_that_moment() {
    let dir = Dir::new();
    configure(&dir, "echo echo\ngreeting hello\n");
    let service = configured(&dir, "svc.conf").start();
    let first = wait_for_pidfile(&dir, &service, None);
    assert_eq!(service.connect_unix("echo").ask("?"), "hello");
    configure(&dir, "greeting good day\necho echo\n");
    service.first().signal(Signal::HUP);
    wait_for_pidfile(&dir, &service, Some(first));
    assert_eq!(service.connect_unix("echo").ask("?"), "good day");
    // The program that the successor executed had the channel to the predecessor no more than that of the first process.
    let children = fs::read_to_string(dir.join("children")).unwrap();
    let (of_first, of_successor) = children.trim_end().split_once('\n').unwrap();
    assert_eq!(of_successor, of_first);
}

/// A program that lives on would keep the listener open after the end of the service.
#[test]
fn a_program_that_the_configuration_executes_has_no_descriptor_that_was_passed() {
    let children = |script: &str| {
        let dir = Dir::new();
        configure(&dir, "echo echo\ngreeting hello\n");
        let service = configured(&dir, "svc.conf").started_by("/bin/sh", &["-c", script]).start();
        wait_for_pidfile(&dir, &service, None);
        fs::read_to_string(dir.join("children")).unwrap()
    };
    let without = children("exec \"$0\" \"$@\"");
    assert_eq!(children("exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\""), without);
    assert_eq!(children("exec 3</dev/null; LISTEN_FDS=1 exec \"$0\" \"$@\""), without);
    assert_ne!(
        children("exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=1 exec \"$0\" \"$@\""),
        without,
        "it is another's"
    );
}

#[test]
fn an_upgrade_fails_for_the_error_of_the_configuration() {
    for (text, problem) in [
        (Some("echo echo\n"), "there is no `greeting`"),
        (Some("greeting hello\n"), "there is no `echo`"),
        (None, "cannot read svc.conf: No such file or directory (os error 2)"),
        (Some("panic"), "the configuration panicked: no sense in panic"),
    ] {
        let dir = Dir::new();
        configure(&dir, "echo echo\ngreeting hello\n");
        let service = configured(&dir, "svc.conf").start();
        let pid = wait_for_pidfile(&dir, &service, None);
        match text {
            Some(text) => configure(&dir, text),
            None => fs::remove_file(dir.join("svc.conf")).unwrap(),
        }
        service.first().signal(Signal::HUP);
        let failed = format!(
            "tableflip: [generation 1, pid {pid}] upgrade failed: the successor could not start: {problem}; it was process "
        );
        dir.wait_until("line on stderr", || service.log().contains(&failed).then_some(()));
        assert!(
            service.log().contains(&format!("tableflip: cannot start: {problem}\n")),
            "{}",
            service.log()
        );
        assert_eq!(service.connect_unix("echo").ask("?"), "hello");
        assert_eq!(service.pidfile(), Some(pid));
    }
}

#[test]
fn a_start_without_a_configuration_binds_nothing() {
    for (argument, exit, said) in [
        ("--help", 0, ""),
        (
            "nothing.conf",
            1,
            "tableflip: cannot start: cannot read nothing.conf: No such file or directory (os error 2)\n",
        ),
    ] {
        let dir = Dir::new();
        let service = configured(&dir, argument).start();
        assert_eq!(service.first().exit(), Exit::Status(exit));
        service.wait_until_all_are_gone();
        assert_eq!(service.log(), said);
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["log", "svc"]);
    }
}
