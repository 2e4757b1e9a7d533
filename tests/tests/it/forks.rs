//! A1: a release that forks. Whichever of its processes exits or goes on, one process serves, the pid file names it, and a stop
//! leaves no process.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Dir, Exit, Process, Service, Signal};

/// The old process serves alone, and goes on to do so: through a further upgrade, and to the end.
#[track_caller]
fn assert_serves_alone(dir: &Dir, service: &Service, old: &Process) {
    for _ in 0..20 {
        assert_eq!(service.served_by(), old.pid());
        assert_eq!(dir.unix_served_by(), old.pid());
    }
    assert_eq!(service.pidfile(), Some(old.pid()));
    let next = service.upgrade(old);
    assert_eq!(old.exit(), Exit::Status(0));
    for _ in 0..20 {
        assert_eq!(service.served_by(), next.pid());
    }
    service.wait(&next, "alone");
    next.signal(Signal::TERM);
    assert_eq!(next.exit(), Exit::Status(0));
    // Whoever has a socket of the service has its stdout as well.
    service.wait_until_all_are_gone();
    assert_eq!(service.pidfile(), None);
    assert!(!dir.join("local").exists());
}

impl Dir {
    fn unix_served_by(&self) -> u32 {
        crate::harness::Client::unix(&self.join("local")).who().1
    }
}

#[track_caller]
fn fails_and_leaves_nobody(plan: &str, reason: &str) {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").serve();
    service.plan(plan);
    old.signal(Signal::HUP);
    let failure = service.wait_for_failure(&old);
    assert!(failure.contains(reason), "{plan}: {failure}");
    assert_serves_alone(&dir, &service, &old);
}

const BACKGROUND: &str = "put itself into the background";

#[test]
fn a1_a_release_that_forks_before_it_has_taken_the_offer() {
    fails_and_leaves_nobody("main background", BACKGROUND);
}

#[test]
fn a1_a_release_that_forks_twice_before_it_has_taken_the_offer() {
    fails_and_leaves_nobody("main daemonize", BACKGROUND);
}

#[test]
fn a1_a_body_that_forks_while_it_initialises() {
    fails_and_leaves_nobody("init background", BACKGROUND);
}

#[test]
fn a1_a_body_that_forks_twice_while_it_initialises() {
    fails_and_leaves_nobody("init daemonize", BACKGROUND);
}

/// The thread of the engine goes on in the fork, and with it the conversation with the predecessor.
#[test]
fn a1_an_engine_that_forks_before_it_says_that_it_is_ready() {
    fails_and_leaves_nobody("step:Prepared background", BACKGROUND);
}

#[test]
fn a1_an_engine_that_forks_once_it_is_told_to_serve() {
    fails_and_leaves_nobody("step:TakingOver background", BACKGROUND);
}

/// The gates are open in the fork: it accepts, until it is ended.
#[test]
fn a1_an_engine_that_forks_once_it_serves() {
    fails_and_leaves_nobody("step:Serving background", BACKGROUND);
    fails_and_leaves_nobody("serving daemonize", BACKGROUND);
}

#[test]
fn a1_a_body_that_forks_once_it_serves() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
    for deed in ["background", "daemonize"] {
        let new = service.upgrade(&old);
        let mut client = service.open(&new);
        client.send(&format!("do {deed}"));
        let failure = service.wait_for_failure(&old);
        assert!(failure.contains(BACKGROUND), "{failure}");
        assert!(new.is_gone());
        service.assert_serves(&old);
    }
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
}

/// It is no release in the background that has crashed, and has a helper.
#[test]
fn f8_a_release_that_fails_and_leaves_a_helper_behind() {
    for (how, reason) in [("3", "exited with status 3"), ("abort", "was killed by SIGABRT")] {
        let dir = Dir::new();
        let (service, old) = dir.victim().listen_unix("local").serve();
        service.plan(&format!("init fail-and-leave {how}"));
        old.signal(Signal::HUP);
        let failure = service.wait_for_failure(&old);
        assert!(!failure.contains(BACKGROUND) && failure.contains(reason), "{failure}");
        let (_, left) = failure.split_once(" and left process ").expect(&failure);
        let (stray, rest) = left.split_once(' ').expect(&failure);
        assert!(stray.parse::<u32>().is_ok() && rest.starts_with("behind, which holds its"), "{failure}");
        assert_serves_alone(&dir, &service, &old);
    }
}

/// The process lives, and is another program: its end of the channel is closed, or is held by what cannot speak.
#[test]
fn a1_a_release_that_becomes_another_program() {
    let closed = "it closed the channel and went on running";
    fails_and_leaves_nobody("init become sleep", closed);
    fails_and_leaves_nobody("step:Prepared become sleep", closed);
    fails_and_leaves_nobody("step:TakingOver become sleep", closed);
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").upgrade_timeout("1s").serve();
    service.plan("main become sleep");
    old.signal(Signal::HUP);
    let failure = service.wait_for_failure(&old);
    assert!(failure.contains("was not ready within 1s"), "{failure}");
    assert_serves_alone(&dir, &service, &old);
}

#[test]
fn a1_a_release_that_becomes_another_program_once_it_serves() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
    let new = service.upgrade(&old);
    let mut client = service.open(&new);
    client.send("do become sleep");
    let failure = service.wait_for_failure(&old);
    assert!(failure.contains("it closed the channel and went on running"), "{failure}");
    assert!(new.is_gone());
    service.assert_serves(&old);
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
}

/// A release of this name in the place of the running one, by a rename.
pub(crate) fn release(dir: &Dir, script: &str) {
    let path = dir.join("next");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(path, dir.join("svc")).unwrap();
}

fn service_at(dir: &Dir) -> (Service, Process) {
    let svc = dir.copy_of_victim("svc");
    dir.victim().binary(svc).listen_unix("local").serve()
}

/// The smallest input of the fault: two processes served. The victim ends with its stdin, which a shell takes from what it puts
/// into the background.
#[test]
fn a1_a_script_that_starts_the_release_in_the_background() {
    let dir = Dir::new();
    let (service, old) = service_at(&dir);
    let real = env!("CARGO_BIN_EXE_victim");
    for script in [
        format!("#!/bin/sh\nexec 3<&0\n{real} \"$@\" <&3 &\n"),
        format!("#!/bin/sh\nexec 3<&0\n({real} \"$@\" <&3 &)\n"),
        format!("#!/bin/sh\nexec 3<&0\nsetsid {real} \"$@\" <&3 &\nsleep 0\n"),
    ] {
        release(&dir, &script);
        old.signal(Signal::HUP);
        let failure = service.wait_for_failure(&old);
        assert!(failure.contains(BACKGROUND), "{failure}");
        assert_eq!(service.pidfile(), Some(old.pid()));
    }
    release(&dir, &format!("#!/bin/sh\nexec {real} \"$@\"\n"));
    assert_serves_alone(&dir, &service, &old);
}

/// A wrapper that waits is no release in the background.
#[test]
fn a1_a_script_that_waits_for_the_release() {
    let dir = Dir::new();
    let (service, old) = service_at(&dir);
    let real = env!("CARGO_BIN_EXE_victim");
    release(&dir, &format!("#!/bin/sh\n{real} \"$@\"\nexit 7\n"));
    service.plan("init return 3");
    old.signal(Signal::HUP);
    let failure = service.wait_for_failure(&old);
    assert!(!failure.contains(BACKGROUND), "{failure}");
    assert_eq!(service.served_by(), old.pid());

    let new = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    service.assert_serves(&new);
    service.wait(&new, "alone");
    // The next one has to be ended, and is ended together with its wrapper.
    service.plan("init never");
    let next = service.start_upgrade(&new);
    service.wait(&next, "init");
    new.signal(Signal::TERM);
    service.wait_until_all_are_gone();
    assert_eq!(service.pidfile(), None);
}

/// What the release has staged is removed though it had died when the old process read the first word of it: behind a script nobody else
/// has its number.
#[test]
fn a1_a_release_behind_a_script_that_dies_unheard_leaves_nothing() {
    let dir = Dir::new();
    let (service, old) = service_at(&dir);
    release(&dir, &format!("#!/bin/sh\n{} \"$@\"\nexit 7\n", env!("CARGO_BIN_EXE_victim")));
    let (new, gate) = service.start_upgrade_to(&old, "main");
    old.stop();
    gate.open();
    let staged = dir.join(format!(".pid.{}", new.pid()));
    dir.wait_until("the new process stages the pid file", || staged.exists().then_some(()));
    new.kill();
    old.signal(Signal::CONT);
    service.wait_for_failure(&old);
    assert!(new.is_gone());
    assert!(!staged.exists());
    release(&dir, &format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_victim")));
    assert_serves_alone(&dir, &service, &old);
}
