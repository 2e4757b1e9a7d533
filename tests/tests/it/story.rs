//! The log of an upgrade at `info`, of both processes, as an operator reads it afterwards.

use std::io::Write;
use std::net::TcpStream;

use rustix::fs::{CWD, Mode, OFlags};

use crate::harness::{Client, Dir, Exit, Process, Service, Signal, Strace, strace_or_skip};
use crate::limits::{leave_no_descriptor, limit_files};

/// The lines of the harness at `info` and above, without times of day: numbers of processes have a name, and durations are `TIME`.
fn story(service: &Service, processes: &[(&Process, &str)]) -> Vec<String> {
    let log = service.log();
    let told = log.lines().filter_map(|line| {
        let (level, event) = line.split_once(' ')?.1.trim_start().split_once(" tableflip: ")?;
        (level != "DEBUG").then(|| format!("{level} {event}"))
    });
    told.map(|line| line.split(' ').map(|word| named(word, processes)).collect::<Vec<_>>().join(" "))
        .collect()
}

fn named(word: &str, processes: &[(&Process, &str)]) -> String {
    let Some((field, value)) = word.split_once('=') else { return word.to_owned() };
    let process = processes.iter().find(|(process, _)| process.pid().to_string() == value);
    match (field, process) {
        (_, Some((_, name))) => format!("{field}={name}"),
        ("check", None) => "check=CHECK".to_owned(),
        ("elapsed", None) => "elapsed=TIME".to_owned(),
        ("executable", None) => "executable=PATH".to_owned(),
        _ => word.to_owned(),
    }
}

fn assert_reads(told: &[String], expected: &[&str]) {
    println!("{}", told.join("\n"));
    assert_eq!(told, expected);
}

#[test]
fn an_upgrade_reads_as_a_story_of_both_processes() {
    let dir = Dir::new();
    let (service, old) = dir.victim().env("TABLEFLIP_PREFLIGHT", "echo fine").serve();
    let new = service.upgrade(&old);
    service.wait(&new, "alone");
    assert_eq!(old.exit(), Exit::Status(0));
    assert_reads(
        &story(&service, &[(&old, "OLD"), (&new, "NEW")]),
        &[
            r#"INFO serving generation=1 pid=OLD phase="serving" listeners=1 version="7.7.7""#,
            r#"INFO checking the release generation=1 pid=OLD phase="checking" check=CHECK command="echo fine""#,
            r#"INFO the release passed the check generation=1 pid=OLD phase="checking" output="fine""#,
            r#"INFO started a successor generation=1 pid=OLD phase="upgrading" successor=NEW executable=PATH"#,
            r#"INFO ready generation=2 pid=NEW phase="prepared""#,
            r#"INFO the successor is ready generation=1 pid=OLD phase="handing-over" successor=NEW"#,
            r#"INFO serving generation=2 pid=NEW phase="serving" listeners=1 version="7.7.7""#,
            r#"INFO the successor serves generation=1 pid=OLD phase="standby" successor=NEW elapsed=TIME"#,
            r#"INFO upgraded generation=1 pid=OLD phase="draining" successor=NEW elapsed=TIME from="7.7.7" to="7.7.7" executable=PATH"#,
            r#"INFO draining generation=1 pid=OLD phase="draining" open=0 timeout=1h"#,
            r#"INFO exiting generation=1 pid=OLD phase="ended""#,
            r#"INFO the predecessor is gone generation=2 pid=NEW predecessor=OLD phase="alone""#,
        ],
    );
}

/// The last word is what failed, why, and who serves.
#[test]
fn a_failure_ends_with_the_reason_and_with_who_serves() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    service.plan("init panic disk-is-full");
    old.signal(Signal::HUP);
    service.wait_for_failure(&old);
    let new = service.next_process();
    let failed = format!(
        "ERROR upgrade failed: the successor could not start: the body panicked: disk-is-full; it was process {}; this \
         process serves on generation=1 pid=OLD",
        new.pid()
    );
    assert_reads(
        &story(&service, &[(&old, "OLD"), (&new, "NEW")])[1..],
        &[
            r#"INFO started a successor generation=1 pid=OLD phase="upgrading" successor=NEW executable=PATH"#,
            "ERROR cannot start: the body panicked: disk-is-full generation=2 pid=NEW",
            r#"INFO exiting generation=2 pid=NEW phase="ended""#,
            &failed,
        ],
    );

    // One that has served, and is killed on probation.
    let new = service.upgrade(&old);
    new.kill();
    service.wait_for_failure(&old);
    let told = story(&service, &[(&old, "OLD"), (&new, "NEW")]);
    let last = format!(
        "ERROR upgrade failed: the successor was killed by SIGKILL in its probation; it was process {}; this process \
         serves on generation=1 pid=OLD",
        new.pid()
    );
    assert_eq!(told.last().unwrap(), &last);
    // One that is refused.
    let new = service.upgrade(&old);
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused");
    let told = story(&service, &[(&old, "OLD"), (&new, "NEW")]);
    assert_eq!(told.last().unwrap(), "WARN upgrade refused: an upgrade is in progress generation=1 pid=OLD");
}

/// Of whatever an event tells, and of a connection as well.
#[test]
fn every_line_has_the_generation_and_the_process() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen("http", "tcp://127.0.0.1:0").awaits_shutdown().serve();
    let mut garbage = TcpStream::connect(service.address("http")).expect("it listens");
    garbage.write_all(b"this is not HTTP\r\n\r\n").expect("it reads");
    let ended_early = "an HTTP connection ended early generation=1";
    dir.wait_until("the end of the connection", || service.log().contains(ended_early).then_some(()));
    let new = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    new.signal(Signal::TERM);
    assert_eq!(new.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
    let log = service.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains(" tableflip: ")).collect();
    assert!(told.len() > 20, "{log}");
    for line in told {
        let both =
            [(1, &old), (2, &new)].map(|(n, process)| format!(" generation={n} pid={}", process.pid()));
        assert!(both.iter().any(|both| line.contains(both)), "{line}");
    }
}

/// A service without a subscriber, and the beginning of its lines on stderr.
fn mute(dir: &Dir) -> (Service, String) {
    let echo = format!("unix://{}", dir.join("echo").display());
    let service = dir.command(env!("CARGO_BIN_EXE_ten_lines")).env("TABLEFLIP_LISTEN_ECHO", echo).start();
    dir.wait_until("a pid file", || service.pidfile());
    let begin = format!("tableflip: [generation 1, pid {}] ", service.first().pid());
    (service, begin)
}

/// It tries again every 50 ms, and says so once.
#[test]
fn a_shortage_of_descriptors_is_on_stderr_once() {
    let dir = Dir::new();
    let (service, begin) = mute(&dir);
    let mut first = service.connect_unix("echo");
    assert_eq!(first.ask("hello"), "hello");
    // Up to the end: what it closes later would be room for one more.
    first.close();
    for _ in 0..3 {
        leave_no_descriptor(service.first());
        let mut waiting = service.connect_unix("echo");
        dir.wait_until("a line on stderr", || service.log().ends_with('\n').then_some(()));
        limit_files(service.first(), None);
        assert_eq!(waiting.ask("hello"), "hello");
        waiting.close();
    }
    let line = "listener `echo`: cannot accept for now: Too many open files (os error 24)\n";
    assert_eq!(service.log(), format!("{begin}{line}"));
}

/// `axum::serve` has no way to end by an error, and tries again every second.
#[test]
fn a_useless_listener_of_axum_is_told_of_once() {
    let Some(Strace) = strace_or_skip() else { return };
    let dir = Dir::new();
    let inject = "inject=accept4:error=EBADF:when=1..2";
    let arguments = ["-f", "-D", "-qq", "-e", "trace=accept4", "-e", inject, "-o", "/dev/null"];
    let command = dir.victim().no_listeners().listen("axum", "tcp://127.0.0.1:0").current_thread();
    let (service, victim) = command.started_by("strace", &arguments).serve();
    let mut client = TcpStream::connect(service.address("axum")).expect("it listens");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it reads");
    let answer = std::io::read_to_string(&client).expect("an answer");
    assert!(answer.contains(&victim.pid().to_string()), "{answer}");
    let log = story(&service, &[(&victim, "VICTIM")]);
    let complaints: Vec<_> = log.iter().filter(|line| !line.starts_with("INFO")).collect();
    let line = "ERROR listener `axum`: cannot accept for now: Bad file descriptor (os error 9) generation=1 pid=VICTIM";
    assert_eq!(complaints, [line]);
}

/// A pipe that nobody reads, as that of a log shipper that hangs.
#[test]
fn a_stderr_that_takes_nothing_holds_nothing_up() {
    let dir = Dir::new();
    let pipe = dir.join("full");
    rustix::fs::mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).expect("a FIFO");
    // For reading as well, so that the open does not wait for anybody.
    let pipe = rustix::fs::open(&pipe, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).expect("it is there");
    while rustix::io::write(&pipe, &[b'.'; 4096]).is_ok() {}
    let (echo, control) = (dir.join("echo"), dir.join("control"));
    let command = dir.command(env!("CARGO_BIN_EXE_ten_lines"));
    let command = command.env("TABLEFLIP_LISTEN_ECHO", format!("unix://{}", echo.display()));
    let command = command.env("TABLEFLIP_CONTROL", &control).env("TABLEFLIP_PREFLIGHT", "false");
    let service = command.started_by("sh", &["-c", "exec \"$0\" 2<>full"]).start();
    dir.wait_until("a pid file", || service.pidfile());
    for _ in 0..2 {
        let mut operator = Client::unix(&control);
        operator.send_command("upgrade");
        let mut answers = std::iter::repeat_with(|| operator.reply());
        let outcome = answers.find(|answer| answer["reply"] != "phase").expect("replies do not end");
        let message = outcome["message"].as_str().unwrap_or_default();
        assert!(message.contains("the preflight command exited with status 1"), "{outcome}");
    }
    assert_eq!(service.connect_unix("echo").ask("hello"), "hello");
    service.first().signal(Signal::TERM);
    assert_eq!(service.first().exit(), Exit::Status(0));
}

/// A thread may hold std's lock of stderr for as long as it likes: a dump that is slow, or a thread that hangs in the middle of
/// one.
#[test]
fn b10_a_thread_that_has_the_lock_of_stderr_keeps_no_signal_from_working() {
    let dir = Dir::new();
    let service = dir.command(env!("CARGO_BIN_EXE_plain")).env("TABLEFLIP_PREFLIGHT", "false").start();
    dir.wait_until("pid file", || dir.join("declared.pid").exists().then_some(()));
    let status = service.connect_unix("declared.control").ask_command("status");
    let address = status["listeners"][0]["address"].as_str().and_then(|it| it.strip_prefix("tcp://"));
    let mut client = Client::tcp(address.expect("it has one"));
    assert_eq!(client.ask("lock-stderr"), "locked");
    let outcome = client.ask("upgrade-blocking");
    assert!(outcome.contains("the preflight command exited with status 1"), "{outcome}");
    client.close();
    service.first().signal(Signal::TERM);
    assert_eq!(service.first().exit(), Exit::Status(0));
    let log = service.log();
    assert!(log.contains("upgrade failed: the preflight command exited with status 1"), "{log}");
}

/// Both are of the start, where there can be no subscriber yet.
#[test]
fn what_a_start_does_without_is_on_stderr() {
    let dir = Dir::new();
    let pidfile = dir.join("a".repeat(100)).with_extension("pid");
    let echo = format!("unix://{}", dir.join("echo").display());
    let command = dir.command(env!("CARGO_BIN_EXE_ten_lines")).env("TABLEFLIP_LISTEN_ECHO", echo);
    let command = command.env("TABLEFLIP_PIDFILE", &pidfile).env("NOTIFY_SOCKET", "/nowhere/notify");
    let service = command.start();
    dir.wait_until("both lines", || (service.log().matches('\n').count() >= 2).then_some(()));
    assert_eq!(service.connect_unix("echo").ask("hello"), "hello");
    service.first().signal(Signal::TERM);
    assert_eq!(service.first().exit(), Exit::Status(0));
    let begin = format!("tableflip: [generation 1, pid {}]", service.first().pid());
    let log = service.log();
    let lines: Vec<_> = log.lines().collect();
    let untold = "no service manager is told: NOTIFY_SOCKET=\"/nowhere/notify\": No such file or directory (os error 2)";
    assert_eq!(lines[0], format!("{begin} {untold}"));
    let without = format!("{begin} there is no control socket beside the pid file: ");
    assert!(lines.len() == 2 && lines[1].starts_with(&without), "{log}");
}
