//! The proof that a process is the service: no signal goes to another process, and the service gets its signal whatever its name.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::forks::release;
use crate::harness::{Dir, Exit, Process, Signal};
use crate::look;
use crate::program::{Ran, command, controlled, end, run, start};

const VERBS: [&str; 4] = ["upgrade", "stop", "status", "watch"];

/// Another program, which handles the signals of a service and lives until the end of its stdin.
struct Stranger {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Stranger {
    fn start() -> Self {
        let mut stranger = Command::new(env!("CARGO_BIN_EXE_stranger"));
        let mut child = stranger.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut stranger = Self { stdin: child.stdin.take(), stdout, child };
        let mut line = String::new();
        stranger.stdout.read_line(&mut line).expect("it says that it is ready");
        assert_eq!(line, "ready\n");
        stranger
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many signals it has got, at its end.
    fn end(mut self) -> String {
        drop(self.stdin.take());
        let mut counts = String::new();
        self.stdout.read_to_string(&mut counts).expect("it is text");
        assert!(self.child.wait().expect("it ends").success(), "it ends by itself");
        counts
    }
}

/// A pid file that was written so long ago, before every process that lives.
fn age(pidfile: &Path) {
    let file = File::options().write(true).open(pidfile).expect("a pid file");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(86400)).expect("a time");
}

fn each_verb_says(dir: &Dir, reason: &str) {
    for verb in VERBS {
        run(dir, &format!("{verb} --timeout 20s pid")).failed(3, reason);
    }
    run(dir, "upgrade --signal SIGUSR2 pid").failed(3, reason);
    run(dir, "upgrade --check true pid").failed(3, reason);
}

/// A3 and D3: the number is in the file, by hand or because it was used again; the process handles the signals.
#[test]
fn a3_a_stranger_gets_no_signal() {
    let dir = Dir::new();
    let (_service, old) = controlled(&dir);
    old.kill();
    assert_eq!(old.exit(), Exit::by(Signal::KILL));
    let stranger = Stranger::start();
    fs::write(dir.join("pid"), stranger.pid().to_string()).unwrap();
    let names = format!("pid names process {}, which is not proven to be the service: ", stranger.pid());

    // With the control socket that the service has left.
    each_verb_says(&dir, &format!("{names}the control socket pid.control refuses, so the service is dead"));
    // With one that another process of this machine answers at.
    fs::remove_file(dir.join("pid.control")).unwrap();
    let other = UnixListener::bind(dir.join("pid.control")).unwrap();
    let asking = start(&dir, "stop pid");
    let (mut client, _) = other.accept().unwrap();
    client.write_all(b"220 mail.example ESMTP\n").unwrap();
    end(asking).failed(1, "cannot talk to pid.control: ");
    // Without any.
    fs::remove_file(dir.join("pid.control")).unwrap();
    each_verb_says(&dir, &format!("{names}it has no thread `tableflip`"));
    // As it is after a crash: the file is older.
    age(&dir.join("pid"));
    each_verb_says(&dir, &names);
    assert_eq!(stranger.end(), "0 0\n");
}

/// A stranger that is a service, as those of one machine are, has all that makes one. It is not the one that wrote the file.
#[test]
fn a3_a_service_that_is_another_gets_no_signal() {
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    let (service, other) = elsewhere.victim().serve();
    let number = other.pid().to_string();
    fs::write(dir.join("pid"), &number).unwrap();
    age(&dir.join("pid"));
    each_verb_says(
        &dir,
        &format!("pid names process {number}, which is not proven to be the service: it began after"),
    );
    // The number of a thread of it is no process.
    let tasks = fs::read_dir(other.proc("task")).unwrap();
    let thread = tasks.map(|task| task.unwrap().file_name()).find(|task| **task != *number).unwrap();
    fs::write(dir.join("pid"), thread.as_bytes()).unwrap();
    each_verb_says(&dir, "the number is that of a thread");
    assert!(!service.has_said(&other, "upgrading") && !service.has_said(&other, "draining"));
    // It is not for want of a proof that it could give.
    run(&elsewhere, "stop pid").done();
    assert_eq!(other.exit(), Exit::Status(0));
}

/// What is beside the pid file of a service that has no control socket by now, from an earlier run.
#[test]
fn a3_a_control_socket_that_refuses_is_evidence_of_death() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    drop(UnixListener::bind(dir.join("pid.control")).unwrap());
    each_verb_says(&dir, "remove that file if the service runs without a control socket");
    assert!(!service.has_said(&old, "upgrading") && !service.has_said(&old, "draining"));
    fs::remove_file(dir.join("pid.control")).unwrap();
    run(&dir, "upgrade --wait-drained pid").done();
    run(&dir, "stop pid").done();
}

/// The check of the operator takes its time, and the process becomes another program, which keeps number, name and age.
#[test]
fn a3_what_was_proven_is_proven_again_before_the_signal() {
    let dir = Dir::new();
    let gate = dir.gate("check");
    let (service, old) = dir.victim().serve();
    let mut upgrade = command(&dir, "upgrade pid --check");
    upgrade.arg("echo >checks; head -c 1 <gate-check").stdout(Stdio::piped()).stderr(Stdio::piped());
    let upgrading = upgrade.spawn().expect("it runs");
    dir.wait_until("check", || dir.join("checks").exists().then_some(()));
    let stranger = Stranger::start();
    fs::write(dir.join("pid"), stranger.pid().to_string()).unwrap();
    gate.open();
    end(upgrading).failed(3, "which is not proven to be the service: ");
    assert_eq!(stranger.end(), "0 0\n");
    assert!(!service.has_said(&old, "upgrading"));
}

#[test]
fn a3_what_is_no_pid_file_names_no_process() {
    let dir = Dir::new();
    fs::create_dir(dir.join("directory")).unwrap();
    fs::write(dir.join("bytes"), b"\xff\xfe\n").unwrap();
    fs::write(dir.join("zero"), "0\n").unwrap();
    for name in ["directory", "bytes", "zero"] {
        for verb in VERBS {
            run(&dir, &format!("{verb} {name}"))
                .failed(3, &format!("{name} is neither a control socket nor a pid file"));
        }
    }
}

/// The system cuts a name to 15 bytes, here in the middle of a character. Both ways to name a process of it: the program's,
/// and that of a second start.
#[test]
fn e3_a_name_that_is_cut_within_a_character_is_a_name() {
    let dir = Dir::new();
    let binary = dir.copy_of_victim("ääääääää");
    let (service, old) = dir.victim().binary(&binary).serve();
    let name = fs::read(old.proc("comm")).unwrap();
    assert!(String::from_utf8(name).is_err(), "it is cut within a character");
    assert!(run(&dir, "status pid").done().contains("ääääääää"));
    let second = dir.victim().binary(&binary).start();
    assert_eq!(second.first().exit(), Exit::Status(1));
    let expected = format!("names process {}, a running {}", old.pid(), binary.display());
    assert!(second.log().contains(&expected), "{}", second.log());
    run(&dir, "upgrade --wait-drained pid").done();
    let new = service.next_process();
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(run(&dir, "stop pid").done(), format!("process {} is gone\n", new.pid()));
}

fn not_utf8() -> OsString {
    OsString::from_vec(b"caf\xe9".to_vec())
}

/// E2.
#[test]
fn e2_a_service_whose_path_is_not_utf8_answers() {
    let dir = Dir::new();
    // Its path is a link, as of a release that moves; and argv[0] does not tell it.
    let release = dir.copy_of_victim("release-1");
    let link = dir.join(not_utf8());
    symlink(&release, &link).unwrap();
    let service = dir.victim().binary(&link).env("TABLEFLIP_CONTROL", "pid.control").start();
    let old = service.next_process();
    service.wait_until_it_serves(&old);
    let status = run(&dir, "status pid");
    assert!(status.done().contains("/caf\u{fffd}, written "), "{}", status.out);
    let status = run(&dir, "status --json pid");
    let line: Value = serde_json::from_str(status.done()).unwrap();
    let digits: String = link.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(line["executable"]["path_bytes"], *digits);
    assert!(line["executable"]["path"].as_str().unwrap().ends_with("/caf\u{fffd}"), "{line}");

    // The check gets the bytes.
    let mut upgrade = command(&dir, "upgrade --wait-drained pid --check");
    Ran::from(upgrade.arg("test -x \"$0\"").output().expect("it runs")).done();
    let new = service.next_process();
    assert_eq!(old.exit(), Exit::Status(0));
    // And so does the successor, and its own.
    let next = dir.copy_of_victim("release-2");
    fs::remove_file(&link).unwrap();
    symlink(&next, &link).unwrap();
    service.wait(&new, "alone");
    run(&dir, "upgrade --wait-drained pid").done();
    let newest = service.next_process();
    assert!(look::runs(&newest, &next));
    run(&dir, "stop pid").done();
    assert_eq!(new.exit(), Exit::Status(0));
}

/// E4: the same without a control socket, where the program itself shows the path.
#[test]
fn e4_a_status_shows_a_path_that_is_not_utf8() {
    let dir = Dir::new();
    let binary = dir.copy_of_victim(not_utf8());
    let (_service, old) = dir.victim().binary(binary).serve();
    let status = run(&dir, "status pid");
    assert!(status.done().ends_with("/caf\u{fffd}\n"), "{}", status.out);
    let status = run(&dir, "status --json pid");
    let line: Value = serde_json::from_str(status.done()).unwrap();
    assert!(line["executable"].as_str().unwrap().ends_with("/caf\u{fffd}"), "{line}");
    let watching = start(&dir, "watch --json pid");
    let mut upgrade = command(&dir, "upgrade --wait-drained pid --check");
    Ran::from(upgrade.arg("test -x \"$0\"").output().expect("it runs")).done();
    assert_eq!(old.exit(), Exit::Status(0));
    run(&dir, "stop pid").done();
    end(watching).failed(3, "");
}

/// Without a control socket nobody says where the pid file of the new release is.
#[test]
fn d10_an_upgrade_by_a_signal_to_a_release_with_another_pid_file() {
    let dir = Dir::new();
    let binary = dir.copy_of_victim("svc");
    let (_service, old) = dir.victim().binary(&binary).serve();
    let real = env!("CARGO_BIN_EXE_victim");
    release(&dir, &format!("#!/bin/sh\nTABLEFLIP_PIDFILE=other exec {real} \"$@\"\n"));
    let watching = start(&dir, "watch pid");
    run(&dir, "upgrade pid").failed(5, &format!("process {} has ended, and pid is gone;", old.pid()));
    end(watching).failed(3, &format!("process {} has ended without a successor", old.pid()));
    run(&dir, "stop other").done();
}

/// The other half of E2: what ends each connection is asked a few times and not for ever. It is connections that are counted.
#[test]
fn e2_a_client_that_is_cut_off_gives_up() {
    const STATUS: &str =
        r#"{"reply":"status","protocol":1,"release":"0.1.0","generation":1,"pid":1,"phase":"serving"}"#;
    thread::scope(|scope| {
        // What ends them at once, and what ends them at the request that follows the status.
        for (answers, verb) in VERBS.map(|verb| (false, verb)).into_iter().chain([
            (true, "upgrade"),
            (true, "stop"),
            (true, "watch"),
        ]) {
            scope.spawn(move || {
                let dir = Dir::new();
                let socket = UnixListener::bind(dir.join("other.control")).unwrap();
                let serving = scope.spawn(move || {
                    let mut connections = 0;
                    loop {
                        let (mut client, _) = socket.accept().unwrap();
                        let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
                        let mut line = || lines.next().and_then(Result::ok).unwrap_or_default();
                        match &*line() {
                            // The test's own, at the end.
                            "" => return connections,
                            _ => connections += 1,
                        }
                        if answers {
                            client.write_all(format!("{STATUS}\n").as_bytes()).unwrap();
                            line();
                        }
                    }
                });
                run(&dir, &format!("{verb} --timeout 30s other.control"))
                    .failed(5, "other.control ended 10 connections before an answer");
                drop(std::os::unix::net::UnixStream::connect(dir.join("other.control")).unwrap());
                let connections = serving.join().unwrap();
                assert!((10..=11).contains(&connections), "{verb}, {answers}: {connections}");
            });
        }
    });
}

/// D6: a release that is a script which starts the service and waits for it.
#[test]
fn d6_the_process_behind_a_wrapper_is_named() {
    let dir = Dir::new();
    let binary = dir.copy_of_victim("svc");
    let (service, old) = dir.victim().binary(&binary).env("TABLEFLIP_CONTROL", "pid.control").serve();
    let wrapper = |path: &Path, command: &OsStr| {
        // Beside and renamed: what is executed is not open for writing.
        let beside = dir.join("beside");
        let script = [b"#!/bin/sh\n".as_slice(), command.as_bytes(), b" \"$@\"\nexit $?\n"].concat();
        assert!(
            Command::new("cp")
                .args(["/dev/stdin"])
                .arg(&beside)
                .stdin(piped(&script))
                .status()
                .unwrap()
                .success()
        );
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(beside, path).unwrap();
    };
    let real = dir.copy_of_victim("real");
    // One behind another.
    wrapper(&dir.join("inner"), real.as_os_str());
    wrapper(&binary, dir.join("inner").as_os_str());
    let upgraded = run(&dir, "upgrade pid");
    let new: Process = service.next_process();
    let expected = format!("upgraded to generation 2, process {}, which served after ", new.pid());
    assert!(upgraded.done().starts_with(&expected), "{} {}", upgraded.out, upgraded.err);
    assert!(
        upgraded.err.contains(&format!("process {} serves, on probation", new.pid())),
        "{}",
        upgraded.err
    );
    assert_eq!(service.pidfile(), Some(new.pid()));
    assert!(service.wait(&old, "draining").text.contains(&format!("successor={}", new.pid())));
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(run(&dir, "stop pid").done(), format!("process {} is gone\n", new.pid()));
}

/// A pipe that has this, and then its end.
fn piped(bytes: &[u8]) -> Stdio {
    let (read, mut write) = std::io::pipe().expect("a pipe");
    write.write_all(bytes).expect("a pipe has room for a script");
    read.into()
}
