//! How an upgrade is undone: `tableflip revert` in its probation, `tableflip rollback` after it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::harness::{Dir, Exit, Process, Service, Signal};
use crate::look;
use crate::program::{Ran, check_json, end, run, start};

/// A service with a control socket and a long probation.
fn on_standby(dir: &Dir) -> (Service, Process) {
    dir.victim().env("TABLEFLIP_CONTROL", "pid.control").probation("1h").serve()
}

#[test]
fn a_revert_gives_the_service_back() {
    let dir = Dir::new();
    let (service, old) = on_standby(&dir);
    run(&dir, "revert pid")
        .failed(1, "no process is on standby: there was no upgrade, its successor does not serve yet, or its probation is over");
    let upgrading = start(&dir, "upgrade pid");
    let new = service.next_process();
    service.wait(&old, "standby");
    let ran = run(&dir, "revert pid");
    let expected = format!("generation 1, process {}, serves again, after ", old.pid());
    assert!(ran.done().starts_with(&expected), "{}{}", ran.out, ran.err);
    end(upgrading).failed(1, "the upgrade was reverted on request");
    assert_eq!(service.served_by(), old.pid());
    assert_eq!(new.exit(), Exit::Reaped);

    // As lines, and once more: the service can be upgraded again.
    let upgrading = start(&dir, "upgrade --json pid");
    service.next_process();
    service.wait(&old, "standby");
    let ran = run(&dir, "revert --json pid");
    assert_eq!(check_json("revert", ran.done()).last().map(String::as_str), Some("reverted"), "{}", ran.out);
    check_json("upgrade", &end(upgrading).out);
    run(&dir, "stop pid").done();
}

/// The process that serves is well, and the other one does nothing: nobody would serve without the first.
#[test]
fn a_process_that_answers_is_not_killed_for_a_standby_that_hangs() {
    let dir = Dir::new();
    let (service, old) = on_standby(&dir);
    let new = service.upgrade(&old);
    old.stop();
    let reverting = start(&dir, "revert pid");
    service.wait(&new, "revert");
    end(reverting)
        .failed(1, "the process on standby did not answer within 10s; if it goes on, it serves again then");
    assert_eq!(service.served_by(), new.pid());
    assert!(!new.has_exited());
    old.signal(Signal::CONT);
    service.wait_until_it_is_gone(&old, &new);
    assert_eq!(service.served_by(), old.pid());
}

/// It has hung before anybody asked, so its status says nothing of a standby: the kernel says which process is its elder.
#[test]
fn a_process_that_hangs_from_the_beginning_is_killed() {
    let dir = Dir::new();
    let (service, old) = on_standby(&dir);
    let new = service.upgrade(&old);
    new.stop();
    let ran = run(&dir, "revert --json pid");
    let reply: serde_json::Value = serde_json::from_str(ran.done().trim()).unwrap();
    assert_eq!((&reply["pid"], &reply["killed"]), (&old.pid().into(), &new.pid().into()), "{}", ran.out);
    check_json("revert", &ran.out);
    service.assert_serves(&old);

    // Without an elder nobody would serve.
    old.stop();
    run(&dir, "revert pid").failed(5, "it was not ended: no predecessor is known to be on standby");
    assert!(!old.has_exited());
}

/// The file that a process runs: device and inode.
fn file_of(process: &Process) -> (u64, u64) {
    let file = fs::metadata(process.proc("exe")).unwrap();
    (file.dev(), file.ino())
}

/// After the probation, and after the end of the process that ran it.
#[test]
fn a_rollback_serves_the_executable_that_ran_before() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    let (service, first) = dir.victim().binary(&path).env("TABLEFLIP_CONTROL", "pid.control").serve();
    let none = "no other executable ran before this one, as far as this process knows";
    run(&dir, "rollback pid").failed(1, none);
    let release_1 = file_of(&first);
    let deploy = |old: &Process| {
        fs::rename(dir.copy_of_victim("svc.next"), &path).unwrap();
        run(&dir, "upgrade --wait-drained pid").done();
        assert!(old.has_exited());
        service.next_process()
    };
    let second = deploy(&first);
    let release_2 = file_of(&second);
    assert_ne!(release_2, release_1, "the file of the first release is deleted, and its process is gone");

    // An upgrade of the same file changes nothing in what ran before.
    run(&dir, "upgrade --wait-drained pid").done();
    let again = service.next_process();
    assert_eq!(file_of(&again), release_2);
    let ran = run(&dir, "rollback --wait-drained pid");
    let third = service.next_process();
    assert!(
        ran.done().starts_with(&format!("upgraded to generation 4, process {}", third.pid())),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("svc still names the release that was rolled back"), "{}", ran.err);
    assert_eq!(file_of(&third), release_1);
    assert_eq!(service.served_by(), third.pid());
    let status = run(&dir, "status pid");
    assert!(status.done().contains(&format!("{}, written", path.display())), "{}", status.out);

    // A rollback of the rollback, and once more back. Then the path counts again.
    for release in [release_2, release_1] {
        run(&dir, "rollback --wait-drained pid").done();
        assert_eq!(file_of(&service.next_process()), release);
    }
    run(&dir, "upgrade --wait-drained pid").done();
    let last = service.next_process();
    assert!(look::runs(&last, &path));
    assert_eq!(file_of(&last), release_2);
    run(&dir, "stop pid").done();
}

/// The check of every upgrade looks at the file that is to be started, and not at the one that the path names.
#[test]
fn a_rollback_passes_the_preflight_command() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    let check = "stat -Lc %i \"$0\" >>checked; test ! -e refuse || { echo not now; exit 1; }";
    let command =
        dir.victim().binary(&path).env("TABLEFLIP_CONTROL", "pid.control").env("TABLEFLIP_PREFLIGHT", check);
    let (service, first) = command.serve();
    let (_, release_1) = file_of(&first);
    fs::rename(dir.copy_of_victim("svc.next"), &path).unwrap();
    run(&dir, "upgrade --wait-drained pid").done();
    let second = service.next_process();
    let (_, release_2) = file_of(&second);
    fs::write(dir.join("refuse"), "").unwrap();
    run(&dir, "rollback pid").failed(1, "the preflight command exited with status 1: not now");
    fs::remove_file(dir.join("refuse")).unwrap();
    run(&dir, "rollback pid").done();
    let checked = fs::read_to_string(dir.join("checked")).unwrap();
    assert_eq!(checked, format!("{release_2}\n{release_1}\n{release_1}\n"));
    run(&dir, "stop pid").done();
}

/// A postponed rollback stays one, whatever is refused meanwhile.
#[test]
fn a_rollback_that_waits_is_a_rollback() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    let command = dir.victim().binary(&path).env("TABLEFLIP_CONTROL", "pid.control");
    let (service, first) = command.env("TABLEFLIP_OVERLAP", "wait").serve();
    let (open, release_1) = (service.open(&first), file_of(&first));
    fs::rename(dir.copy_of_victim("svc.next"), &path).unwrap();
    run(&dir, "upgrade pid").done();
    let second = service.next_process();
    let waiting = start(&dir, "rollback pid");
    service.wait(&second, "postponed");
    second.signal(Signal::HUP);
    service.wait_for(&second, "error", "upgrade refused: an upgrade is in progress");
    drop(open);
    end(waiting).done();
    assert_eq!(file_of(&service.next_process()), release_1);
}

/// A release that was overwritten, after its process was gone, is not the one that ran.
#[test]
fn a_file_that_was_written_to_is_not_rolled_back_to() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    let release_1 = dir.copy_of_victim("kept");
    fs::rename(&path, dir.join("unused")).unwrap();
    std::os::unix::fs::symlink("kept", &path).unwrap();
    let (service, _first) = dir.victim().binary(&path).env("TABLEFLIP_CONTROL", "pid.control").serve();
    dir.copy_of_victim("other");
    std::os::unix::fs::symlink("other", dir.join("svc.next")).unwrap();
    fs::rename(dir.join("svc.next"), &path).unwrap();
    run(&dir, "upgrade --wait-drained pid").done();
    let second = service.next_process();
    fs::OpenOptions::new().append(true).open(release_1).unwrap().write_all(b"x").unwrap();
    run(&dir, "rollback pid")
        .failed(1, "the executable that ran before was written to since: deploy the release before");
    assert_eq!(service.served_by(), second.pid());
}

/// The control socket of a service, played by the test, in front of a real process.
struct Played {
    dir: Dir,
    process: Process,
    _service: Service,
    socket: UnixListener,
}

impl Played {
    fn new() -> Self {
        let dir = Dir::new();
        let (service, process) = dir.victim().serve();
        let socket = UnixListener::bind(dir.join("pid.control")).unwrap();
        Self { dir, process, _service: service, socket }
    }

    /// Takes a request for the status, and does not answer.
    fn hear(&self) -> UnixStream {
        let mut lines = String::new();
        let stream = loop {
            // The proof of the process connects as well, and says nothing.
            let (stream, _) = self.socket.accept().unwrap();
            if BufReader::new(&stream).read_line(&mut lines).unwrap() > 0 {
                break stream;
            }
        };
        assert_eq!(lines, "{\"command\":\"status\"}\n");
        stream
    }

    /// Answers a request for the status of this process; the connection stays open for more requests.
    fn answer(&self, pid: u32, more: &str) -> UnixStream {
        let mut stream = self.hear();
        let status = r#"{"reply":"status","protocol":1,"release":"0.1.0","phase":"serving""#;
        writeln!(stream, "{status},\"pid\":{pid}{more}}}").unwrap();
        stream
    }

    /// What comes of a revert that nobody answers.
    fn silent(&self, line: &str, pid: u32, more: &str) -> Ran {
        let asking = start(&self.dir, line);
        let stream = self.answer(pid, more);
        // It is asked once more, whether it hangs.
        let other = self.hear();
        let ran = end(asking);
        drop((stream, other));
        ran
    }
}

const STANDBY: &str =
    r#","generation":2,"predecessor":4700,"predecessor_state":{"phase":"standby","remaining_ms":3600000}"#;

/// Without a predecessor on standby nobody else would serve. So a process is killed only if there is proof of both.
#[test]
fn a_process_without_a_standby_is_never_killed() {
    let played = Played::new();
    let pid = played.process.pid();
    let line = "revert --timeout 50ms pid";
    let older = r#","generation":2,"predecessor":4700"#;
    let draining = STANDBY.replace("standby", "draining");
    let over = STANDBY.replace("3600000", "0");
    for (line, says, more, why) in [
        (line, pid, older, "no predecessor is known to be on standby"),
        (line, pid, &draining, "no predecessor is known to be on standby"),
        (line, pid, &over, "its probation is over"),
        (line, 1, STANDBY, "process 1 was asked"),
    ] {
        let expected = format!("process {pid} gave no answer; it was not ended: {why}");
        played.silent(line, says, more).failed(5, &expected);
    }
    let unproven =
        "the process gave no answer; it was not ended: name the pid file instead of the control socket";
    played.silent("revert --timeout 50ms pid.control", pid, STANDBY).failed(5, unproven);
    assert!(!played.process.has_exited());
}

#[test]
fn a_process_that_gives_no_answer_is_killed_for_its_standby() {
    let played = Played::new();
    let pid = played.process.pid();
    let asking = start(&played.dir, "revert --timeout 50ms pid");
    let stream = played.answer(pid, STANDBY);
    let other = played.hear();
    // The predecessor, once that process is dead.
    let predecessor = played.answer(4700, r#","generation":1"#);
    assert_eq!(played.process.exit(), Exit::by(Signal::KILL));
    drop((stream, other, predecessor));
    let ran = end(asking);
    assert_eq!(ran.done(), "generation 1, process 4700, serves again\n");
    let lost =
        format!("process {pid} gave no answer and was killed: the connections that it had accepted are lost");
    assert!(ran.err.contains(&lost), "{}", ran.err);
}

#[test]
fn a_service_that_does_not_know_the_request_says_so() {
    let played = Played::new();
    let asking = start(&played.dir, "revert pid");
    let mut stream = played.answer(played.process.pid(), r#","generation":1"#);
    let error = r#"{"reply":"error","code":"bad-request","message":"no request: unknown variant"}"#;
    writeln!(stream, "{error}").unwrap();
    end(asking).failed(1, "the release of the service does not know this command; deploy a release instead");
}
