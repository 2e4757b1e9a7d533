//! SIGTERM during an upgrade, to either process or to both.

use std::time::Duration;

use crate::harness::{Dir, Exit, Signal};

#[test]
fn a_stop_while_the_successor_initialises() {
    for point in ["main", "init", "step:Prepared"] {
        let dir = Dir::new();
        let (service, old) = dir.victim().serve();
        let mut open = service.open(&old);
        let (new, _gate) = service.start_upgrade_to(&old, point);

        old.signal(Signal::TERM);
        service.wait_for(&old, "error", "upgrade failed: the service was told to stop");
        service.wait_for(&old, "draining", "open=1");
        assert!(new.is_gone(), "{point}: before the drain begins");
        assert_eq!(open.who(), (1, old.pid()), "{point}");
        drop(open);
        assert_eq!(old.exit(), Exit::Status(0), "{point}");
        assert_eq!(service.pidfile(), None, "{point}");
        service.wait_until_all_are_gone();
    }
}

/// It may have accepted connections already: both drain.
#[test]
fn a_stop_once_the_successor_was_told_to_serve() {
    for point in ["step:TakingOver", "serving"] {
        let dir = Dir::new();
        let (service, old) = dir.victim().listen_unix("local").serve();
        let mut open = service.open(&old);
        let (new, gate) = service.start_upgrade_to(&old, point);

        old.signal(Signal::TERM);
        service.wait_for(&old, "step:Committed", "event=Stop");
        gate.open();
        service.wait_for(&old, "draining", "open=1");
        assert_eq!(open.who(), (1, old.pid()), "{point}");
        service.wait(&new, "draining");
        new.exit();
        drop(open);
        assert_eq!(old.exit(), Exit::Status(0), "{point}");
        assert_eq!(service.pidfile(), None, "{point}");
        assert!(!dir.join("local").exists(), "{point}");
        service.wait_until_all_are_gone();
    }
}

/// systemd sends SIGTERM to every process of a unit: the successor gets it, and is told to stop by its predecessor. That is one
/// stop. A later signal is a second one.
#[test]
fn a_stop_that_comes_by_signal_and_by_the_predecessor() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    let (new, gate) = service.start_upgrade_to(&old, "serving");
    let mut open = service.open(&new);
    old.signal(Signal::TERM);
    service.wait_for(&old, "step:Committed", "event=Stop");
    gate.open();
    service.wait_for(&new, "draining", "open=1");
    new.signal(Signal::TERM);
    service.wait_for(&new, "stop", "SIGTERM");
    assert_eq!(open.who(), (2, new.pid()));
    new.terminate_again();
    open.wait_for_the_end();
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
}

/// Either the body never begins, or the stop is a drain that waits for it. In between a body began, and was cut off without a word.
#[test]
fn a_stop_at_any_moment_of_a_start_ends_it_before_the_body_or_drains() {
    let mut begun = 0;
    for moment in 0..60 {
        let dir = Dir::new();
        let service = dir.victim().awaits_shutdown().plan("shutdown return 5").start();
        let process = service.first();
        // Spread over the time that a start takes.
        std::thread::sleep(Duration::from_micros(250) * moment);
        process.signal(Signal::TERM);
        let exit = process.exit();
        let has_begun = service.has_said(process, "init");
        let expected: &[Exit] = match has_begun {
            true => &[Exit::Status(5)],
            // The signal came before the handlers.
            false => &[Exit::Status(0), Exit::Signal(15)],
        };
        assert!(expected.contains(&exit), "{moment}: {exit:?}, the body has begun: {has_begun}");
        begun += usize::from(has_begun);
    }
    assert!(begun > 0, "no stop came after the begin of the body");
}

/// A manager signals a wrapper and the service, and the wrapper passes on what it got. The engine waits at a gate until both have
/// come.
#[test]
fn b8_two_sigterms_that_come_together_are_one_stop() {
    let dir = Dir::new();
    let gate = dir.gate("here");
    let service = dir.victim().plan("serving gate here").start();
    let process = service.first();
    service.wait(process, "gate");
    let mut open = service.open(process);
    process.deliver(Signal::TERM);
    process.deliver(Signal::TERM);
    gate.open();
    service.wait_for(process, "draining", "open=1");
    assert_eq!(open.who(), (1, process.pid()));
    drop(open);
    assert_eq!(process.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

/// The pid file names the successor: a stop of the old one is not one of the service.
#[test]
fn a_stop_of_the_old_one_in_standby() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    let new = service.upgrade(&old);
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    service.assert_serves(&new);
}

#[test]
fn a_stop_of_the_successor_before_it_serves() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let (new, gate) = service.start_upgrade_to(&old, "init");
    new.signal(Signal::TERM);
    service.wait(&new, "stop");
    gate.open();
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("it was told to stop"), "{reason}");
    assert!(new.is_gone());
    service.assert_serves(&old);
}

/// A stop of the one that the pid file names is a stop of the service: nobody takes it for a death.
#[test]
fn a_stop_of_the_successor_in_its_probation() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    let mut after = service.open(&new);
    new.signal(Signal::TERM);
    service.wait_for(&new, "draining", "open=1");
    service.wait_for(&old, "draining", "open=1");
    assert_eq!(before.who(), (1, old.pid()));
    assert_eq!(after.who(), (2, new.pid()));
    drop(after);
    new.exit();
    assert_eq!(service.pidfile(), None);
    assert!(!dir.join("local").exists());
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
}

/// Its release has another path for the control socket: the old one's goes with the old one.
#[test]
fn a_stop_in_the_probation_of_a_release_that_has_given_up_a_path() {
    for signalled in ["new", "both"] {
        let dir = Dir::new();
        let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
        service.plan("main setenv VICTIM_LISTEN echo tcp://127.0.0.1:0");
        let new = service.upgrade(&old);
        assert!(dir.join("local").exists());
        new.signal(Signal::TERM);
        if signalled == "both" {
            old.signal(Signal::TERM);
        }
        assert_eq!(old.exit(), Exit::Status(0));
        service.wait_until_all_are_gone();
        assert!(!dir.join("local").exists(), "{signalled}");
    }
}

#[test]
fn a_stop_of_the_successor_while_the_old_one_drains() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    new.signal(Signal::TERM);
    new.exit();
    service.wait_for(&old, "step:Draining", "event=Leaving");
    assert_eq!(before.who(), (1, old.pid()));
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.assert_over();
}

/// What systemd does, KillMode=control-group: whichever of the two is the first to hear of it.
#[test]
fn a_stop_of_every_process_at_once() {
    for (point, old_first) in [
        ("main", true),
        ("init", true),
        ("init", false),
        ("serve", true),
        ("serve", false),
        ("step:Prepared", true),
        ("step:Prepared", false),
        ("step:TakingOver", true),
        ("step:TakingOver", false),
        ("serving", true),
        ("serving", false),
        ("step:Serving", true),
        ("step:Serving", false),
    ] {
        let dir = Dir::new();
        let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
        let (new, gate) = service.start_upgrade_to(&old, point);
        if old_first {
            old.signal(Signal::TERM);
            // Which may have killed it by now.
            new.signal_if_alive(Signal::TERM);
        } else {
            new.signal(Signal::TERM);
            old.signal(Signal::TERM);
        }
        gate.open();
        assert_eq!(old.exit(), Exit::Status(0), "{point}, {old_first}");
        service.wait_until_all_are_gone();
        assert_eq!(service.pidfile(), None, "{point}, {old_first}");
        assert!(!dir.join("local").exists(), "{point}, {old_first}");
    }
}

/// The successor's word that it is stopping arrives before the signal: that signal is the first one all the same, and
/// what is open is finished.
#[test]
fn a_stop_of_every_process_that_the_old_one_hears_of_by_its_successor() {
    for probation in ["1h", "1ms"] {
        let dir = Dir::new();
        let (service, old) = dir.victim().listen_unix("local").probation(probation).serve();
        let mut before = service.open(&old);
        let new = service.upgrade(&old);
        new.signal(Signal::TERM);
        service.wait_for(&old, "step:Draining", "event=Leaving");
        old.signal(Signal::TERM);
        service.wait(&old, "stop");
        assert_eq!(before.who(), (1, old.pid()), "{probation}");
        drop(before);
        assert_eq!(old.exit(), Exit::Status(0), "{probation}");
        service.wait_until_all_are_gone();
        assert_eq!(service.pidfile(), None, "{probation}");
        assert!(!dir.join("local").exists(), "{probation}");
    }
}

/// The same with the two done with each other, but for what is open.
#[test]
fn a_stop_of_every_process_while_the_old_one_drains() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    old.signal(Signal::TERM);
    new.signal(Signal::TERM);
    new.exit();
    assert_eq!(before.who(), (1, old.pid()));
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
    assert_eq!(service.pidfile(), None);
    assert!(!dir.join("local").exists());
}

/// H7. And wherever the two happen to be.
#[test]
fn a_stop_of_every_process_at_any_moment_of_an_upgrade() {
    let dir = Dir::new();
    for round in 0..60 {
        let (service, old) = dir.victim().listen_unix("local").probation("1ms").serve();
        let mut before = service.open(&old);
        old.signal(Signal::HUP);
        // Not to wait for anything: to be somewhere else in the upgrade each time.
        std::thread::sleep(Duration::from_micros(round * 150));
        old.signal_group(Signal::TERM);
        service.wait(&old, "stop");
        assert_eq!(before.who(), (1, old.pid()), "{round}");
        drop(before);
        assert_eq!(old.exit(), Exit::Status(0), "{round}");
        service.wait_until_all_are_gone();
        assert_eq!(service.pidfile(), None, "{round}");
        assert!(!dir.join("local").exists(), "{round}");
    }
}
