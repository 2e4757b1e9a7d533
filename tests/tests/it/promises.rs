//! The four promises of Cloudflare's tableflip, and the fifth.

use crate::harness::{Dir, Exit, Signal};

/// D3: every connection that comes after it is served by the new one.
#[test]
fn no_old_code_keeps_running_after_a_successful_upgrade() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let mut before = service.open(&old);

    let new = service.upgrade(&old);
    assert_eq!(service.connect().who(), (2, new.pid()));
    assert_eq!(service.pidfile(), Some(new.pid()));
    // What keeps it is the connection, which is served to its end.
    service.wait_for(&old, "draining", "open=1");
    assert_eq!(before.ask("still there?"), "echo still there?");
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    assert_eq!(service.served_by(), new.pid());

    new.signal(Signal::TERM);
    assert_eq!(new.exit(), Exit::Status(0));
    service.assert_over();
}

#[test]
fn the_new_process_has_a_grace_period_to_initialise() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let (new, gate) = service.start_upgrade_to(&old, "init");

    // It takes as long as it takes; meanwhile the old one serves.
    service.assert_serves(&old);

    gate.open();
    service.wait_until_it_serves(&new);
    service.wait(&old, "standby");
    service.assert_serves(&new);
    assert_eq!(old.exit(), Exit::Status(0));
}

#[test]
fn crashing_while_it_initialises_is_harmless() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let mut before = service.connect();
    for (crash, reason) in [
        ("exit 0", "exited with status 0"),
        ("exit 3", "exited with status 3"),
        ("panic boom", "boom"),
        ("abort", "was killed by SIGABRT"),
        ("signal SEGV", "was killed by SIGSEGV"),
        ("signal KILL", "was killed by SIGKILL"),
    ] {
        service.plan(&format!("init {crash}"));
        let new = service.start_upgrade(&old);
        let error = service.wait_for_failure(&old);
        assert!(error.contains(reason), "{crash}: {error}");
        assert!(new.is_gone(), "{crash}");
        assert_eq!(before.who(), (1, old.pid()), "{crash}");
        assert_eq!(service.served_by(), old.pid(), "{crash}");
        assert_eq!(service.pidfile(), Some(old.pid()), "{crash}");
    }

    // And none of it stands in the way of the next upgrade.
    let new = service.upgrade(&old);
    assert_eq!(service.connect().who(), (2, new.pid()));
}

#[test]
fn only_one_upgrade_runs_at_a_time() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    let (new, gate) = service.start_upgrade_to(&old, "init");

    // One that serves, one that is not ready: whoever of them is asked, there is no third.
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: an upgrade is in progress");
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "upgrade refused: this process is not ready yet");

    gate.open();
    service.wait_until_it_serves(&new);
    service.wait(&old, "standby");
    // Two that are ready: as long as the old one may have to come back, there is no third.
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: an upgrade is in progress");
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "upgrade refused: the predecessor is on standby for ");
    let starts = service.transcript().lines().filter(|line| line.contains(" 0 main")).count();
    assert_eq!(starts, 2, "nobody has started a third");

    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    let third = service.upgrade(&new);
    assert_eq!(service.connect().who(), (3, third.pid()));
}

#[test]
fn crashing_just_after_it_became_ready_is_harmless_too() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    let mut before = service.open(&old);
    for (crash, reason) in [
        ("do abort", "was killed by SIGABRT"),
        ("do exit 3", "exited with status 3"),
        ("do signal KILL", "was killed by SIGKILL"),
        // To end by itself without having been asked to is a crash as well.
        ("body return 0", "ended in its probation: the body returned; it was process"),
        ("body panic boom", "ended in its probation: the body panicked: boom; it was process"),
    ] {
        let new = service.upgrade(&old);
        assert_eq!(service.pidfile(), Some(new.pid()), "{crash}");
        let mut after = service.connect();
        assert_eq!(after.who(), (2, new.pid()), "{crash}");

        after.send(crash);
        let error = service.wait_for_failure(&old);
        assert!(error.contains("in its probation") && error.contains(reason), "{crash}: {error}");
        // One that is over may take its time.
        service.wait_until_it_is_gone(&old, &new);
        assert_eq!(before.who(), (1, old.pid()), "{crash}");
        assert_eq!(service.served_by(), old.pid(), "{crash}");
        assert_eq!(service.pidfile(), Some(old.pid()), "{crash}");
    }
    let new = service.upgrade(&old);
    assert_eq!(service.connect().who(), (2, new.pid()));
}
