//! The graceful revert: the successor gives the service back in its probation, and nothing is lost.

use std::os::unix::net::UnixStream;

use crate::harness::load::Load;
use crate::harness::{Client, Command, Dir, Exit, Process, Service, Signal};

/// A service with a control socket and a long probation.
fn victim(dir: &Dir) -> Command<'_> {
    dir.victim().env("TABLEFLIP_CONTROL", "control").probation("1h")
}

fn operator(service: &Service) -> Client {
    service.connect_unix("control")
}

/// Asks the process that serves for a revert, and waits for the answer.
fn revert(service: &Service) -> serde_json::Value {
    last_reply(&mut asked(service))
}

fn asked(service: &Service) -> Client {
    let mut client = operator(service);
    client.send_command("revert");
    client
}

/// The answer after the phases.
fn last_reply(client: &mut Client) -> serde_json::Value {
    loop {
        let reply = client.reply();
        if reply["reply"] != "phase" {
            return reply;
        }
    }
}

#[track_caller]
fn assert_reverted(reply: &serde_json::Value, old: &Process) {
    assert_eq!((&reply["reply"], &reply["generation"]), (&"reverted".into(), &1.into()), "{reply}");
    assert_eq!(reply["pid"], old.pid());
    assert!(reply["elapsed_ms"].is_u64(), "{reply}");
}

#[track_caller]
fn assert_refused(reply: &serde_json::Value, code: &str, message: &str) {
    assert_eq!((&reply["code"], &reply["message"]), (&code.into(), &message.into()), "{reply}");
}

const NO_STANDBY: &str = "no process is on standby: there was no upgrade, its successor does not serve yet, or its probation is over";

#[test]
fn it_loses_nothing_and_the_rejected_process_finishes_its_connections() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).listen_unix("local").serve();
    let mut before = service.open(&old);
    let mut asker = service.open(&old);
    asker.send("upgrade");
    let new = service.next_process();
    service.wait_until_it_serves(&new);
    service.wait(&old, "standby");
    let load = Load::start(&service.address("echo"));
    let mut during = service.open(&new);
    assert_reverted(&revert(&service), &old);
    service.assert_serves(&old);
    let answered = load.end();
    assert!(answered > 0);

    // Whoever asked for the upgrade hears what has become of it.
    let outcome = asker.receive().unwrap();
    assert!(outcome.starts_with("err Failed { step: Revert"), "{outcome}");
    let reason = format!("the upgrade was reverted on request; it was process {}", new.pid());
    assert!(outcome.ends_with(&reason), "{outcome}");

    // Each process finishes what it has, and the rejected one ends.
    assert_eq!(before.who(), (1, old.pid()));
    assert_eq!(during.who(), (2, new.pid()));
    service.wait(&new, "draining");
    drop(during);
    service.wait_until_it_is_gone(&old, &new);
    // Its end has removed nothing of the process that serves.
    service.assert_serves(&old);
    assert_eq!(service.connect_unix("local").who(), (1, old.pid()));
    assert_eq!(operator(&service).ask_command("status")["pid"], old.pid());

    // The next upgrade is an ordinary one.
    let next = service.upgrade(&old);
    service.assert_serves(&next);
    assert_eq!(service.connect().who().0, 2);
}

#[test]
fn the_body_of_either_process_can_ask_for_it() {
    for asks_the_old_one in [false, true] {
        let dir = Dir::new();
        let (service, old) = victim(&dir).serve();
        let mut before = service.open(&old);
        let new = service.upgrade(&old);
        let mut during = service.open(&new);
        let asked = if asks_the_old_one { &mut before } else { &mut during };
        assert_eq!(asked.ask("revert"), format!("reverted 1 {}", old.pid()));
        service.assert_serves(&old);
        drop(during);
        service.wait_until_it_is_gone(&old, &new);
    }
}

/// Without a process on standby there is nothing to go back to.
#[test]
fn it_is_refused_when_no_process_is_on_standby() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).probation("50ms").serve();
    assert_refused(&revert(&service), "no-standby", NO_STANDBY);
    assert!(service.connect().ask("revert").starts_with("err NoStandby"));

    // While the successor initialises, the old process serves.
    let (new, gate) = service.start_upgrade_to(&old, "init");
    assert_refused(&revert(&service), "no-standby", NO_STANDBY);
    gate.open();
    service.wait_until_it_serves(&new);

    // The predecessor drains.
    let guard = service.open(&new);
    service.wait(&old, "draining");
    let reply = revert(&service);
    assert_eq!(reply["code"], "no-standby", "{reply}");
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    assert_refused(&revert(&service), "no-standby", NO_STANDBY);
    service.assert_serves(&new);
    drop(guard);
}

/// Two requests at once are one revert.
#[test]
fn a_second_request_is_refused_while_the_first_is_under_way() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    let (mut before, mut other) = (service.open(&old), service.open(&old));
    let new = service.upgrade(&old);
    new.stop();
    before.send("revert");
    service.wait(&old, "recalling");
    assert!(other.ask("revert").starts_with("err InProgress"));
    new.signal(Signal::CONT);
    assert_eq!(before.receive().unwrap(), format!("reverted 1 {}", old.pid()));
    service.assert_serves(&old);
}

/// What only the rejected release has ends with it, and its log says so.
#[test]
fn listeners_of_the_rejected_release_are_closed_by_name() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    let path = dir.join("extra");
    service.plan(&format!("listen with extra unix://{}", path.display()));
    let new = service.upgrade(&old);
    assert_eq!(service.connect_unix("extra").who(), (2, new.pid()));
    assert_reverted(&revert(&service), &old);
    service.wait_for(&new, "error", "listener `extra` (unix://");
    service.wait_until_it_is_gone(&old, &new);
    assert!(!path.exists() && UnixStream::connect(&path).is_err());
    service.assert_serves(&old);
}

/// A successor that does not answer is killed at the deadline, and the outcome says what that costs.
#[test]
fn a_successor_that_hangs_is_killed() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    let mut during = service.open(&new);
    new.stop();
    before.send("revert");
    let failure = service.wait_for_failure(&old);
    assert!(failure.contains("it did not give the service back and was killed"), "{failure}");
    assert!(failure.contains("the connections that it had accepted are lost"), "{failure}");
    assert_eq!(before.receive().unwrap(), format!("reverted 1 {}", old.pid()));
    service.assert_serves(&old);
    during.wait_for_the_end();
}

/// A stop means the service, whichever process gets it, and whichever of the two serves by then.
#[test]
fn a_stop_beside_a_reverted_process_stops_both() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).listen_unix("local").serve();
    let new = service.upgrade(&old);
    let mut during = service.open(&new);
    assert_reverted(&revert(&service), &old);
    service.wait(&new, "draining");
    old.signal(Signal::TERM);
    assert_eq!(during.who(), (2, new.pid()), "it finishes what it has");
    service.wait(&new, "stop");
    drop(during);
    assert_eq!((old.exit(), new.exit()), (Exit::Status(0), Exit::Status(0)));
    assert!(!dir.join("local").exists());
    service.assert_over();
}

/// A crash of the old process while the rejected one drains is no outage.
#[test]
fn the_rejected_process_starts_another_one_if_the_old_one_crashes() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).listen_unix("local").serve();
    let new = service.upgrade(&old);
    let mut during = service.open(&new);
    assert_reverted(&revert(&service), &old);
    service.wait(&new, "draining");
    old.kill();
    let next = service.next_process();
    service.wait_until_it_serves(&next);
    service.assert_serves(&next);
    assert_eq!(service.connect_unix("local").who().1, next.pid());
    assert_eq!(during.who(), (2, new.pid()));
}

/// The mended release need not wait for the drain of the rejected one.
#[test]
fn a_further_upgrade_follows_the_option_overlap() {
    let reverted = |dir: &Dir, overlap| {
        let (service, old) = victim(dir).env("TABLEFLIP_OVERLAP", overlap).serve();
        let new = service.upgrade(&old);
        let during = service.open(&new);
        assert_reverted(&revert(&service), &old);
        service.wait(&new, "draining");
        old.signal(Signal::HUP);
        (service, old, new, during)
    };
    let dir = Dir::new();
    let (service, old, _new, _during) = reverted(&dir, "refuse");
    service.wait_for(&old, "error", "upgrade refused: a successor that has served is still draining");

    let dir = Dir::new();
    let (service, old, new, during) = reverted(&dir, "wait");
    service.wait(&old, "postponed");
    assert!(!new.has_exited());
    drop(during);
    let next = service.next_process();
    service.wait_until_it_serves(&next);

    let dir = Dir::new();
    let (service, old, new, mut during) = reverted(&dir, "hasten");
    service.wait(&old, "postponed");
    service.wait_for(&new, "error", "not drained within 1s");
    during.wait_for_the_end();
    let next = service.next_process();
    service.wait_until_it_serves(&next);
    service.assert_serves(&next);
}

/// The connections that the rejected process has accepted move back, and those that the old process has stay there.
#[test]
fn connections_move_back() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).listen("moving", "tcp://127.0.0.1:0").serve();
    let mut before = service.connect_to("moving");
    assert_eq!(before.ask("hello"), format!("1 {} 1 hello", old.pid()));
    let new = service.upgrade(&old);
    let mut during: Vec<_> = (0..50).map(|_| service.connect_to("moving")).collect();
    during.iter_mut().for_each(|client| {
        assert_eq!(client.ask("hello"), format!("2 {} 1 hello", new.pid()));
    });
    assert_reverted(&revert(&service), &old);
    service.wait_until_it_is_gone(&old, &new);
    for client in &mut during {
        assert_eq!(client.ask("hello"), format!("1 {} 2 hello", old.pid()));
    }
    assert_eq!(before.ask("hello"), format!("1 {} 2 hello", old.pid()));
    assert_eq!(operator(&service).ask_command("status")["moves"]["taken"], 50);

    // And forward again, at the next upgrade.
    let next = service.upgrade(&old);
    let mut later = service.connect_to("moving");
    assert_eq!(later.ask("hello"), format!("2 {} 1 hello", next.pid()));
    assert_reverted(&revert(&service), &old);
    service.wait_until_it_is_gone(&old, &next);
    assert_eq!(later.ask("hello"), format!("1 {} 2 hello", old.pid()));
}

#[test]
fn a_connection_that_is_offered_back_outlives_the_rejected_process() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).listen("moving", "tcp://127.0.0.1:0").plan("move gate offer").serve();
    let gate = dir.gate("offer");
    let mut before = service.connect_to("moving");
    assert_eq!(before.ask("hello"), format!("1 {} 1 hello", old.pid()));
    let new = service.upgrade(&old);
    let mut during = service.connect_to("moving");
    assert_eq!(during.ask("hello"), format!("2 {} 1 hello", new.pid()));
    assert_reverted(&revert(&service), &old);
    service.wait_for(&old, "gate", "offer");
    new.kill();
    service.wait_until_it_is_gone(&old, &new);
    gate.open();
    assert_eq!(during.ask("hello"), format!("1 {} 2 hello", old.pid()));
    assert_eq!(before.ask("hello"), format!("1 {} 2 hello", old.pid()));
    service.assert_serves(&old);
}
