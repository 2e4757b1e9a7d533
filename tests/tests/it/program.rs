//! The program `tableflip` against real services: its exit status, its output, and what it never does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::harness::terminal::terminal;
use crate::harness::{Dir, Exit, Process, Root, Service, Signal, names_in, root_or_skip};
use crate::look;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tableflip-program");

/// What a run has come to.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
        let status = output.status.code().expect("it exits");
        Self { status, out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    /// It ended like this, and said why in one line.
    #[track_caller]
    pub(crate) fn failed(&self, status: i32, reason: &str) {
        let Self { out, err, .. } = self;
        assert_eq!(self.status, status, "{out}{err}");
        let last = err.lines().last().unwrap_or_default();
        assert!(last.starts_with("tableflip: ") && last.contains(reason), "{err}");
    }

    #[track_caller]
    pub(crate) fn done(&self) -> &str {
        let Self { status, out, err } = self;
        assert_eq!(*status, 0, "{out}{err}");
        out
    }
}

pub(crate) fn command(dir: &Dir, line: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.current_dir(dir.path()).args(line.split(' ')).stdin(Stdio::null());
    command
}

/// Runs it in the directory of the test, where the pid file is `pid` and the control socket `pid.control`.
pub(crate) fn run(dir: &Dir, line: &str) -> Ran {
    command(dir, line).output().expect("it runs").into()
}

/// Starts it, for a test that has something to do meanwhile.
pub(crate) fn start(dir: &Dir, line: &str) -> Child {
    command(dir, line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

pub(crate) fn end(child: Child) -> Ran {
    child.wait_with_output().expect("it ends").into()
}

pub(crate) fn controlled(dir: &Dir) -> (Service, Process) {
    dir.victim().env("TABLEFLIP_CONTROL", "pid.control").serve()
}

#[test]
fn done_is_0() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let upgraded = run(&dir, "upgrade pid");
    let new = service.next_process();
    let expected = format!("upgraded to generation 2, process {}, which served after ", new.pid());
    assert!(upgraded.done().starts_with(&expected), "{}", upgraded.out);
    for said in [format!("process {} initialises", new.pid()), "serves, on probation".to_owned()] {
        assert!(upgraded.err.contains(&said), "{}", upgraded.err);
    }
    assert_eq!(old.exit(), Exit::Status(0));

    // By the path of the control socket as well.
    let status = run(&dir, "status pid.control");
    let first = format!("generation 2, process {}: serving, up for ", new.pid());
    assert!(status.done().starts_with(&first), "{}", status.out);
    for row in
        ["version      7.7.7\n", "upgrades     1 done, 0 refused, 0 failed", "open         0 in generation 2"]
    {
        assert!(status.out.contains(row), "{}", status.out);
    }
    let metrics = run(&dir, "status --prometheus pid");
    for sample in [
        "tableflip_generation 2\n",
        "tableflip_upgrades_done_total 1\n",
        "tableflip_taken_total{listener=\"echo\"} 0\n",
    ] {
        assert!(metrics.done().contains(sample), "{}", metrics.out);
    }

    assert_eq!(run(&dir, "stop pid").done(), format!("process {} is gone\n", new.pid()));
    assert!(new.has_exited(), "it was waited for");
    assert!(!names_in(dir.path()).iter().any(|name| name.starts_with("pid")), "nothing is left");
}

/// The new release is at fault, or the operator's own check; the old process serves.
#[test]
fn refused_or_failed_is_1() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    service.plan("init panic no-configuration");
    let ran = run(&dir, "upgrade pid");
    let new = service.next_process();
    let pid = new.pid();
    let reason =
        format!("the successor could not start: the body panicked: no-configuration; it was process {pid}");
    ran.failed(1, &reason);
    assert_eq!(new.exit(), Exit::Reaped);
    let status = run(&dir, "status pid");
    assert!(status.done().contains(&format!("last failure {reason}\n")), "{}", status.out);

    let check = |script: &str| {
        let mut program = command(&dir, "upgrade pid --check");
        Ran::from(program.arg(script).output().expect("it runs"))
    };
    check("echo no disk; test -x \"$0\" && exit 3")
        .failed(1, "the check exited with status 3: no disk; no upgrade was asked for");
    assert!(!service.has_said(&old, "standby"), "it has heard of one upgrade, which failed");
    check("test -x \"$0\"").done();
    assert_eq!(old.exit(), Exit::Status(0));
}

/// The stop comes while the operator's check runs. Whoever calls later finds no control socket: it is gone with the listeners.
#[test]
fn a_service_that_stops_refuses_an_upgrade_with_1() {
    let dir = Dir::new();
    let gate = dir.gate("check");
    let (service, old) = controlled(&dir);
    let open = service.open(&old);
    let mut upgrade = command(&dir, "upgrade pid --check");
    upgrade.arg("echo >checks; head -c 1 <gate-check").stdout(Stdio::piped()).stderr(Stdio::piped());
    let upgrading = upgrade.spawn().expect("it runs");
    dir.wait_until("check", || dir.join("checks").exists().then_some(()));
    old.signal(Signal::TERM);
    service.wait_for(&old, "draining", "open=1");
    gate.open();
    end(upgrading).failed(1, "tableflip: this process is terminating");
    run(&dir, "upgrade --timeout 300ms pid")
        .failed(5, "only its log says whether the upgrade was refused, failed or goes on, and why");
    // Both are refused, and the second line is left out.
    service.wait_for(&old, "error", "upgrade refused: this process is terminating");
    drop(open);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// D1: in the preparation of the body as well as in the body.
#[test]
fn d1_a_start_is_answered() {
    for plan in ["prepare block", "init block"] {
        let dir = Dir::new();
        let service = dir.victim().env("TABLEFLIP_CONTROL", "pid.control").plan(plan).start();
        let first = service.next_process();
        service.wait(&first, "blocked");
        let status = run(&dir, "status pid");
        let begin = format!("generation 1, process {}: starting, up for ", first.pid());
        assert!(status.done().starts_with(&begin), "{}", status.out);
        assert!(status.out.contains("\nnot served   echo\n"), "{}", status.out);
        run(&dir, "upgrade pid").failed(1, "this process is not ready yet");
        assert_eq!(run(&dir, "stop pid").done(), format!("process {} is gone\n", first.pid()));
        assert_eq!(first.exit(), Exit::Status(0));
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    let dir = Dir::new();
    for line in [
        "",
        "dance",
        "upgrade",
        "upgrade pid --timeout 3",
        "upgrade pid --signal HUP",
        "status pid --json --prometheus",
    ] {
        let ran = run(&dir, line);
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{line}: {}", ran.err);
        assert!(!ran.err.is_empty());
    }
    let help = run(&dir, "upgrade --help");
    assert!(help.done().contains("4  an upgrade is in progress"), "{}", help.out);
}

#[test]
fn nothing_running_is_3() {
    let dir = Dir::new();
    for verb in ["upgrade", "stop", "status", "watch"] {
        run(&dir, &format!("{verb} pid"))
            .failed(3, "nothing is running there: pid: No such file or directory");
    }
    // What a killed service leaves: a pid file, and a socket that nobody serves.
    let (_service, old) = controlled(&dir);
    old.kill();
    assert_eq!(old.exit(), Exit::by(Signal::KILL));
    for verb in ["upgrade", "stop", "status", "watch"] {
        run(&dir, &format!("{verb} pid"))
            .failed(3, &format!("pid names process {}, which is dead", old.pid()));
        run(&dir, &format!("{verb} pid.control"))
            .failed(3, "nothing is running there: pid.control: connection refused");
    }
    fs::write(dir.join("pid"), "nonsense").unwrap();
    run(&dir, "status pid").failed(3, "pid is neither a control socket nor a pid file");
    // Whether somebody has opened it to write or not, nobody is waited for.
    let fifo = dir.gate("fifo");
    run(&dir, "status gate-fifo").failed(3, "gate-fifo is neither a control socket nor a pid file");
    drop(fifo);
    run(&dir, "status gate-fifo").failed(3, "gate-fifo is neither a control socket nor a pid file");
}

/// The fork of a killed service keeps its control socket, where requests can be queued and nobody answers. The timeout is that of
/// an answer, 5 minutes.
#[test]
fn f10_a_fork_that_has_the_control_socket_is_no_service() {
    let dir = Dir::new();
    let service = dir.victim().env("TABLEFLIP_CONTROL", "pid.control").plan("init leave").start();
    let old = service.next_process();
    service.wait(&old, "left");
    service.wait(&old, "serving");
    old.kill();
    assert_eq!(old.exit(), Exit::by(Signal::KILL));
    for verb in ["upgrade", "stop", "status"] {
        run(&dir, &format!("{verb} pid"))
            .failed(3, "pid names a process that is dead; a process that it has forked");
    }
}

#[test]
fn in_progress_or_draining_is_4() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let open = service.open(&old);
    run(&dir, "upgrade pid").done();
    let new = service.next_process();
    run(&dir, "upgrade pid").failed(4, "the predecessor is still draining");
    let status = run(&dir, "status pid");
    assert!(
        status.done().contains(&format!("open         1 in generation 1, process {}\n", old.pid())),
        "{}",
        status.out
    );
    drop(open);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    run(&dir, "upgrade pid").done();
}

/// The gate holds the one upgrade up until the other operator has been refused.
#[test]
fn two_operators_at_once_get_one_upgrade_and_one_exit_status_4() {
    let dir = Dir::new();
    let (service, _old) = controlled(&dir);
    let gate = dir.gate("slow");
    service.plan("init gate slow");
    let operators = [start(&dir, "upgrade pid"), start(&dir, "upgrade pid")];
    let (ended, waiting) = first_to_end(operators);
    end(ended).failed(4, "an upgrade is in progress");
    gate.open();
    end(waiting).done();
    let new = service.next_process();
    assert!(run(&dir, "status pid").done().starts_with(&format!("generation 2, process {}:", new.pid())));
}

/// The one of the two that ends first, by their pidfds, and the other.
fn first_to_end([one, other]: [Child; 2]) -> (Child, Child) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let pidfd =
        |child: &Child| pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("it is a child");
    let pidfds = [pidfd(&one), pidfd(&other)];
    let mut fds = pidfds.each_ref().map(|pidfd| PollFd::new(pidfd, PollFlags::IN));
    let timeout = Timespec::try_from(crate::harness::DEADLINE).expect("a deadline is near");
    assert!(poll(&mut fds, Some(&timeout)).expect("poll") > 0, "neither ends");
    if fds[0].revents().is_empty() { (other, one) } else { (one, other) }
}

#[test]
fn no_answer_in_time_is_5() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    old.stop();
    for line in [
        "upgrade pid --timeout 200ms",
        "stop pid --timeout 200ms",
        "status pid --timeout 200ms",
        "watch pid --timeout 200ms",
    ] {
        run(&dir, line).failed(5, "no answer in time at pid.control");
    }
    old.signal(Signal::CONT);
    // One that answers, and does not come to an end.
    let gate = dir.gate("slow");
    service.plan("init gate slow");
    run(&dir, "upgrade pid --timeout 5s").failed(5, "; the upgrade may continue, see `tableflip status`");
    gate.open();
    service.wait(&old, "standby");
    assert_eq!(old.exit(), Exit::Status(0));
}

/// 1 would say that the old process serves.
#[test]
fn an_old_process_that_dies_in_an_upgrade_is_5() {
    let dir = Dir::new();
    let (service, old) = dir.victim().env("TABLEFLIP_CONTROL", "pid.control").probation("1h").serve();
    let upgrading = start(&dir, "upgrade pid");
    let new = service.next_process();
    service.wait(&old, "standby");
    old.kill();
    let reason = format!(
        "process {} ended before it reported the outcome; generation 2, process {}, serves",
        old.pid(),
        new.pid()
    );
    end(upgrading).failed(5, &reason);
    assert!(run(&dir, "status pid").done().starts_with(&format!("generation 2, process {}:", new.pid())));
}

#[test]
fn the_end_of_the_old_process_is_waited_for() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let open = service.open(&old);
    let mut waiting = start(&dir, "upgrade --wait-drained --json pid");
    // As far as it comes while the connection is open.
    let mut lines = BufRead::lines(BufReader::new(waiting.stdout.take().expect("a pipe")));
    let mut reply = || serde_json::from_str::<Value>(&lines.next().expect("a line").unwrap()).unwrap();
    while reply()["reply"] != "upgraded" {}
    assert!(waiting.try_wait().unwrap().is_none(), "it waits");
    drop(open);
    let last = loop {
        let reply = reply();
        // How many connections are open is told meanwhile, and what the drain has cut before the process is gone.
        let is_of_service = reply["reply"] == "drained" && reply["successor"].is_null();
        if !is_of_service && reply["reply"] != "phase" && reply["reply"] != "status" {
            break reply;
        }
    };
    assert_eq!((&last["reply"], &last["pid"]), (&"drained".into(), &old.pid().into()));
    assert!(old.has_exited());
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

/// The process that serves has nothing to finish, and its predecessor has.
#[test]
fn f5_a_stop_waits_for_the_predecessor() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let open = service.open(&old);
    run(&dir, "upgrade pid").done();
    let new = service.next_process();
    let waits = format!("process {} finishes its connections", old.pid());
    let mut stopping = start(&dir, "stop --timeout 30s pid");
    let mut lines = BufRead::lines(BufReader::new(stopping.stderr.take().expect("a pipe")));
    assert!(lines.any(|line| line.unwrap().ends_with(&waits)), "it ended without a wait");
    // Its parent, the predecessor, reaps it.
    assert!(new.has_exited());
    assert!(stopping.try_wait().unwrap().is_none() && !old.has_exited(), "it waits");
    drop(open);
    assert!(lines.all(|line| !line.unwrap().ends_with(&waits)), "said once");
    assert_eq!(end(stopping).done(), format!("process {} is gone\n", new.pid()));
    assert!(old.has_exited());
}

#[test]
fn f5_a_predecessor_that_does_not_end_in_time_is_5() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let open = service.open(&old);
    run(&dir, "upgrade pid").done();
    let new = service.next_process();
    let reason = format!("process {} still finishes its connections; the stop may continue", old.pid());
    run(&dir, "stop --timeout 5s pid").failed(5, &reason);
    assert!(new.has_exited());
    drop(open);
    assert_eq!(old.exit(), Exit::Status(0));
}

#[test]
fn whoever_watches_sees_the_service_move_and_end() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let mut watching = start(&dir, "watch pid");
    let mut lines = BufRead::lines(BufReader::new(watching.stdout.take().expect("a pipe")));
    let mut line = || lines.next().expect("a line").unwrap();
    assert_eq!(line(), format!("generation 1, process {}: serving", old.pid()));
    run(&dir, "upgrade pid").done();
    let new = service.next_process();
    while line() != format!("generation 2, process {}: serving", new.pid()) {}
    run(&dir, "stop pid").done();
    assert_eq!(watching.wait().unwrap().code(), Some(3), "it is the end of what there is to see");
}

/// Services of other releases, older and later, played by the test.
#[test]
fn a_service_of_another_release_is_understood_or_an_error_at_once() {
    let dir = Dir::new();
    let socket = UnixListener::bind(dir.join("other.control")).unwrap();
    let answered = |line: &str, answer: &str| {
        let asking = start(&dir, line);
        let (mut stream, _) = socket.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
        // The connection stays open: whoever waits for another answer waits to the deadline.
        end(asking)
    };
    let status =
        |rest: &str| format!(r#"{{"reply":"status",{rest},"generation":1,"pid":1,"phase":"serving"}}"#);
    let old = status(r#""protocol":1,"release":"0.0.9""#);
    let said = answered("status other.control", &old);
    assert!(said.done().starts_with("generation 1, process 1: serving, up for 0s\n"), "{}", said.out);

    let line = "status --timeout 1h other.control";
    answered(line, &status(r#""protocol":2,"release":"9.0.0""#))
        .failed(1, "it is of release 9.0.0, protocol 2, and this program of release 0.1.0, protocol 1");
    answered(line, r#"{"reply":"status","protocol":1,"release":"0.0.1"}"#)
        .failed(1, "its status is not understood: missing field `generation`");
    answered(line, r#"{"reply":"error","code":"asleep","message":"it is night"}"#).failed(1, "it is night");
    answered(line, "220 mail.example ESMTP").failed(1, "cannot talk to other.control: ");
}

#[test]
fn an_upgrade_if_changed_is_one_upgrade() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    let command = dir.victim().binary(&path).env("TABLEFLIP_CONTROL", "pid.control");
    let (service, old) = command.serve();
    let unchanged = |process: &Process, generation: u32| {
        let ran = run(&dir, "upgrade --if-changed --check false pid");
        let expected =
            format!("unchanged: generation {generation}, process {}, runs that file\n", process.pid());
        assert_eq!(ran.done(), expected);
    };
    unchanged(&old, 1);
    let line = run(&dir, "upgrade --if-changed --json pid");
    assert_eq!(check_json("unchanged", line.done()), ["unchanged"]);

    // The same release, as another file.
    fs::rename(dir.copy_of_victim("svc.next"), &path).unwrap();
    run(&dir, "upgrade --if-changed pid").done();
    let new = service.next_process();
    service.wait(&new, "alone");
    unchanged(&new, 2);
    fs::remove_file(&path).unwrap();
    run(&dir, "upgrade --if-changed pid").failed(1, "cannot run ");
    dir.copy_of_victim("svc");
    run(&dir, "upgrade --if-changed pid").done();
    let newest = service.next_process();
    service.wait(&newest, "alone");
    unchanged(&newest, 3);
    assert!(!service.has_said(&newest, "standby"), "it has heard of no upgrade");
}

/// A service that the test plays. A process on probation may give the service back to its predecessor, which runs another file.
#[test]
fn a_process_on_probation_is_not_called_unchanged() {
    use std::os::unix::fs::MetadataExt;
    let dir = Dir::new();
    let socket = UnixListener::bind(dir.join("other.control")).unwrap();
    let file = fs::metadata(PROGRAM).unwrap();
    let status = |inode: u64, more: &str| {
        let (path, device, modified) = (PROGRAM, file.dev(), file.mtime());
        format!(
            "{{\"reply\":\"status\",\"protocol\":1,\"release\":\"0.1.0\",\"generation\":2,\"pid\":9,\"phase\":\"serving\",\
             \"executable\":{{\"path\":{path:?},\"device\":{device},\"inode\":{inode},\"modified\":{modified}}}{more}}}\n"
        )
    };
    let standby = r#","predecessor_state":{"phase":"standby","remaining_ms":900}"#;
    let draining = r#","predecessor_state":{"phase":"draining"}"#;
    for (more, then, reply) in [
        (standby, status(file.ino(), draining), "unchanged"),
        (standby, status(file.ino(), ""), "unchanged"),
        // The predecessor serves again.
        (standby, status(file.ino() + 1, ""), "upgrade"),
        (draining, String::new(), "unchanged"),
    ] {
        let mut asking = start(&dir, "upgrade --if-changed other.control");
        let (mut stream, _) = socket.accept().unwrap();
        let mut requests = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        assert_eq!(requests.next().unwrap(), r#"{"command":"status"}"#);
        stream.write_all(status(file.ino(), more).as_bytes()).unwrap();
        if more == standby {
            // It asks again, and so it has not taken the first answer for the last word.
            assert_eq!(requests.next().unwrap(), r#"{"command":"status"}"#);
            stream.write_all(then.as_bytes()).unwrap();
        }
        if reply == "unchanged" {
            assert!(end(asking).done().starts_with("unchanged: generation 2, process 9, "), "{more}");
            continue;
        }
        assert_eq!(requests.next().unwrap(), r#"{"command":"status"}"#);
        stream.write_all(then.as_bytes()).unwrap();
        assert_eq!(requests.next().unwrap(), r#"{"command":"upgrade"}"#);
        asking.kill().unwrap();
        asking.wait().unwrap();
    }
}

#[test]
fn the_history_is_a_table_or_lines() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    assert_eq!(run(&dir, "history pid").done(), "no upgrade is known\n");
    service.plan("init panic no-configuration");
    run(&dir, "upgrade pid").failed(1, "no-configuration");
    let failed = service.next_process();
    run(&dir, "upgrade --wait-drained pid").done();
    assert!(old.has_exited());
    let new = service.next_process();
    let ran = run(&dir, "history pid");
    let rows: Vec<Vec<_>> = ran
        .done()
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).collect())
        .collect();
    assert_eq!(rows[0], ["time", "outcome", "generation", "process", "version", "took", "asked by"]);
    let uid = nix::unistd::geteuid();
    for (row, expected) in [
        (&rows[1], ["failed", "1 -> 2", &failed.pid().to_string(), "7.7.7"]),
        (&rows[3], ["upgraded", "1 -> 2", &new.pid().to_string(), "7.7.7"]),
    ] {
        assert_eq!(row[1..5], expected, "{}", ran.out);
        assert!(row[6].starts_with(&format!("user {uid}, process ")), "{}", ran.out);
    }
    assert!(rows[2][0].contains("the body panicked: no-configuration"), "{}", ran.out);
    let ran = run(&dir, "history --json pid");
    assert_eq!(check_json("history", ran.done()), ["history", "history"]);
    let status = run(&dir, "status pid");
    assert!(status.done().contains(&format!("\nlast drain   process {}, ", old.pid())), "{}", status.out);
}

#[test]
fn a_status_says_what_the_predecessor_does() {
    let dir = Dir::new();
    let (service, old) = dir.victim().env("TABLEFLIP_CONTROL", "pid.control").probation("1h").serve();
    service.plan("init panic no-configuration");
    run(&dir, "upgrade pid").failed(1, "no-configuration");
    let failed = service.next_process();
    let status = run(&dir, "status pid");
    assert!(status.done().contains(&format!("Z, `journalctl _PID={}`\n", failed.pid())), "{}", status.out);
    let upgrading = start(&dir, "upgrade pid");
    service.wait(&old, "standby");
    let status = run(&dir, "status pid");
    let row = format!("\npredecessor  process {}, on standby, 0 connections, 1h left\n", old.pid());
    assert!(status.done().contains(&row), "{}", status.out);
    run(&dir, "stop pid").done();
    assert_ne!(end(upgrading).status, 0, "the service was stopped in the probation");
}

/// What signals can do, and what it says that it cannot know.
#[test]
fn without_a_control_socket_signals_do_and_it_says_so() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let status = run(&dir, "status pid");
    assert!(status.done().starts_with(&format!("process {}, up for ", old.pid())), "{}", status.out);
    assert!(status.err.contains("there is no control socket at pid.control"), "{}", status.err);
    assert!(
        status.err.contains("not known without a control socket: generation, phase, listeners"),
        "{}",
        status.err
    );
    run(&dir, "status --prometheus pid").failed(1, "there are no metrics without a control socket");
    run(&dir, "upgrade --if-changed pid")
        .failed(2, "--if-changed needs a control socket: a signal cannot say it");

    let upgraded = run(&dir, "upgrade --wait-drained pid");
    let new = service.next_process();
    let expected = format!("process {} has the pid file\nprocess {} is gone\n", new.pid(), old.pid());
    assert_eq!(upgraded.done(), expected);
    assert!(upgraded.err.contains("whether it passes its probation"), "{}", upgraded.err);

    // A failure, of which only the log knows.
    service.wait(&new, "alone");
    service.plan("init panic no-configuration");
    run(&dir, "upgrade --timeout 300ms pid").failed(5, "only its log says");
    service.wait_for_failure(&new);

    run(&dir, "stop pid").done();
    assert!(new.has_exited());
}

#[test]
fn the_signal_that_upgrades_can_be_said() {
    let dir = Dir::new();
    let (service, old) = dir.victim().env("TABLEFLIP_UPGRADE_SIGNAL", "SIGUSR2").serve();
    // SIGHUP would end it.
    run(&dir, "upgrade pid")
        .failed(3, &format!("process {}, which pid names, does not handle SIGHUP", old.pid()));
    run(&dir, "upgrade --signal SIGUSR2 pid").done();
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.served_by(), service.next_process().pid());
}

/// A pid file that is older than the process which has its number now.
#[test]
fn a_process_that_is_no_service_is_never_signalled() {
    let dir = Dir::new();
    let mut other = Command::new("sleep").arg("1000").spawn().expect("it runs");
    fs::write(dir.join("pid"), other.id().to_string()).unwrap();
    for verb in ["upgrade", "stop"] {
        run(&dir, &format!("{verb} pid")).failed(3, "it does not handle SIGTERM and an upgrade signal");
    }
    assert!(other.try_wait().unwrap().is_none(), "it lives");
    other.kill().unwrap();
    other.wait().unwrap();
}

/// At a terminal there is one line, which changes; what is left of it at the end is the outcome.
#[test]
fn at_a_terminal_progress_is_drawn() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let (status, drawn) = at_a_terminal(&dir, "upgrade pid");
    let new = service.next_process();
    assert_eq!(status, 0, "{drawn}");
    assert!(drawn.contains("\x1b[2K"), "lines are drawn anew: {drawn:?}");
    assert!(drawn.contains("serves, on probation") && !drawn.contains("tableflip: "), "{drawn:?}");
    let last = drawn.trim_end().rsplit('\n').next().unwrap();
    assert!(last.contains(&format!("upgraded to generation 2, process {}, which", new.pid())), "{drawn:?}");
    assert_eq!(old.exit(), Exit::Status(0));

    service.wait(&new, "alone");
    service.plan("init panic no-configuration");
    let (status, drawn) = at_a_terminal(&dir, "upgrade pid");
    assert_eq!(status, 1, "{drawn}");
    let last = drawn.trim_end().rsplit('\n').next().unwrap();
    let pid = service.next_process().pid();
    let said = "tableflip: the successor could not start: the body panicked: no-configuration";
    assert!(last.ends_with(&format!("{said}; it was process {pid}")), "{drawn:?}");

    let watching = std::thread::scope(|scope| {
        let watching = scope.spawn(|| at_a_terminal(&dir, "watch pid"));
        // It is told of the end that follows, whenever it begins to watch.
        run(&dir, "stop pid").done();
        watching.join().unwrap()
    });
    assert_eq!(watching.0, 3, "{}", watching.1);
}

/// What it ends with, as elsewhere: the progress that was drawn is not in its way.
#[test]
fn at_a_terminal_the_status_says_how_it_ended() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let failed = |line: &str, expected: i32, reason: &str| {
        let (status, drawn) = at_a_terminal(&dir, line);
        assert_eq!(status, expected, "{line}: {drawn}");
        let last = drawn.trim_end().rsplit('\n').next().unwrap();
        assert!(last.contains("tableflip: ") && last.contains(reason), "{line}: {drawn:?}");
    };
    let (status, drawn) = at_a_terminal(&dir, "upgrade pid --timeout 3");
    assert_eq!(status, 2, "{drawn}");
    assert!(drawn.contains("error: ") && drawn.contains("--timeout"), "{drawn}");

    old.stop();
    failed("status pid --timeout 200ms", 5, "no answer in time at pid.control");
    old.signal(Signal::CONT);
    // It is drawn when the time is over.
    let gate = dir.gate("slow");
    service.plan("init gate slow");
    failed("upgrade pid --timeout 5s", 5, "the upgrade may continue, see `tableflip status`");
    let open = service.open(&old);
    failed("upgrade pid", 4, "an upgrade is in progress");
    gate.open();
    service.wait(&old, "draining");
    failed("upgrade pid", 4, "the predecessor is still draining");
    drop(open);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// Runs it with a terminal as its stdout and stderr, pty(7); the exit status, and all that was written.
fn at_a_terminal(dir: &Dir, line: &str) -> (i32, String) {
    let (ours, theirs) = terminal();
    let mut program = command(dir, line);
    program.env("TERM", "xterm").stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = program.spawn().expect("it runs");
    // Its copies of the other end: with the last the read below ends.
    drop(program);
    let mut drawn = Vec::new();
    // EIO once nobody has the other end.
    match File::from(ours).read_to_end(&mut drawn) {
        Ok(_) | Err(_) => {}
    }
    let status = child.wait().expect("it ends").code().expect("it exits");
    (status, String::from_utf8_lossy(&drawn).into_owned())
}

/// Whoever closes stdout early is no reason to fail, and a reason goes to stderr whatever stdout is.
#[test]
fn a_reader_that_is_gone_is_no_failure() {
    let dir = Dir::new();
    let (_service, _old) = controlled(&dir);
    let mut child = start(&dir, "status pid");
    drop(child.stdout.take());
    assert_eq!(end(child).status, 0);
}

#[test]
fn completions_and_man_pages_know_every_command() {
    let dir = Dir::new();
    let page = run(&dir, "man");
    assert!(page.done().starts_with(".ie") && page.out.contains("nothing is running there"), "{}", page.out);
    for verb in ["upgrade", "revert", "rollback", "stop", "status", "history", "watch", "unit"] {
        assert!(page.out.contains(&format!("tableflip\\-{verb}(1)")), "{verb}");
        let page = run(&dir, &format!("man {verb}"));
        assert!(page.done().contains(".SH OPTIONS") && page.out.contains("\\-\\-json"), "{}", page.out);
    }
    assert!(run(&dir, "man upgrade").done().contains("\\-\\-wait\\-drained"));
    run(&dir, "man dance").failed(2, "there is no command `dance`");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&dir, &format!("completions {shell}"));
        for word in ["upgrade", "wait-drained", "systemd-version"] {
            assert!(script.done().contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_unit_is_printed_for_the_version() {
    let dir = Dir::new();
    let unit = run(&dir, "unit /srv/echo --systemd-version 252 --drain-timeout 2m -- --port 80");
    let program = fs::canonicalize(PROGRAM).unwrap();
    for line in [
        "Type=notify".to_owned(),
        format!("ExecReload={} upgrade %t/echo/echo.pid", program.display()),
        "ExecStart=/srv/echo --port 80".to_owned(),
        "NotifyAccess=main".to_owned(),
        "TimeoutStopSec=135".to_owned(),
    ] {
        assert!(unit.done().lines().any(|found| found == line), "{line}: {}", unit.out);
    }
    let unit = run(&dir, "unit echo --systemd-version 257 --json");
    let line: Value = serde_json::from_str(unit.done()).unwrap();
    let text = line["unit"].as_str().unwrap();
    assert!(text.contains("\nType=notify\nExecReload="), "{text}");
    assert!(
        text.contains(&format!(
            "\nExecStart={}\n",
            dir.path().canonicalize().unwrap().join("echo").display()
        )),
        "{text}"
    );
    check_json("a unit", &unit.out);
    let unit = run(&dir, "unit echo --systemd-version 257 --notify-reload");
    assert!(
        unit.done().contains("\nType=notify-reload\n") && !unit.out.contains("ExecReload="),
        "{}",
        unit.out
    );
    run(&dir, "unit echo --systemd-version 252 --notify-reload")
        .failed(2, "--notify-reload needs systemd 253, and this unit is for 252: leave it out");
    for too_long in ["584542046090y", "600000y"] {
        run(&dir, &format!("unit echo --systemd-version 257 --drain-timeout {too_long}"))
            .failed(2, "--drain-timeout is longer than systemd can wait");
    }
}

#[test]
fn every_line_of_json_is_of_the_schema() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let open = service.open(&old);
    let watching = start(&dir, "watch --json pid");
    let mut printed = Vec::new();
    let run_all = |printed: &mut Vec<(String, String)>, dir: &Dir, runs: &[(&str, i32)]| {
        for (line, status) in runs {
            let ran = run(dir, line);
            assert_eq!(ran.status, *status, "{line}: {}{}", ran.out, ran.err);
            printed.push((line.to_string(), ran.out));
        }
    };
    run_all(
        &mut printed,
        &dir,
        &[("status --json pid", 0), ("upgrade --json pid", 0), ("upgrade --json pid", 4)],
    );
    let new = service.next_process();
    run_all(&mut printed, &dir, &[("status --json pid", 0)]);
    drop(open);
    service.wait(&new, "alone");
    service.plan("init panic no-configuration");
    run_all(&mut printed, &dir, &[("upgrade --json pid", 1), ("upgrade --json --check false pid", 1)]);
    run_all(
        &mut printed,
        &dir,
        &[("upgrade --json --wait-drained pid", 0), ("stop --json pid", 0), ("stop --json pid", 3)],
    );
    printed.push(("watch".to_owned(), end(watching).out));

    let dir = Dir::new();
    let (_service, process) = dir.victim().serve();
    let upgrade = "upgrade --json --wait-drained pid";
    let runs = [("status --json pid", 0), (upgrade, 0), ("stop --json pid", 0), ("upgrade --json pid", 3)];
    assert!(!process.has_exited());
    run_all(&mut printed, &dir, &runs);

    let mut replies = std::collections::BTreeSet::new();
    for (line, out) in printed {
        replies.extend(check_json(&line, &out));
    }
    let all =
        ["drained", "error", "phase", "process", "replaced", "status", "stopped", "stopping", "upgraded"];
    assert!(replies.iter().eq(all), "{replies:?}");
}

/// Every line is one of the schema; which replies they are.
#[track_caller]
pub(crate) fn check_json(what: &str, out: &str) -> Vec<String> {
    let schema = Schema::read();
    assert!(!out.is_empty(), "{what} printed nothing");
    out.lines()
        .map(|line| {
            let value: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{what}: {line}: {error}"));
            let reply = value["reply"].as_str().unwrap_or_default().to_owned();
            schema.check(&format!("{what}: {line}"), &schema.0["$defs"]["line"], &value).unwrap();
            schema
                .check(line, &schema.0["$defs"][&reply], &value)
                .unwrap_or_else(|problem| panic!("{problem}"));
            reply
        })
        .collect()
}

/// `docs/control.schema.json`, by the few words of JSON Schema that it uses. A field that it does not have is an error here,
/// so that no field is forgotten there.
struct Schema(Value);

impl Schema {
    fn read() -> Self {
        let text = include_str!("../../../docs/control.schema.json");
        Self(serde_json::from_str(text).expect("it is JSON"))
    }

    fn check(&self, at: &str, schema: &Value, value: &Value) -> Result<(), String> {
        for (word, argument) in schema.as_object().expect("a schema is an object") {
            let fits = match word.as_str() {
                "$ref" => {
                    let name = argument.as_str().unwrap().strip_prefix("#/$defs/").expect("a definition");
                    return self.check(at, &self.0["$defs"][name], value);
                }
                "oneOf" => {
                    let fit = |schema| self.check(at, schema, value).is_ok();
                    argument.as_array().unwrap().iter().filter(|schema| fit(schema)).count() == 1
                }
                "type" => match argument {
                    Value::Array(types) => types.iter().any(|name| is(name, value)),
                    name => is(name, value),
                },
                "const" => argument == value,
                "enum" => argument.as_array().unwrap().contains(value),
                "minimum" => value.as_i64() >= argument.as_i64() || value.is_null(),
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(&format!("{at}[{index}]"), argument, item)?;
                    }
                    true
                }
                "properties" => {
                    for (name, field) in value.as_object().into_iter().flatten() {
                        let schema = argument
                            .get(name)
                            .ok_or_else(|| format!("{at}: `{name}` is not in the schema"))?;
                        self.check(&format!("{at}.{name}"), schema, field)?;
                    }
                    true
                }
                "required" => {
                    let has = |name: &Value| value.get(name.as_str().unwrap()).is_some();
                    value.is_null() || argument.as_array().unwrap().iter().all(has)
                }
                word => panic!("`{word}` is not understood here"),
            };
            if !fits {
                return Err(format!("{at}: {value} does not fit `{word}`: {argument}"));
            }
        }
        Ok(())
    }
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        name => panic!("the type `{name}` is not understood here"),
    }
}

/// Another user is told what to do.
#[test]
fn another_user_is_refused_with_1() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let (_service, old) = controlled(&dir);
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Somewhere that this user may execute from.
    let program = dir.copy(PROGRAM, "tableflip");
    let as_nobody = |line: &str| {
        let mut command = Command::new(&program);
        command.current_dir(dir.path()).args(line.split(' ')).uid(65534).gid(65534);
        Ran::from(command.output().expect("it runs"))
    };
    as_nobody("status pid")
        .failed(1, "Permission denied (os error 13); only the user of the service and root may connect");
    fs::remove_file(dir.join("pid.control")).unwrap();
    as_nobody("stop pid").failed(1, &format!("process {} belongs to another user", old.pid()));
    assert!(!old.has_exited());
}

/// The other half of it: the service is that user's, and so is one who asks; the other is root.
#[test]
fn root_and_the_user_of_the_service_are_served() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
    // What this user may execute and write.
    let (binary, program) = (dir.copy_of_victim("svc"), dir.copy(PROGRAM, "tableflip"));
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let command = dir.victim().binary(&binary).started_by("setpriv", &user);
    let (service, old) = command.env("TABLEFLIP_CONTROL", "pid.control").serve();
    assert_eq!(look::status(&old, "Uid"), "65534\t65534\t65534\t65534");
    let first = format!("generation 1, process {}: serving", old.pid());
    let mut theirs = Command::new(program);
    theirs.current_dir(dir.path()).args(["status", "pid"]).uid(65534).gid(65534);
    let status = Ran::from(theirs.output().expect("it runs"));
    assert!(status.done().starts_with(&first), "{}", status.out);
    let status = run(&dir, "status pid");
    assert!(status.done().starts_with(&first), "{}", status.out);
    run(&dir, "upgrade pid").done();
    let new = service.next_process();
    assert_eq!(run(&dir, "stop pid").done(), format!("process {} is gone\n", new.pid()));
}
