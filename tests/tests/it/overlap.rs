//! The option `overlap`: a further upgrade while the predecessor still drains.

use crate::harness::{Client, Command, Dir, Exit, Process, Service, Signal};

fn overlapping<'d>(dir: &'d Dir, how: &str) -> Command<'d> {
    dir.victim().env("TABLEFLIP_OVERLAP", how)
}

/// A further upgrade that waits for the end of the predecessor.
struct Postponed {
    service: Service,
    old: Process,
    new: Process,
    /// The connection for which the predecessor drains.
    before: Client,
    /// The connection that has asked for the upgrade, and waits for its outcome.
    client: Client,
}

impl Postponed {
    fn start(dir: &Dir) -> Self {
        let (service, old) = overlapping(dir, "wait").serve();
        let before = service.open(&old);
        let new = service.upgrade_to_drain(&old, 1);
        let mut client = service.open(&new);
        client.send("upgrade");
        service.wait(&new, "postponed");
        Self { service, old, new, before, client }
    }
}

#[test]
fn it_waits_until_the_predecessor_is_gone() {
    let dir = Dir::new();
    let (service, old) = overlapping(&dir, "wait").serve();
    let mut before = service.open(&old);
    let new = service.upgrade_to_drain(&old, 1);
    new.signal(Signal::HUP);
    service.wait(&new, "postponed");
    // A further one has nothing to wait for.
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "upgrade refused: an upgrade is in progress");
    assert_eq!(before.who(), (1, old.pid()), "the connection is left in peace");
    drop(before);
    let third = service.next_process();
    service.wait_until_it_serves(&third);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.connect().who(), (3, third.pid()));
}

#[test]
fn whoever_awaits_it_gets_the_outcome() {
    let dir = Dir::new();
    let Postponed { service, before, mut client, .. } = Postponed::start(&dir);
    drop(before);
    let third = service.next_process();
    assert_eq!(client.receive().unwrap(), format!("ok 3 {}", third.pid()));
}

#[test]
fn it_begins_when_the_predecessor_is_killed() {
    let dir = Dir::new();
    let (service, old) = overlapping(&dir, "wait").probation("1h").serve();
    let new = service.upgrade(&old);
    new.signal(Signal::HUP);
    service.wait(&new, "postponed");
    old.kill();
    let third = service.next_process();
    service.wait_until_it_serves(&third);
    assert_eq!(service.connect().who(), (3, third.pid()));
}

#[test]
fn a_stop_ends_the_wait() {
    let dir = Dir::new();
    let Postponed { service, old, new, before, mut client } = Postponed::start(&dir);
    new.signal(Signal::TERM);
    let answer = client.receive().unwrap();
    assert!(answer.starts_with("err") && answer.contains("the service was told to stop"), "{answer}");
    drop((before, client));
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
    assert_eq!(service.pidfile(), None);
}

/// The deadline of the drain is an hour, and the connection is never closed by its client.
#[test]
fn haste_ends_the_drain() {
    let dir = Dir::new();
    let (service, old) = overlapping(&dir, "hasten").serve();
    let mut before = service.open(&old);
    let new = service.upgrade_to_drain(&old, 1);
    new.signal(Signal::HUP);
    service.wait(&new, "postponed");
    let named = service.wait_for(&old, "error", "not drained within 1s: 1 connections and guards are open");
    assert!(named.text.contains("127.0.0.1:"), "{}", named.text);
    before.wait_for_the_end();
    let third = service.next_process();
    service.wait_until_it_serves(&third);
    assert_eq!(service.connect().who(), (3, third.pid()));
}

/// Nothing else would watch the new release.
#[test]
fn haste_does_not_shorten_the_standby() {
    let dir = Dir::new();
    let (service, old) = overlapping(&dir, "hasten").probation("1h").serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    new.signal(Signal::HUP);
    service.wait(&new, "postponed");
    // The old one has read of the haste before this, which came to it later by another way.
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: an upgrade is in progress");
    assert_eq!(before.who(), (1, old.pid()));
    new.kill();
    service.wait_for_failure(&old);
    assert_eq!(before.who(), (1, old.pid()));
    assert_eq!(service.served_by(), old.pid());

    // The haste was for that successor.
    let new = service.upgrade(&old);
    old.signal(Signal::TERM);
    service.wait_for(&old, "draining", "open=1");
    // Answered by whoever has acted on the step, so that what belongs to it is done.
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: this process is terminating");
    assert!(!service.transcript().contains("the successor waits for the end of the drain"));
    new.signal(Signal::HUP);
    service.wait_for(&old, "error", "not drained within 1s");
    before.wait_for_the_end();
    assert_eq!(old.exit(), Exit::Status(0));
}

/// B5. The reason says what the predecessor does, and for how long.
#[test]
fn b5_a_second_upgrade_in_the_probation_says_that_the_predecessor_stands_by() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("100s").serve();
    let new = service.start_upgrade(&old);
    service.wait_until_it_serves(&new);
    service.wait(&old, "standby");
    // A release may have another probation: that of the predecessor counts.
    for _ in 0..3 {
        new.signal(Signal::HUP);
    }
    let line = service.wait_for(&new, "error", "upgrade refused: the predecessor is on standby for 1m ");
    assert!(line.text.contains("s more, to serve again if this process dies"), "{}", line.text);
    let answer = service.connect().ask("upgrade");
    assert!(answer.starts_with("err PredecessorOnStandby {"), "{answer}");
    // One reason is one line, whatever time remains.
    let lines = service.transcript().lines().filter(|line| line.contains("upgrade refused")).count();
    assert_eq!(lines, 1, "{}", service.transcript());
}
