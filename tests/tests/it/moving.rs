//! Open connections move to the successor, or stay: each is served by one process, and its numbers go on.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use serde_json::json;
use tests::channel::Link;

use crate::fake_predecessor::{Heir, entry_of, offer, sockets};
use crate::fake_successor::{Stage, hello};
use crate::harness::{Client, Command, Dir, Exit, Process, Service, Signal};
use crate::limits::limit_files;
use crate::look;
use crate::many::allow_many_files;

/// A service whose connections move.
fn victim(dir: &Dir) -> Command<'_> {
    dir.victim().listen("moving", "tcp://127.0.0.1:0")
}

/// So many connections, each with one answer.
fn open(service: &Service, process: &Process, count: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..count).map(|_| service.connect_to("moving")).collect();
    clients.iter_mut().for_each(|client| assert_answers(client, 1, process, 1));
    clients
}

/// A line is answered by this process, as the n-th of the connection.
#[track_caller]
fn assert_answers(client: &mut Client, generation: u64, process: &Process, number: u64) {
    assert_eq!(client.ask("hello"), format!("{generation} {} {number} hello", process.pid()));
}

/// The process says goodbye, in order.
#[track_caller]
fn assert_goodbye(client: &mut Client, generation: u64, process: &Process) {
    assert_eq!(client.receive().unwrap(), format!("bye {generation} {}", process.pid()));
}

#[track_caller]
fn assert_all_stay(clients: &mut [Client], process: &Process) {
    for client in clients {
        assert_goodbye(client, 1, process);
        client.wait_for_the_end();
    }
}

/// Upgrades to a process that waits for a gate with the first connection that it is offered, and has taken none.
fn upgrade_to_offer(service: &Service, old: &Process) -> Process {
    service.plan("move gate offer");
    let new = service.start_upgrade(old);
    service.wait_for(&new, "gate", "offer");
    new
}

/// As an ordinary user has it, with nearly as many connections as descriptors.
#[test]
fn a_thousand_connections_move_with_eleven_hundred_descriptors() {
    allow_many_files(4096);
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    limit_files(&old, Some(1100));
    let mut clients = open(&service, &old, 1000);
    let new = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    clients.iter_mut().for_each(|client| assert_answers(client, 2, &new, 2));
    assert_eq!(service.connect().who(), (2, new.pid()));
    new.signal(Signal::TERM);
    clients.iter_mut().for_each(|client| assert_goodbye(client, 2, &new));
    assert_eq!(new.exit(), Exit::Status(0));
    service.assert_over();
}

/// What it does not take stays, and it has descriptors left for clients that come.
#[test]
fn a_successor_that_runs_out_of_descriptors_takes_what_it_can() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    let mut clients = open(&service, &old, 100);
    let (new, gate) = service.start_upgrade_to(&old, "init");
    let used = look::numbers(&new);
    let last = (0..).filter(|number| !used.contains(number)).nth(40).map(u64::from).expect("there are more");
    // The last 64 numbers are for the rest of the process.
    limit_files(&new, Some(last + 64));
    gate.open();
    service.wait_until_it_serves(&new);
    assert_eq!(old.exit(), Exit::Status(0));
    let mut moved = 0_usize;
    for client in &mut clients {
        client.send("hello");
        let answer = client.receive().unwrap();
        if answer == format!("2 {} 2 hello", new.pid()) {
            moved += 1;
        } else {
            assert_eq!(answer, format!("bye 1 {}", old.pid()));
            client.wait_for_the_end();
        }
    }
    assert!((1..60).contains(&moved), "{moved} have moved");
    service.wait(&new, "alone");
    let left = 100 - moved;
    assert!(
        service.transcript().contains(&format!("{left} connections of the predecessor have not moved here"))
    );
    assert_eq!(service.connect().who(), (2, new.pid()));
}

#[test]
fn a_successor_that_is_stopped_in_the_middle_costs_no_client_anything() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    let mut clients = open(&service, &old, 20);
    let gate = dir.gate("offer");
    let new = upgrade_to_offer(&service, &old);
    new.stop();
    // The drain has no deadline that counts here: the connections come back by themselves. Each ends though the successor, which does
    // nothing, has a descriptor of it.
    assert_all_stay(&mut clients, &old);
    assert_eq!(old.exit(), Exit::Status(0));
    new.signal(Signal::CONT);
    gate.open();
    service.wait_for(&new, "not-taken", "taken the connection back");
    assert_eq!(service.connect().who(), (2, new.pid()));
    let mut client = service.connect_to("moving");
    assert_answers(&mut client, 2, &new, 1);
}

#[test]
fn a_successor_that_takes_no_such_connection_gets_none() {
    for plan in ["nothing", "kind lines/2", "refuse", "hang"] {
        let dir = Dir::new();
        let (service, old) = victim(&dir).serve();
        let mut clients = open(&service, &old, 5);
        service.plan(&format!("move {plan}"));
        let new = service.upgrade(&old);
        assert_all_stay(&mut clients, &old);
        assert_eq!(old.exit(), Exit::Status(0), "{plan}");
        assert!(!service.has_said(&new, "taken"), "{plan}");
        let mut client = service.connect_to("moving");
        assert_answers(&mut client, 2, &new, 1);
    }
}

/// The connections stay with the old process. It starts its own image again, and that process takes nothing.
#[test]
fn a_successor_that_is_killed_before_it_has_taken_a_connection() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    let mut clients = open(&service, &old, 20);
    let mut held = service.open(&old);
    let _gate = dir.gate("offer");
    let new = upgrade_to_offer(&service, &old);
    new.kill();
    assert_all_stay(&mut clients, &old);
    let rescue = service.next_process();
    service.wait_until_it_serves(&rescue);
    assert_eq!(held.who(), (1, old.pid()));
    drop(held);
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!service.has_said(&rescue, "taken"));
    let mut client = service.connect_to("moving");
    assert_eq!(client.ask("hello").split(' ').nth(1), Some(rescue.pid().to_string().as_str()));
    // It hands over as any other.
    let next = service.upgrade(&rescue);
    service.wait(&next, "taken");
    assert!(client.ask("hello").ends_with(&format!("{} 2 hello", next.pid())));
}

/// As in any crash, and nothing else is lost.
#[test]
fn a_successor_that_is_killed_after_it_has_taken_connections_loses_them() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    let mut clients = open(&service, &old, 10);
    // This one does not move, and the old process waits for it.
    let mut held = service.open(&old);
    let new = service.upgrade(&old);
    for _ in &clients {
        service.wait(&new, "taken");
    }
    clients.iter_mut().for_each(|client| assert_answers(client, 2, &new, 2));
    new.kill();
    clients.iter_mut().for_each(Client::wait_for_the_end);
    assert_eq!(held.who(), (1, old.pid()));
    let rescue = service.next_process();
    service.wait_until_it_serves(&rescue);
    drop(held);
    assert_eq!(old.exit(), Exit::Status(0));
    service.assert_serves(&rescue);
}

/// A stop of the service reaches the successor, which takes nothing from then on.
#[test]
fn a_stop_of_the_service_in_the_middle() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    let mut clients = open(&service, &old, 20);
    let gate = dir.gate("offer");
    let new = upgrade_to_offer(&service, &old);
    new.signal(Signal::TERM);
    // One of them is in the hands of the body, which has not decided.
    assert_all_stay(&mut clients, &old);
    gate.open();
    assert_eq!(old.exit(), Exit::Status(0));
    // Either of the two may end first, and the old process reaps the new one.
    assert!(matches!(new.exit(), Exit::Status(0) | Exit::Reaped));
    service.assert_over();
}

#[test]
fn a_stop_of_the_old_process_in_the_middle() {
    let dir = Dir::new();
    let (service, old) = victim(&dir).serve();
    let mut clients = open(&service, &old, 20);
    let gate = dir.gate("offer");
    let new = upgrade_to_offer(&service, &old);
    old.signal(Signal::TERM);
    assert_all_stay(&mut clients, &old);
    assert_eq!(old.exit(), Exit::Status(0));
    gate.open();
    service.wait(&new, "not-taken");
    service.assert_serves(&new);
}

/// The other process is one of the test, written from `docs/protocol.md`.
mod fakes {
    use super::*;

    /// A service with one listener, `moving`, that an impostor replaces.
    fn stage() -> (Stage, Service, Process) {
        let stage = Stage::new();
        let (service, old) = stage.victim().no_listeners().listen("moving", "tcp://127.0.0.1:0").serve();
        (stage, service, old)
    }

    /// An impostor that serves, and takes connections or not.
    fn impostor(stage: &Stage, service: &Service, old: &Process, takes: bool, then: &[&str]) -> Process {
        let hello = hello();
        let mut steps = vec!["receive", hello.as_str()];
        steps.extend(takes.then_some("takes lines/1"));
        steps.extend([r#"send {"type":"prepared","adopted":[0]}"#, "wait commit"]);
        steps.extend([r#"send {"type":"active"}"#, "wait ping", r#"send {"type":"alive"}"#]);
        steps.extend(then);
        stage.impostor(service, old, &steps)
    }

    /// A release that knows nothing of it says nothing, and is offered nothing.
    #[test]
    fn a_successor_of_an_earlier_release_gets_none() {
        let (stage, service, old) = stage();
        let mut clients = open(&service, &old, 5);
        let new = impostor(&stage, &service, &old, false, &[]);
        assert_all_stay(&mut clients, &old);
        assert_eq!(old.exit(), Exit::Status(0));
        new.kill();
    }

    /// Of whatever comes over the link that is no answer, nothing happens; the connections come back.
    #[test]
    fn a_taker_that_sends_what_is_no_answer_gets_nothing() {
        let unknown = r#"link {"type":"sing","ids":[0,1,2,3,4]}"#;
        let withdrawn = r#"link {"type":"withdrawn","ids":[0,1,2,3,4]}"#;
        let of_others = r#"link {"type":"taken","ids":[5,99,18446744073709551615]}"#;
        for last in ["unlink", "say stays", r#"link {"type":"refused","ids":[4,3,2,1,0]}"#, "exit 0"] {
            let (stage, service, old) = stage();
            let mut clients = open(&service, &old, 5);
            let steps = ["offers", "link-raw garbage", unknown, withdrawn, of_others, "gate go", last];
            let gate = stage.gate("go");
            let new = impostor(&stage, &service, &old, true, &steps);
            service.wait(&new, "gate");
            gate.open();
            for client in &mut clients {
                assert_goodbye(client, 1, &old);
            }
            new.kill();
            clients.iter_mut().for_each(Client::wait_for_the_end);
        }
    }

    /// An answer is the taker's word: what it has taken the old process does not touch any more.
    #[test]
    fn what_a_taker_has_taken_the_old_process_lets_go_of() {
        let (stage, service, old) = stage();
        let mut clients = open(&service, &old, 1);
        let new = impostor(&stage, &service, &old, true, &["offers", r#"link {"type":"taken","ids":[0]}"#]);
        assert_eq!(old.exit(), Exit::Status(0));
        assert!(!new.has_exited());
        // It has the connection open and does nothing with it. With it the connection ends, and nobody has said a word.
        new.kill();
        clients[0].wait_for_the_end();
    }

    /// A successor whose predecessor, the test, serves and is asked whether it has connections.
    fn heir(dir: &Dir) -> (Heir, TcpListener) {
        heir_with(dir.victim(), dir)
    }

    fn heir_with(command: Command<'_>, dir: &Dir) -> (Heir, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let command = command.no_listeners().listen("moving", "tcp://127.0.0.1:0");
        let heir = Heir::start_as(dir, command);
        heir.channel.send(&offer(1));
        heir.channel.send_with(&sockets(&[entry_of("moving")]), &[listener.as_fd()]);
        (heir, listener)
    }

    /// Takes the link that the successor sends, and tells it to serve.
    fn link(heir: &Heir) -> Link {
        let packet = loop {
            let packet = heir.channel.receive().expect("it takes connections");
            if packet.text.contains(r#""type":"takes""#) {
                break packet;
            }
        };
        assert!(packet.text.contains(r#"[{"listener":0,"kinds":["lines/1"]}]"#), "{packet:?}");
        let link = Link::over(packet.fds.into_iter().next().expect("a link"));
        heir.commit();
        link
    }

    /// A connection as a predecessor has it: the client, and the end of the service.
    fn connection() -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::tcp(listener.local_addr().unwrap());
        (client, listener.accept().unwrap().0)
    }

    fn entry(id: u64, stream: &TcpStream) -> serde_json::Value {
        let peer = stream.peer_addr().unwrap().to_string();
        json!({"id": id, "listener": 0, "kind": "lines/1", "peer": peer, "state": 8, "unread": 0})
    }

    #[test]
    fn a_predecessor_of_an_earlier_release_does_not_understand_and_all_else_goes_on() {
        let dir = Dir::new();
        let (heir, _listener) = heir(&dir);
        heir.channel.wait_for("takes");
        heir.channel.send(&json!({"type": "not-understood", "unknown": "takes"}));
        heir.commit();
        let Heir { service, process, .. } = &heir;
        assert_eq!(service.pidfile(), Some(process.pid()));
        heir.channel.send(&json!({"type": "ping"}));
        heir.channel.expect("alive");
        assert!(!service.has_said(process, "error"), "{}", service.transcript());
    }

    #[test]
    fn what_is_no_offer_is_nobodys_and_what_is_one_is_taken() {
        let dir = Dir::new();
        let (heir, _listener) = heir(&dir);
        let link = link(&heir);
        let (mut client, stream) = connection();
        let offers = |entries: &[serde_json::Value]| json!({"type": "offers", "offers": entries});
        let state = 41_u64.to_le_bytes();
        let changed = |id, field: &str, value: serde_json::Value| {
            let mut entry = entry(id, &stream);
            entry[field] = value;
            offers(&[entry])
        };
        // No packets at all, or packets whose parts do not add up: they are passed over.
        link.send_bytes(b"garbage", &[stream.as_fd()]);
        link.send_bytes(b"\xff\xff\xff\xff{}", &[stream.as_fd()]);
        link.send(&json!({"type": "sing"}), b"la", &[stream.as_fd()]);
        link.send(&json!({"type": "taken", "ids": [0]}), b"", &[stream.as_fd()]);
        link.send(&offers(&[entry(0, &stream)]), b"short", &[stream.as_fd()]);
        link.send(
            &offers(&[entry(0, &stream), entry(0, &stream)]),
            &[state, state].concat(),
            &[stream.as_fd()],
        );
        let mut huge = changed(0, "memfd", true.into());
        huge["offers"][0]["state"] = u64::MAX.into();
        huge["offers"][0]["unread"] = 1.into();
        link.send(&huge, b"", &[stream.as_fd(), stream.as_fd()]);
        link.send(&offers(&[entry(0, &stream)]), &state, &[stream.as_fd(), stream.as_fd()]);
        // Offers that it does not take: no descriptor, no such listener, nobody who waits for the kind, a memfd that is none.
        link.send(&offers(&[entry(1, &stream)]), &state, &[]);
        link.send(&changed(2, "listener", 7.into()), &state, &[stream.as_fd()]);
        link.send(&changed(3, "kind", "lines/9".into()), &state, &[stream.as_fd()]);
        link.send(&changed(4, "memfd", true.into()), b"", &[stream.as_fd(), stream.as_fd()]);
        let mut refused = BTreeSet::new();
        while refused.len() < 4 {
            let (head, _) = link.receive().expect("it answers");
            assert_eq!(head["type"], "refused", "{head}");
            refused.extend(head["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()));
        }
        assert_eq!(refused, BTreeSet::from([1, 2, 3, 4]));
        // One that is right, once and then again with its number.
        link.send(&offers(&[entry(5, &stream)]), &state, &[stream.as_fd()]);
        link.send(&offers(&[entry(5, &stream)]), &state, &[stream.as_fd()]);
        assert_eq!(link.receive().expect("it answers").0, json!({"type": "taken", "ids": [5]}));
        drop(stream);
        let pid = heir.process.pid();
        assert_eq!(client.ask("hello"), format!("42 {pid} 42 hello"));
        // Nothing is left of what was passed over: the connection ends with the process.
        drop(link);
        heir.process.signal(Signal::TERM);
        assert_eq!(client.receive().unwrap(), format!("bye 42 {pid}"));
        client.wait_for_the_end();
    }

    /// The predecessor dies with its offer in the link: the successor reads the link to its end, and has the connection.
    #[test]
    fn an_offer_outlives_the_predecessor_and_a_withdrawal_as_well() {
        for is_withdrawn in [false, true] {
            let dir = Dir::new();
            let gate = dir.gate("offer");
            let (heir, _listener) = heir_with(dir.victim().plan("move gate offer"), &dir);
            let link = link(&heir);
            let (mut client, stream) = connection();
            let offers = json!({"type": "offers", "offers": [entry(0, &stream)]});
            link.send(&offers, &0_u64.to_le_bytes(), &[stream.as_fd()]);
            heir.service.wait_for(&heir.process, "gate", "offer");
            if is_withdrawn {
                link.send(&json!({"type": "withdrawn", "ids": [0]}), b"", &[]);
            }
            drop((link, stream));
            gate.open();
            if is_withdrawn {
                heir.service.wait(&heir.process, "not-taken");
                client.wait_for_the_end();
            } else {
                heir.service.wait(&heir.process, "taken");
                assert_eq!(client.ask("hello"), format!("42 {} 1 hello", heir.process.pid()));
            }
        }
    }
}
