//! `Upgrader`: upgrades and stops that the body asks for.

use serde_json::Value;

use crate::harness::{Client, Dir, Exit, Signal};

#[test]
fn upgrade_returns_the_successor() {
    for ask in ["upgrade", "upgrade-blocking"] {
        let dir = Dir::new();
        let (service, old) = dir.victim().serve();
        let mut client = service.connect();
        let answer = client.ask(ask);
        let new = service.next_process();
        assert_eq!(answer, format!("ok 2 {}", new.pid()));
        // Not before the probation is over, which ends with the drain.
        service.wait_for(&old, "draining", "upgraded");
        assert_eq!(service.served_by(), new.pid());
        // What asked is a connection that the old one finishes.
        assert_eq!(client.ask("upgrade"), "err Terminating: this process is terminating");
        drop(client);
        assert_eq!(old.exit(), Exit::Status(0));
    }
}

#[test]
fn upgrade_returns_why_it_failed() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    for (plan, reason) in [
        ("init exit 3", "the successor exited with status 3 before it served"),
        ("init panic boom", "the successor could not start: the body panicked: boom"),
        ("serving abort", "the successor was killed by SIGABRT before it served"),
    ] {
        service.plan(plan);
        let answer = service.connect().ask("upgrade");
        assert!(answer.starts_with("err Failed") && answer.contains(reason), "{plan}: {answer}");
        service.next_process();
        service.wait(&old, "step:Serving");
        assert_eq!(service.served_by(), old.pid(), "{plan}");
    }
    let mut client = service.connect();
    client.send("upgrade");
    service.wait(&old, "standby");
    let new = service.next_process();
    new.kill();
    let answer = client.receive().unwrap();
    let said = format!("the successor was killed by SIGKILL in its probation; it was process {}", new.pid());
    assert!(answer.ends_with(&said), "{answer}");
    assert_eq!(service.served_by(), old.pid());
}

#[test]
fn upgrade_returns_why_it_is_refused() {
    let dir = Dir::new();
    let gate = dir.gate("init");
    // Asked by the body before it is ready.
    let (service, old) = dir.victim().plan("init upgrade").serve();
    assert_eq!(service.wait(&old, "outcome").text, "err NotReady: this process is not ready yet");

    service.plan("init gate init");
    let mut first = service.connect();
    first.send("upgrade");
    let new = service.next_process();
    service.wait(&new, "gate");
    assert_eq!(service.connect().ask("upgrade"), "err InProgress: an upgrade is in progress");
    gate.open();
    assert_eq!(first.receive().unwrap(), format!("ok 2 {}", new.pid()));

    // The connection of the one that asked is open.
    let refused = service.connect().ask("upgrade");
    assert_eq!(refused, "err PredecessorDraining: the predecessor is still draining");
    let mut waits = service.connect();
    waits.send("predecessor");
    drop(first);
    assert_eq!(waits.receive().unwrap(), "gone true");
    let mut third = service.connect();
    assert!(third.ask("upgrade").starts_with("ok 3 "));
}

#[test]
fn upgrade_returns_when_the_service_is_stopped_meanwhile() {
    let dir = Dir::new();
    let _gate = dir.gate("init");
    let (service, old) = dir.victim().serve();
    service.plan("init gate init");
    let mut client = service.connect();
    client.send("upgrade");
    let new = service.next_process();
    service.wait(&new, "gate");
    old.signal(Signal::TERM);
    let answer = client.receive().unwrap();
    assert!(answer.starts_with("err ") && answer.ends_with("the service was told to stop"), "{answer}");
    service.wait(&old, "draining");
    assert_eq!(client.ask("upgrade"), "err Terminating: this process is terminating");
    drop(client);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// From the first word about it, and not only from when the successor that is in the way is dead.
#[test]
fn upgrade_says_that_the_service_is_stopping() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let mut client = service.open(&old);
    let (_new, gate) = service.start_upgrade_to(&old, "step:TakingOver");
    old.signal(Signal::TERM);
    service.wait_for(&old, "step:Committed", "event=Stop");
    let answer = client.ask("upgrade");
    gate.open();
    drop(client);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(answer, "err Terminating: this process is terminating");
}

#[test]
fn stop_stops_the_service() {
    let dir = Dir::new();
    let (service, process) = dir.victim().serve();
    let mut client = service.connect();
    client.ask("stop");
    service.wait_for(&process, "draining", "open=1");
    // A program that says it twice means it once.
    client.ask("stop");
    assert_eq!(client.who(), (1, process.pid()));
    drop(client);
    assert_eq!(process.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

#[test]
fn a_first_process_has_no_predecessor() {
    let dir = Dir::new();
    let (service, _process) = dir.victim().serve();
    assert_eq!(service.connect().ask("predecessor"), "gone false");
}

/// The engine has a thread of its own.
#[test]
fn an_upgrade_works_though_the_runtime_is_blocked() {
    let dir = Dir::new();
    let (service, old) = dir.victim().current_thread().serve();
    service.connect().send("do block");
    service.wait(&old, "blocked");
    let mut waiting = service.connect();
    waiting.send("who");
    // The one whose successor fails is still there, though it cannot show it.
    service.plan("init exit 3");
    service.start_upgrade(&old);
    service.wait_for_failure(&old);
    let new = service.upgrade(&old);
    // What it would not have accepted for a long time yet.
    assert_eq!(waiting.receive().unwrap(), format!("2 {}", new.pid()));
}

/// The body in a task asks with `status`, that in a thread with `status_blocking`.
#[test]
fn status_is_what_the_control_socket_says() {
    let dir = Dir::new();
    let (service, old) = dir.victim().env("TABLEFLIP_CONTROL", "control").serve();
    service.plan("init exit 3");
    service.start_upgrade(&old);
    service.wait_for_failure(&old);
    let status = same_status(&mut service.connect(), &mut service.connect_unix("control"));
    assert_eq!((&status["pid"], &status["version"]), (&old.pid().into(), &"7.7.7".into()));
    assert_eq!(status["upgrades"]["failed"], 1);

    let dir = Dir::new();
    let service = dir.command(env!("CARGO_BIN_EXE_plain")).start();
    dir.wait_until("pid file", || dir.join("declared.pid").exists().then_some(()));
    // It tells the address as well.
    let mut operator = service.connect_unix("declared.control");
    let listeners = operator.ask_command("status")["listeners"].take();
    let address =
        listeners[0]["address"].as_str().and_then(|it| it.strip_prefix("tcp://")).expect("it has one");
    let status = same_status(&mut Client::tcp(address), &mut operator);
    assert_eq!(status["pid"], service.first().pid());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "that of its package");
}

/// What the body answers: the same as what an operator is told, but for the time that passes between the two.
fn same_status(client: &mut Client, operator: &mut Client) -> Value {
    let mut status: Value = serde_json::from_str(&client.ask("status")).unwrap();
    let mut told = operator.ask_command("status");
    for about_the_reply in ["reply", "protocol"] {
        told.as_object_mut().unwrap().remove(about_the_reply).expect("it is there");
    }
    for time in ["uptime_ms", "serving_ms"] {
        let [earlier, later] = [&mut status, &mut told].map(|it| it[time].take().as_u64().expect("a time"));
        assert!(earlier <= later, "{time}: {earlier}, {later}");
    }
    assert_eq!(status, told);
    status
}
