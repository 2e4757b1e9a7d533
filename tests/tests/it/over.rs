//! A2, A4, A13, D5: a process that is over, or gives no sign of life, but lives.

use crate::harness::{Client, Dir, Exit, Process, Service, Signal};

/// A2, A13: a successor whose body returns in the probation, and whose `main` goes on after `run`.
#[test]
fn a2_a_successor_that_is_over_in_its_probation_is_no_outage() {
    let dir = Dir::new();
    let gate = dir.gate("linger");
    let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
    let mut before = service.open(&old);
    service.plan("exit gate linger");
    let new = service.upgrade(&old);
    let mut client = service.open(&new);
    client.send("body return 0");
    let failure = service.wait_for_failure(&old);
    let said = format!(
        "the successor ended in its probation: the body returned; it was process {}; this process",
        new.pid()
    );
    assert!(failure.contains(&said), "{failure}");

    // It lives, and the old process serves: at the path too, which is not the other one's to remove.
    service.wait(&new, "gate");
    assert!(!new.has_exited());
    for _ in 0..20 {
        assert_eq!(service.served_by(), old.pid());
        assert_eq!(service.connect_unix("local").who().1, old.pid());
    }
    assert_eq!(before.who(), (1, old.pid()));
    assert_eq!(service.pidfile(), Some(old.pid()));
    // Two processes at most: the next upgrade is refused until it is gone.
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: a successor that has served is still draining");
    gate.open();
    service.wait_until_it_is_gone(&old, &new);
    let next = service.upgrade(&old);
    assert_eq!(service.served_by(), next.pid());
}

/// A2: with a body that is gone as well, the old process starts its own image again.
#[test]
fn a2_a_stop_beside_a_successor_that_is_over_stops_the_service() {
    let dir = Dir::new();
    let gate = dir.gate("linger");
    let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
    service.plan("exit gate linger");
    let new = service.upgrade(&old);
    let mut client = service.open(&new);
    client.send("body return 0");
    service.wait_for_failure(&old);
    service.wait(&new, "gate");
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
    assert!(!dir.join("local").exists());
    gate.open();
    assert_eq!(new.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
}

/// A2: a predecessor that has returned from `run` lives on, and nobody takes its word for its death.
#[test]
fn a2_a_predecessor_that_goes_on_after_run_is_not_gone() {
    let dir = Dir::new();
    let gate = dir.gate("linger");
    let (service, old) = dir.victim().plan("exit gate linger").serve();
    let new = service.upgrade(&old);
    service.wait(&old, "gate");
    let mut client = service.open(&new);
    client.send("predecessor");
    // It is its predecessor as long as it lives, and a third process is started beside neither.
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "upgrade refused: the predecessor is still draining");
    assert!(!service.has_said(&new, "alone") && !old.has_exited());
    gate.open();
    assert_eq!(client.receive().unwrap(), "gone true");
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    let next = service.upgrade(&new);
    assert_eq!(service.served_by(), next.pid());
}

/// A2: the body of the old process returns while its successor initialises, and `main` goes on. That one serves all the same.
#[test]
fn a2_a_body_that_returns_in_an_upgrade_leaves_the_service_to_the_successor() {
    let dir = Dir::new();
    let (linger, init) = (dir.gate("linger"), dir.gate("init"));
    let (service, old) = dir.victim().plan("exit gate linger").serve();
    service.plan("init gate init");
    let mut client = service.open(&old);
    let new = service.start_upgrade(&old);
    service.wait(&new, "gate");
    client.send("body return 0");
    service.wait(&old, "gate");
    init.open();
    service.wait_until_it_serves(&new);
    assert!(!old.has_exited());
    service.assert_serves(&new);
    linger.open();
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
}

/// A service in the middle of a probation, and the client that has asked for the upgrade and waits for the outcome.
fn asked_and_on_probation(dir: &Dir) -> (Service, Process, Process, Client) {
    let (service, old) = dir.victim().probation("1h").serve();
    let mut client = service.open(&old);
    client.send("upgrade");
    let new = service.next_process();
    service.wait_until_it_serves(&new);
    service.wait(&old, "standby");
    (service, old, new, client)
}

/// A4: an upgrade whose service is stopped before its probation is over has not succeeded.
#[test]
fn a4_a_stop_in_the_probation_is_no_upgrade() {
    let dir = Dir::new();
    let (service, old, new, mut client) = asked_and_on_probation(&dir);
    new.signal(Signal::TERM);
    let outcome = client.receive().unwrap();
    assert!(outcome.starts_with("err") && outcome.contains("told to stop"), "{outcome}");
    drop(client);
    // The predecessor reaps it, if it lives longer.
    let status = new.exit();
    assert!(matches!(status, Exit::Status(0) | Exit::Reaped), "{status:?}");
    assert_eq!(old.exit(), Exit::Status(0));
    service.assert_over();
}

/// A4: a stop of the old process alone, before the probation is over: the successor serves, and that it goes on to is not known.
#[test]
fn a4_a_stop_of_the_predecessor_in_the_probation_is_no_success() {
    let dir = Dir::new();
    let (service, old, new, mut client) = asked_and_on_probation(&dir);
    old.signal(Signal::TERM);
    let outcome = client.receive().unwrap();
    let reason = format!("process {} serves, and nothing watches it", new.pid());
    assert!(outcome.starts_with("err") && outcome.contains(&reason), "{outcome}");
    // The successor dies while the old process finishes its connection: that is said, and nothing is started.
    new.kill();
    service.wait_for(
        &old,
        "error",
        "was killed by SIGKILL; this process was told to stop, and the service is down",
    );
    drop(client);
    assert_eq!(old.exit(), Exit::Status(0));
    service.assert_over();
}

/// A stop that comes before the successor is told to serve means the service, though the engine looks at both at once.
#[test]
fn a_stop_that_comes_with_the_answer_of_the_successor_stops_the_service() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let (new, gate) = service.start_upgrade_to(&old, "init");
    old.stop();
    gate.open();
    service.wait(&new, "prepared");
    // It is pending, and `prepared` is in the channel.
    old.signal(Signal::TERM);
    old.signal(Signal::CONT);
    let failure = service.wait_for(&old, "error", "upgrade failed: ").text;
    assert!(failure.contains("the service was told to stop"), "{failure}");
    assert_eq!(old.exit(), Exit::Status(0));
    service.assert_over();
}

/// D5: what hangs passes no probation.
#[test]
fn d5_a_successor_that_is_stopped_in_its_probation_fails() {
    let dir = Dir::new();
    let (service, old) = dir.victim().upgrade_timeout("1s").probation("1s").serve();
    let new = service.upgrade(&old);
    new.stop();
    let failure = service.wait_for_failure(&old);
    assert!(failure.contains("gave no sign of life within 1s"), "{failure}");
    assert!(new.is_gone());
    service.assert_serves(&old);
}

/// D5: with threads there is no runtime that could answer, and the engine does.
#[test]
fn d5_a_successor_that_blocks_its_runtime_fails() {
    for current_thread in [false, true] {
        let dir = Dir::new();
        let command = dir.victim().upgrade_timeout("1s").probation("1s");
        let command = if current_thread { command.current_thread() } else { command };
        let (service, old) = command.serve();
        service.plan("serve block");
        let new = service.upgrade(&old);
        service.wait(&new, "blocked");
        let failure = service.wait_for_failure(&old);
        assert!(failure.contains("gave no sign of life within 1s"), "{current_thread}: {failure}");
        assert_eq!(service.served_by(), old.pid());
    }
}

/// D5: one that is slow to give the sign is on probation until it does.
#[test]
fn d5_a_sign_of_life_that_comes_late_prolongs_the_probation() {
    let dir = Dir::new();
    let gate = dir.gate("slow");
    let (service, old) = dir.victim().serve();
    service.plan("serve gate slow");
    let new = service.upgrade(&old);
    service.wait(&new, "gate");
    service.wait(&old, "step:Standby(Asked)");
    let mut client = service.connect();
    client.send("who");
    assert!(!service.has_said(&old, "draining"));
    gate.open();
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(client.receive().unwrap(), format!("2 {}", new.pid()));
}
