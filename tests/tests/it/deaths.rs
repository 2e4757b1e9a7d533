//! Either process is killed, at every phase of an upgrade: the other process serves.

use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use processes::is_readable_within;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tests::channel::listen_at;

use crate::harness::{DEADLINE, Dir, Exit, Process, Service, Signal, wait_until_refused};

/// It serves alone, and is able to do all that a service can.
#[track_caller]
fn assert_serves_alone(service: &Service, process: &Process) {
    service.assert_serves(process);
    let next = service.upgrade(process);
    assert_eq!(service.served_by(), next.pid());
    assert_eq!(process.exit(), Exit::Status(0));
    service.wait(&next, "alone");
    next.signal(Signal::TERM);
    assert_eq!(next.exit(), Exit::Status(0));
    service.assert_over();
}

/// M15, M20. A connection that comes while nobody serves waits, and is answered.
#[track_caller]
fn the_old_one_is_killed_at(point: &str) {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let (new, gate) = service.start_upgrade_to(&old, point);
    old.kill();
    assert_eq!(old.exit(), Exit::by(Signal::KILL));
    let mut client = service.connect();
    client.send("who");

    gate.open();
    service.wait_until_it_serves(&new);
    service.wait(&new, "alone");
    assert_eq!(client.receive().unwrap(), format!("2 {}", new.pid()));
    drop(client);
    assert_serves_alone(&service, &new);
}

#[test]
fn the_old_one_is_killed_before_the_new_one_has_taken_its_offer() {
    the_old_one_is_killed_at("main");
}

#[test]
fn the_old_one_is_killed_while_the_new_one_initialises() {
    the_old_one_is_killed_at("init");
}

#[test]
fn the_old_one_is_killed_before_the_new_one_says_that_it_is_ready() {
    the_old_one_is_killed_at("step:Prepared");
    the_old_one_is_killed_at("prepared");
}

#[test]
fn the_old_one_is_killed_once_it_has_told_the_new_one_to_serve() {
    the_old_one_is_killed_at("step:TakingOver");
}

#[test]
fn the_old_one_is_killed_before_the_new_one_says_that_it_serves() {
    the_old_one_is_killed_at("serving");
    the_old_one_is_killed_at("step:Serving");
}

#[test]
fn the_old_one_is_killed_in_standby() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    old.kill();
    assert_eq!(old.exit(), Exit::by(Signal::KILL));
    before.wait_for_the_end();
    service.wait(&new, "alone");
    drop(service.upgrade(&new));
}

#[test]
fn the_old_one_is_killed_while_it_drains() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    old.kill();
    assert_eq!(old.exit(), Exit::by(Signal::KILL));
    before.wait_for_the_end();
    service.wait(&new, "alone");
    assert_serves_alone(&service, &new);
}

/// M20, and the file on disk is of no use any more: the code that worked serves again.
#[test]
fn the_new_one_is_killed_while_the_old_one_drains() {
    let dir = Dir::new();
    let binary = dir.copy_of_victim("svc");
    let (service, old) = dir.victim().binary(&binary).serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");

    fs::write(dir.join("garbage"), "not a program").unwrap();
    fs::rename(dir.join("garbage"), &binary).unwrap();
    new.kill();
    service.wait_for(&old, "error", "this process's own executable is started in its place");
    let rescue = service.next_process();
    service.wait_until_it_serves(&rescue);
    assert!(new.is_gone());
    service.assert_serves(&rescue);
    // What was open stays open.
    assert_eq!(before.who(), (1, old.pid()));
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&rescue, "alone");
    service.assert_serves(&rescue);
}

/// The path of the executable is what an operator repairs; the process that was started from the image knows it.
#[test]
fn after_a_rescue_the_next_release_is_found_where_it_always_was() {
    let dir = Dir::new();
    let binary = dir.copy_of_victim("svc");
    let (service, old) = dir.victim().binary(&binary).serve();
    let before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    // A release as any other is installed in place of the one that runs, and turns out to be a bad one.
    fs::rename(dir.copy_of_victim("svc.new"), &binary).unwrap();
    new.kill();
    let rescue = service.next_process();
    service.wait_until_it_serves(&rescue);
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&rescue, "alone");

    fs::rename(dir.copy_of_victim("svc.new"), &binary).unwrap();
    let next = service.upgrade(&rescue);
    assert_eq!(service.served_by(), next.pid());
    assert_eq!(fs::read_link(next.proc("exe")).unwrap(), binary);
}

#[test]
fn a_rescue_that_fails_is_tried_again() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    service.plan("init exit 3");
    service.plan("main signal SEGV");
    new.kill();
    new.exit();
    let mut waiting = service.connect();
    waiting.send("who");
    for _ in 0..2 {
        let failed = service.next_process();
        failed.exit();
    }
    let rescue = service.next_process();
    service.wait_until_it_serves(&rescue);
    assert_eq!(waiting.receive().unwrap(), format!("2 {}", rescue.pid()));
    drop(waiting);
    assert_eq!(service.pidfile(), Some(rescue.pid()));
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&rescue, "alone");
    assert_serves_alone(&service, &rescue);
}

#[test]
fn a_rescue_that_keeps_failing_is_given_up() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").serve();
    let before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    for _ in 0..5 {
        service.plan("init exit 3");
    }
    new.kill();
    service.wait_for(&old, "error", "the service is down");
    assert_eq!(old.exit(), Exit::Status(1));
    drop(before);
    assert_eq!(service.pidfile(), None);
    assert!(!dir.join("local").exists());
    service.wait_until_all_are_gone();
}

/// Whoever has nothing left to finish is there all the same until somebody serves.
#[test]
fn a_rescue_outlives_the_drain() {
    let dir = Dir::new();
    let gate = dir.gate("init");
    let (service, old) = dir.victim().serve();
    let before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    service.plan("init gate init; init exit 3");
    new.kill();
    let first = service.next_process();
    service.wait(&first, "gate");
    drop(before);
    service.wait_for(&old, "step:Draining", "event=Drained");
    gate.open();
    first.exit();
    let rescue = service.next_process();
    service.wait_until_it_serves(&rescue);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&rescue, "alone");
    assert_serves_alone(&service, &rescue);
}

#[test]
fn a_stop_in_mid_rescue_stops_the_service() {
    let dir = Dir::new();
    let _gate = dir.gate("init");
    let (service, old) = dir.victim().serve();
    let before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    service.plan("init gate init");
    new.kill();
    let rescue = service.next_process();
    service.wait(&rescue, "gate");
    old.signal(Signal::TERM);
    rescue.exit();
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.assert_over();
}

#[test]
fn a_stop_between_two_attempts_of_a_rescue_stops_the_service() {
    let dir = Dir::new();
    // It stands still at each step of its drain: between two attempts there is but a second.
    let gate = dir.gate("step");
    let command = dir.victim().listen_unix("local").plan("step:Draining gate step");
    let (service, old) = command.serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait(&old, "gate");
    gate.open();
    service.wait_for(&old, "draining", "open=1");
    service.plan("init exit 3");
    new.kill();
    service.wait(&old, "gate");
    gate.open();
    service.wait(&old, "gate");
    old.signal(Signal::TERM);
    gate.open();
    service.wait(&old, "stop");
    service.wait_for(&old, "step:Draining", "event=Stop");
    gate.open();
    assert_eq!(before.who(), (1, old.pid()));
    // K5. What is still in its hands nobody will accept.
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: this process is terminating");
    wait_until_refused(service.address("echo"));
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
    assert!(!dir.join("local").exists());
    service.wait_until_all_are_gone();
}

/// A process that was rescued may have to be rescued as well, and so may its successor.
#[test]
fn the_process_of_a_rescue_is_killed() {
    let dir = Dir::new();
    let binary = dir.copy_of_victim("svc");
    let (service, old) = dir.victim().binary(&binary).serve();
    let before = service.open(&old);
    let mut new = service.upgrade(&old);
    service.wait_for(&old, "step:Draining", "event=Expired(Quiet)");
    service.wait_for(&old, "draining", "open=1");
    fs::remove_file(&binary).unwrap();
    for _ in 0..3 {
        new.kill();
        new = service.next_process();
        service.wait_until_it_serves(&new);
        // Watched as any successor: it is not before the end of this that its predecessor lets go of it.
        service.wait_for(&old, "step:Draining", "event=Expired(Quiet)");
        service.assert_serves(&new);
    }
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    assert_eq!(service.served_by(), new.pid());
}

/// Wherever the two happen to be.
#[test]
fn one_of_the_two_is_killed_at_any_moment_of_an_upgrade() {
    for round in 0..60 {
        let dir = Dir::new();
        let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
        old.signal(Signal::HUP);
        let new = service.successor_of(&old);
        // Not to wait for anything: to be somewhere else in the upgrade each time.
        std::thread::sleep(Duration::from_micros(round / 2 * 200));
        let (killed, left) = if round % 2 == 0 { (&old, &new) } else { (&new, &old) };
        killed.kill();
        if left == &new {
            service.wait(&new, "alone");
            service.wait_until_it_serves(&new);
        } else {
            service.wait_for_failure(&old);
            assert!(new.is_gone(), "{round}");
        }
        assert_eq!(service.served_by(), left.pid(), "{round}");
        assert_eq!(service.connect_unix("local").who().1, left.pid(), "{round}");
        assert_eq!(service.pidfile(), Some(left.pid()), "{round}");
    }
}

/// Both at once: nobody is left, and nothing hangs.
#[test]
fn both_are_killed() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    let new = service.upgrade(&old);
    old.kill();
    new.kill();
    service.wait_until_all_are_gone();

    // The pid file names a dead process then; a fresh start takes it over.
    let (service, first) = dir.victim().serve();
    assert_eq!(service.pidfile(), Some(first.pid()));
}

/// unix(7): whoever closes a socket with something unread gives the other side ECONNRESET, and that comes before what
/// is still in the queue. It is not the end, and what was offered is there.
///
/// The test plays the old one, which a signal would have to hit between two instructions.
#[test]
fn the_old_one_is_killed_with_the_new_ones_answer_unread() {
    let dir = Dir::new();
    let path = dir.join("channel");
    let (listening, predecessor) = listen_at(env!("CARGO_BIN_EXE_with_channel"), &path);
    let command = dir.victim().binary(env!("CARGO_BIN_EXE_with_channel")).arg("channel").arg(&path);
    let service = command.arg(env!("CARGO_BIN_EXE_victim")).start();
    let channel = rustix::net::accept(&listening).unwrap();
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let send = |message: &str, fds: &[BorrowedFd<'_>]| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(&channel, &[IoSlice::new(message.as_bytes())], &mut control, SendFlags::empty()).unwrap();
    };
    let pid = std::process::id();
    send(
        &format!(
            r#"{{"type":"offer","protocol":1,"oldest_protocol":1,"release":"0.1.0","generation":1,"pid":{pid},"sockets":1}}"#
        ),
        &[],
    );
    // Its hello is there, and it waits for the socket.
    assert!(is_readable_within(DEADLINE, &channel).unwrap());
    let new = service.next_process();
    new.stop();
    send(r#"{"type":"sockets","entries":[{"name":"echo","address":"tcp://127.0.0.1:0"}]}"#, &[echo.as_fd()]);
    drop((channel, predecessor));
    new.signal(Signal::CONT);

    service.wait_until_it_serves(&new);
    assert_eq!(service.address("echo"), echo.local_addr().unwrap().to_string());
}
