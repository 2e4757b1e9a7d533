//! What operators learn of the end of an upgrade and of a process: what a drain has cut, both releases, the state of the predecessor,
//! the last failure, and the last upgrades.

use std::fs;
use std::net::TcpStream;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::fake_predecessor::{Heir, entry_of, offer, sockets};
use crate::harness::{Client, Command, Dir, Exit, Process, Service, Signal};

fn controlled(dir: &Dir) -> Command<'_> {
    dir.victim().env("TABLEFLIP_CONTROL", "control")
}

fn operator(service: &Service) -> Client {
    service.connect_unix("control")
}

fn status(service: &Service) -> Value {
    operator(service).ask_command("status")
}

/// A client of the control socket that has got an answer to `watch`.
fn watcher(service: &Service) -> Client {
    let mut client = operator(service);
    client.ask_command("watch");
    client
}

/// So many connections that this process has accepted, and their addresses in the order of a report.
fn open(service: &Service, process: &Process, count: usize) -> (Vec<Client>, Vec<String>) {
    let address = service.address("echo");
    let one = |_| {
        let stream = TcpStream::connect(&address).unwrap();
        let peer = stream.local_addr().unwrap();
        let mut client = Client::over_tcp(stream);
        assert_eq!(client.who().1, process.pid());
        (peer, client)
    };
    let mut open: Vec<_> = (0..count).map(one).collect();
    open.sort_by_key(|(peer, _)| *peer);
    let (peers, clients): (Vec<_>, Vec<_>) = open.into_iter().unzip();
    (clients, peers.iter().map(ToString::to_string).collect())
}

/// The lines `drained` up to the end of the connection, whose last line has to be one.
#[track_caller]
fn drained(client: &mut Client) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut last = Value::Null;
    while let Ok(line) = client.receive() {
        last = serde_json::from_str(&line).unwrap();
        if last["reply"] == "drained" {
            lines.push(last.clone());
        }
    }
    assert_eq!(last["reply"], "drained", "it is the last line: {last}");
    lines
}

#[track_caller]
fn assert_drained(line: &Value, process: &Process, aborted: usize, peers: &[String]) {
    assert_eq!((&line["pid"], &line["aborted"]), (&process.pid().into(), &aborted.into()), "{line}");
    assert_eq!(line["peers"], json!(peers), "{line}");
    assert!(line["duration_ms"].is_u64(), "{line}");
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_stop_tells_every_client_that_waits_what_it_has_cut() {
    for count in [0, 1, 3] {
        let dir = Dir::new();
        let (service, process) = controlled(&dir).drain_timeout("200ms").serve();
        let (_clients, peers) = open(&service, &process, count);
        let mut waiting = [watcher(&service), operator(&service)];
        // A client that has asked for nothing that ends with the process hears no more.
        let mut asked = operator(&service);
        assert_eq!(asked.ask_command("status")["open"], count);
        waiting[1].send_command("stop");
        for client in &mut waiting {
            let lines = drained(client);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert_drained(&lines[0], &process, count, &peers);
        }
        asked.wait_for_the_end();
        assert_eq!(process.exit(), Exit::Status(0));
    }
}

/// Of many clients eight are named. A guard counts, and has no address.
#[test]
fn of_many_that_are_cut_some_are_named() {
    let dir = Dir::new();
    let _gate = dir.gate("guard");
    let (service, process) = controlled(&dir).drain_timeout("200ms").serve();
    let (mut clients, peers) = open(&service, &process, 12);
    clients[0].ask("guard guard");
    let mut client = operator(&service);
    client.send_command("stop");
    let lines = drained(&mut client);
    assert_drained(&lines[0], &process, 13, &peers[..8]);
}

/// A connection that ends after the deadline, in the time that another process has yet, is not cut: the count is that of the end.
#[test]
fn an_upgrade_tells_its_successors_what_it_has_cut() {
    let dir = Dir::new();
    let (service, first) = controlled(&dir).drain_timeout("200ms").serve();
    assert_eq!(status(&service)["last_drain"], Value::Null);
    let mut process = first;
    let mut total = 0;
    for (generation, count) in [(1, 3), (2, 0), (3, 1)] {
        let (_clients, peers) = open(&service, &process, count);
        let mut waiting = [watcher(&service), operator(&service)];
        waiting[1].send_command("upgrade");
        for client in &mut waiting {
            let lines = drained(client);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert_drained(&lines[0], &process, count, &peers);
        }
        assert_eq!(process.exit(), Exit::Status(0));
        let new = service.next_process();
        service.wait(&new, "alone");
        total += count;
        let status = status(&service);
        let drain = &status["last_drain"];
        assert_drained(drain, &process, count, &peers);
        assert_eq!(drain["generation"], generation);
        assert_eq!(status["aborted_total"].as_u64().unwrap_or_default(), total as u64, "{status}");
        let record = status["history"].as_array().unwrap().last().unwrap();
        assert_eq!((&record["outcome"], &record["aborted"]), (&"upgraded".into(), &count.into()), "{record}");
        process = new;
    }
}

/// What the successor has taken by then is not cut, nor what is on its way to it.
#[test]
fn connections_that_move_are_not_cut() {
    for is_slow in [false, true] {
        let dir = Dir::new();
        let gate = dir.gate("offer");
        let command = controlled(&dir).listen("moving", "tcp://127.0.0.1:0").drain_timeout("300ms");
        let (service, old) = command.serve();
        let (_clients, peers) = open(&service, &old, 1);
        let mut moving: Vec<_> = (0..3).map(|_| service.connect_to("moving")).collect();
        for client in &mut moving {
            assert_eq!(client.ask("a"), format!("1 {} 1 a", old.pid()));
        }
        if is_slow {
            service.plan("move gate offer");
        }
        let mut client = operator(&service);
        client.send_command("upgrade");
        let new = service.next_process();
        let lines = drained(&mut client);
        assert_drained(&lines[0], &old, 1, &peers);
        assert_eq!(old.exit(), Exit::Status(0));
        gate.open();
        for client in &mut moving {
            assert_eq!(client.ask("b"), format!("2 {} 2 b", new.pid()), "slow: {is_slow}");
        }
    }
}

/// The process that stops passes on what its predecessor has cut.
#[test]
fn a_stop_while_the_predecessor_drains_tells_of_both() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).drain_timeout("500ms").serve();
    let (_before, of_old) = open(&service, &old, 2);
    service.plan("main setenv TABLEFLIP_DRAIN_TIMEOUT 2s");
    let new = service.upgrade_to_drain(&old, 2);
    let (_after, of_new) = open(&service, &new, 1);
    let mut client = operator(&service);
    client.send_command("stop");
    let lines = drained(&mut client);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_drained(&lines[0], &old, 2, &of_old);
    assert_drained(&lines[1], &new, 1, &of_new);
    service.assert_over();
}

/// An operator of the old process, whose request to stop means the service, hears of both as well.
#[test]
fn a_stop_in_the_probation_tells_of_both() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).probation("1h").drain_timeout("2s").serve();
    let (_before, of_old) = open(&service, &old, 1);
    let mut client = watcher(&service);
    service.plan("main setenv TABLEFLIP_DRAIN_TIMEOUT 500ms");
    let new = service.upgrade(&old);
    let (_after, of_new) = open(&service, &new, 2);
    client.send_command("stop");
    let lines = drained(&mut client);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_drained(&lines[0], &new, 2, &of_new);
    assert_drained(&lines[1], &old, 1, &of_old);
    service.assert_over();
}

#[test]
fn a_hastened_drain_tells_the_operator_who_waits_what_it_has_cut() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).env("TABLEFLIP_OVERLAP", "hasten").serve();
    let (_clients, peers) = open(&service, &old, 2);
    let new = service.upgrade_to_drain(&old, 2);
    let mut client = operator(&service);
    client.send_command("upgrade");
    let line = loop {
        let line = client.reply();
        if line["reply"] == "drained" {
            break line;
        }
        assert_eq!(line["reply"], "phase");
    };
    assert_drained(&line, &old, 2, &peers);
    let lines = drained(&mut client);
    assert_drained(&lines[0], &new, 0, &[]);
    let third = service.next_process();
    service.wait(&third, "alone");
    let status = status(&service);
    assert_eq!((&status["aborted_total"], &status["last_drain"]["aborted"]), (&2.into(), &0.into()));
    // The one that asked, though the upgrade began later.
    let record = status["history"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&record["by"]["kind"], &record["by"]["pid"]),
        (&"control".into(), &std::process::id().into())
    );
}

/// The second signal ends the process at once, and cuts all that is open.
#[test]
fn a_second_stop_tells_what_it_has_cut() {
    let dir = Dir::new();
    let (service, process) = controlled(&dir).serve();
    let (_clients, peers) = open(&service, &process, 2);
    let mut client = watcher(&service);
    process.signal(Signal::TERM);
    service.wait_for(&process, "draining", "open=2");
    // Signals of two kinds that come within a moment are one request.
    while client.reply()["phase"] != "draining" {}
    process.signal(Signal::TERM);
    while !process.has_exited() {
        process.signal(Signal::TERM);
    }
    let lines = drained(&mut client);
    assert_drained(&lines[0], &process, 2, &peers);
}

#[test]
fn both_releases_are_in_the_outcome_the_log_and_the_history() {
    let dir = Dir::new();
    let one = dir.copy_of_victim("one");
    let current = dir.join("current");
    std::os::unix::fs::symlink(&one, &current).unwrap();
    let (service, old) = controlled(&dir).binary(&current).plan("listen version 0.1.0").serve();
    let two = dir.copy_of_victim("two");
    fs::remove_file(&current).unwrap();
    std::os::unix::fs::symlink(&two, &current).unwrap();
    service.plan("listen version 0.2.0");
    let mut client = operator(&service);
    client.send_command("upgrade");
    let upgraded = loop {
        let line = client.reply();
        if line["reply"] != "phase" {
            break line;
        }
    };
    let release = |version: &str, path: &std::path::Path| json!({"version": version, "executable": path.canonicalize().unwrap()});
    let (from, to) = (release("0.1.0", &one), release("0.2.0", &two));
    assert_eq!((&upgraded["reply"], &upgraded["from"], &upgraded["to"]), (&"upgraded".into(), &from, &to));
    let line = service.wait_for(&old, "draining", "upgraded").text;
    assert!(line.contains("from=\"0.1.0\"") && line.contains("to=\"0.2.0\""), "{line}");
    let new = service.next_process();
    service.wait(&new, "alone");
    let status = status(&service);
    assert_eq!(status["version"], "0.2.0");
    let record = &status["history"][0];
    assert_eq!((&record["from"], &record["to"]), (&from, &to));
    assert_eq!((&record["generation"], &record["pid"]), (&1.into(), &new.pid().into()));
    assert_eq!(record["duration_ms"], upgraded["elapsed_ms"]);
}

#[test]
fn the_status_says_what_the_predecessor_does_and_for_how_long() {
    let dir = Dir::new();
    let (service, old) =
        controlled(&dir).probation("1h").drain_timeout("1h").env("TABLEFLIP_OVERLAP", "hasten").serve();
    let (_clients, _) = open(&service, &old, 2);
    assert_eq!(status(&service)["predecessor_state"], Value::Null);
    let new = service.upgrade(&old);
    let mut watching = watcher(&service);
    // The next line whose predecessor is so.
    let mut next = |is_it: &dyn Fn(&Value) -> bool| loop {
        let state = watching.reply()["predecessor_state"].take();
        if is_it(&state) {
            return state;
        }
    };
    let state = next(&|state| state["phase"] == "standby" && state["open"] == 2);
    let left = state["remaining_ms"].as_u64().unwrap();
    assert!((3_000_000..=3_600_000).contains(&left), "{state}");
    old.signal(Signal::TERM);
    let state = next(&|state| state["phase"] == "draining");
    assert_eq!(state["open"], 2);
    let left = state["remaining_ms"].as_u64().unwrap();
    assert!((3_000_000..=3_600_000).contains(&left), "{state}");
    // A deadline that comes near is told.
    new.signal(Signal::HUP);
    let state = next(&|state| state["remaining_ms"].as_u64() < Some(3_000_000));
    assert!(state == Value::Null || state["remaining_ms"].as_u64() <= Some(1000), "{state}");
    service.wait(&new, "alone");
    assert_eq!(old.exit(), Exit::Status(0));
}

/// What an older release does not say is not known.
#[test]
fn of_a_predecessor_of_an_older_release_only_the_number_is_known() {
    let dir = Dir::new();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let heir = Heir::start_as(&dir, controlled(&dir));
    heir.channel.send(&offer(1));
    heir.channel.send_with(&sockets(&[entry_of("echo")]), &[std::os::fd::AsFd::as_fd(&socket)]);
    heir.channel.wait_for("prepared");
    heir.channel.send(&json!({"type": "commit"}));
    heir.channel.wait_for("active");
    heir.channel.send(&json!({"type": "open", "open": 3}));
    let mut watching = watcher(&heir.service);
    let status = loop {
        let status = watching.reply();
        if status["generations"][0]["open"] == 3 {
            break status;
        }
    };
    assert!(status["predecessor"].is_u64() && status["predecessor_state"].is_null(), "{status}");
    assert!(status["last_drain"].is_null() && status["history"].is_null(), "{status}");
    // What it may not say twice, nor at any length.
    let peers = vec!["x".repeat(100); 20];
    for aborted in [5, 7] {
        let drained = json!({"type": "drained", "aborted": aborted, "peers": peers, "duration_ms": 9});
        heir.channel.send(&drained);
    }
    let entry = json!({"outcome": "postponed", "reason": "y".repeat(2000), "by": {"kind": "moon"}});
    heir.channel.send(&json!({"type": "history", "entries": vec![entry; 25]}));
    let status = loop {
        let status = watching.reply();
        if status["history"].is_array() {
            break status;
        }
    };
    assert_eq!(status["aborted_total"], 5);
    let peers = status["last_drain"]["peers"].as_array().unwrap();
    assert_eq!((peers.len(), peers[0].as_str().unwrap().len()), (8, 64));
    let history = status["history"].as_array().unwrap();
    assert_eq!((history.len(), history[0]["reason"].as_str().unwrap().len()), (20, 512));
    assert_eq!((&history[0]["outcome"], &history[0]["by"]["kind"]), (&"unknown".into(), &"unknown".into()));
}

#[test]
fn every_failure_leaves_the_step_the_process_and_its_last_words() {
    let dir = Dir::new();
    let executable = dir.copy_of_victim("svc");
    let command = controlled(&dir).binary(&executable).listen_unix("local").probation("1h");
    let (service, old) = command.upgrade_timeout("2s").plan("listen name a").serve();
    for (plan, step, words) in [
        ("init panic no-configuration", "start", "the body panicked: no-configuration"),
        ("main exit 7", "start", "exited with status 7"),
        ("listen name b", "identity", "it is the service `b`"),
        ("init block", "readiness", "was not ready within 2s"),
    ] {
        service.plan(&format!("listen name a; {plan}"));
        let before = now();
        let new = service.start_late_upgrade(&old);
        let said = service.wait_for_failure(&old);
        assert_failed(&service, before, &said, (Some(&new), step, words));
    }

    // In the probation: a panic, a death, and a predecessor that is told to stop.
    for (does, words) in [("body panic too-late", "too-late"), ("", "in its probation")] {
        service.plan("listen name a");
        let before = now();
        let new = service.upgrade(&old);
        match does {
            "" => new.kill(),
            order => assert_eq!(service.open(&new).ask(order), "sent"),
        }
        let said = service.wait_for_failure(&old);
        assert_failed(&service, before, &said, (Some(&new), "probation", words));
        service.wait_until_it_is_gone(&old, &new);
    }

    // No process was started.
    fs::remove_file(&executable).unwrap();
    let before = now();
    old.signal(Signal::HUP);
    let said = service.wait_for_failure(&old);
    assert_failed(&service, before, &said, (None, "spawn", "No such file"));
    let status = status(&service);
    let upgrades = &status["upgrades"];
    assert_eq!((&upgrades["failed"], &upgrades["stopped"]), (&7.into(), &Value::Null), "{upgrades}");
    let history = status["history"].as_array().unwrap();
    assert_eq!(history.len(), 7);
    for record in history {
        assert_eq!(record["outcome"], "failed");
        assert_eq!((&record["by"]["kind"], &record["by"]["signal"]), (&"signal".into(), &"SIGHUP".into()));
        let file = executable.canonicalize();
        assert!(file.is_err(), "it is removed");
        assert!(record["from"]["executable"].as_str().unwrap().ends_with("/svc"), "{record}");
    }
    let last = history.last().unwrap();
    assert_eq!(
        (&last["step"], &last["pid"], &last["to"]["version"]),
        (&"spawn".into(), &Value::Null, &Value::Null)
    );
}

/// The process, the step and the words of the last failure, which the log has as well.
#[track_caller]
fn assert_failed(service: &Service, before: u64, said: &str, expected: (Option<&Process>, &str, &str)) {
    let (process, step, words) = expected;
    let failed = status(service)["upgrades"]["last_failed"].take();
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains(words) && said.contains(reason), "{said}: {failed}");
    assert_eq!(failed["step"], step, "{failed}");
    assert_eq!(failed["pid"], process.map_or(Value::Null, |process| process.pid().into()), "{failed}");
    if let Some(process) = process {
        assert!(reason.ends_with(&format!("; it was process {}", process.pid())), "{failed}");
    }
    let at = failed["at"].as_u64().unwrap();
    assert!((before..=now()).contains(&at), "{failed}");
}

/// Who asked is known of each, and all of it goes from generation to generation.
#[test]
fn the_history_names_who_asked_and_is_handed_on() {
    let dir = Dir::new();
    let ok = dir.join("ok");
    fs::write(&ok, "").unwrap();
    let preflight = format!("test -e {} || {{ echo no-disk; exit 3; }}", ok.display());
    let command = controlled(&dir).env("TABLEFLIP_PREFLIGHT", preflight).plan("listen version 1");
    let (service, first) = command.serve();

    // By the body, in vain: the preflight command says no.
    fs::remove_file(&ok).unwrap();
    let answer = service.open(&first).ask("upgrade");
    assert!(answer.contains("no-disk"), "{answer}");
    fs::write(&ok, "").unwrap();
    let state = status(&service);
    assert_eq!(state["upgrades"]["rejected"], 1);
    let failed = &state["upgrades"]["last_failed"];
    assert_eq!((&failed["pid"], &failed["step"]), (&Value::Null, &"preflight".into()), "{failed}");

    // By an operator.
    service.plan("listen version 2");
    let asked = now();
    let mut client = operator(&service);
    client.send_command("upgrade");
    drained(&mut client);
    let second = service.next_process();
    service.wait(&second, "alone");
    // By a signal, in vain and then not.
    service.plan("init panic no-configuration");
    service.start_upgrade(&second);
    service.wait_for_failure(&second);
    service.plan("listen version 3");
    let third = service.upgrade(&second);
    service.wait(&third, "alone");

    let history = status(&service)["history"].take();
    let history = history.as_array().unwrap();
    let uid = rustix::process::getuid().as_raw();
    let control = json!({"kind": "control", "uid": uid, "pid": std::process::id()});
    let signal = json!({"kind": "signal", "signal": "SIGHUP"});
    let expected = [
        ("rejected", 1, Value::Null, "1", Value::Null, json!({"kind": "body"})),
        ("upgraded", 1, second.pid().into(), "1", "2".into(), control),
        ("failed", 2, Value::Null, "2", "7.7.7".into(), signal.clone()),
        ("upgraded", 2, third.pid().into(), "2", "3".into(), signal),
    ];
    assert_eq!(history.len(), expected.len(), "{history:?}");
    for (record, (outcome, generation, pid, from, to, by)) in history.iter().zip(expected) {
        assert_eq!(
            (&record["outcome"], &record["generation"]),
            (&outcome.into(), &json!(generation)),
            "{record}"
        );
        if !pid.is_null() {
            assert_eq!(record["pid"], pid, "{record}");
        }
        assert_eq!((&record["from"]["version"], &record["to"]["version"]), (&from.into(), &to), "{record}");
        assert_eq!(record["by"], by, "{record}");
        assert!((asked - 60..=now()).contains(&record["at"].as_u64().unwrap()), "{record}");
        assert!(record["duration_ms"].is_u64(), "{record}");
        assert_eq!(record["aborted"], if outcome == "upgraded" { 0.into() } else { Value::Null }, "{record}");
    }
    assert!(history[0]["reason"].as_str().unwrap().contains("no-disk"), "{history:?}");
}

/// The oldest go first, and the reasons of twenty long ones are handed on.
#[test]
fn the_history_has_the_last_twenty() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).serve();
    for number in 1..=21 {
        service.plan(&format!("init panic {number} {}", "x".repeat(1000)));
        service.start_upgrade(&old);
        service.wait_for_failure(&old);
    }
    let history = |service: &Service| status(service)["history"].as_array().unwrap().clone();
    let before = history(&service);
    assert_eq!(before.len(), 20);
    let reason = before[0]["reason"].as_str().unwrap();
    assert!(reason.contains("panicked: 2 xxx") && reason.len() == 512, "{reason}");
    let new = service.upgrade(&old);
    service.wait(&new, "alone");
    let after = history(&service);
    assert_eq!(after[..19], before[1..]);
    assert_eq!((after.len(), &after[19]["outcome"]), (20, &"upgraded".into()));
}

/// A stop of the old process in the probation is not an upgrade, though the successor serves on.
#[test]
fn an_upgrade_that_a_stop_has_ended_is_in_the_history_of_the_successor() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).probation("1h").serve();
    let mut client = operator(&service);
    client.send_command("upgrade");
    while client.reply()["phase"] != "standby" {}
    let new = service.next_process();
    old.signal(Signal::TERM);
    service.wait(&new, "alone");
    let record = status(&service)["history"][0].take();
    assert_eq!((&record["outcome"], &record["step"]), (&"stopped".into(), &"stop".into()), "{record}");
    assert_eq!((&record["pid"], &record["aborted"]), (&new.pid().into(), &0.into()), "{record}");
}

/// The release that was rejected is named, and what its drain has cut is known to the process that serves again.
#[test]
fn a_revert_is_in_the_history_with_what_the_rejected_process_has_cut() {
    let dir = Dir::new();
    let command = controlled(&dir).probation("1h").drain_timeout("300ms").plan("listen version 1");
    let (service, old) = command.serve();
    service.plan("listen version 2");
    let new = service.upgrade(&old);
    let (_clients, peers) = open(&service, &new, 2);
    let mut client = operator(&service);
    client.send_command("revert");
    while client.reply()["reply"] != "reverted" {}
    service.wait_until_it_is_gone(&old, &new);
    let status = status(&service);
    assert_eq!((&status["pid"], &status["upgrades"]["reverted"]), (&old.pid().into(), &1.into()), "{status}");
    let failed = &status["upgrades"]["last_failed"];
    assert_eq!((&failed["pid"], &failed["step"]), (&new.pid().into(), &"revert".into()), "{failed}");
    let record = &status["history"][0];
    assert_eq!((&record["outcome"], &record["step"]), (&"reverted".into(), &"revert".into()), "{record}");
    assert_eq!(
        (&record["from"]["version"], &record["to"]["version"]),
        (&"1".into(), &"2".into()),
        "{record}"
    );
    assert_drained(&status["last_drain"], &new, 2, &peers);
    assert_eq!((&status["last_drain"]["generation"], &status["aborted_total"]), (&2.into(), &2.into()));
}

/// The predecessor that would have told the success dies in the probation. The upgrade has happened all the same.
#[test]
fn an_upgrade_whose_predecessor_dies_in_the_probation_is_in_the_history() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).probation("1h").serve();
    let new = service.upgrade(&old);
    assert_eq!(status(&service)["history"], Value::Null);
    old.kill();
    service.wait(&new, "alone");
    let state = status(&service);
    let record = &state["history"][0];
    assert_eq!((&record["outcome"], &record["generation"]), (&"upgraded".into(), &1.into()), "{state}");
    assert_eq!((&record["pid"], &state["upgrades"]["done"]), (&new.pid().into(), &1.into()), "{state}");
    assert_eq!(record["from"]["version"], "7.7.7", "{state}");
}
