//! A release that starts and does not work: the probe before it serves, and the command that verifies it on probation.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use processes::proc::Stat;
use serde_json::{Value, json};

use crate::fake_predecessor::{Heir, entry_of, offer, sockets};
use crate::fake_successor::{Stage, hello};
use crate::harness::load::Load;
use crate::harness::{Client, Command, DEADLINE, Dir, Exit, Process, Service, Signal, wait_until};

/// A service with a listener of HTTP by this name beside `echo`.
fn web<'d>(dir: &'d Dir, name: &str) -> Command<'d> {
    dir.victim().listen(name, "tcp://127.0.0.1:0")
}

fn probed<'d>(dir: &'d Dir, probe: &str) -> Command<'d> {
    dir.victim().env("TABLEFLIP_PROBE", probe)
}

fn verified<'d>(dir: &'d Dir, command: &str) -> Command<'d> {
    dir.victim().env("TABLEFLIP_VERIFY", command)
}

/// The status and the body of one answer.
fn get(address: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("a whole answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").to_owned(), body.to_owned())
}

/// Runs `during` while clients ask one after the other. Returns how many had 200, and how many another answer.
fn under_load(address: &str, during: impl FnOnce()) -> (usize, usize) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = || {
            let (mut good, mut bad) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                if get(address).0 == "200" { good += 1 } else { bad += 1 }
            }
            (good, bad)
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(client)).collect();
        during();
        over.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .map(|client| client.join().expect("no client is lost"))
            .fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    })
}

/// Starts an upgrade that fails; returns the reason.
fn fails(service: &Service, old: &Process) -> String {
    old.signal(Signal::HUP);
    service.wait_for_failure(old)
}

#[test]
fn a_release_that_answers_500_never_serves_a_client() {
    for name in ["http", "axum"] {
        let dir = Dir::new();
        let probe = format!("{name} GET /");
        let (service, old) = web(&dir, name).env("TABLEFLIP_PROBE", &probe).serve();
        let address = service.address(name);
        let (good, bad) = under_load(&address, || {
            for _ in 0..3 {
                service.plan("get status 500 no disk");
                let reason = fails(&service, &old);
                let expected = format!(
                    "upgrade failed: the successor failed the probe `{probe}`: it answered 500 Internal Server Error: no disk"
                );
                assert!(reason.starts_with(&expected), "{reason}");
            }
        });
        assert!(good > 0 && bad == 0, "{name}: {good} good, {bad} bad");
        service.assert_serves(&old);
        let new = service.upgrade(&old);
        assert_eq!(get(&address), ("200".to_owned(), format!("2 {}", new.pid())));
    }
}

/// The body takes the connection by its own accept, be it the last to ask or one of many tasks.
#[test]
fn an_accept_loop_of_your_own_gets_the_probe_and_not_the_queue() {
    let dir = Dir::new();
    for command in [probed(&dir, "GET /health"), probed(&dir, "local GET / 200").listen_unix("local")] {
        let (service, old) = command.serve();
        let new = service.start_upgrade(&old);
        service.wait_for(&old, "probing", "the successor is probed");
        service.wait_for(&old, "probing", "the successor passed the probe");
        service.wait_until_it_serves(&new);
        // The probe is none of the connections that came through the queue.
        let status: Value = serde_json::from_str(&service.connect().ask("status")).unwrap();
        assert_eq!(status["listeners"][0]["taken"], 1, "{status}");
        old.exit();
        service.plan("get status 500 sick");
        let reason = fails(&service, &new);
        assert!(reason.contains(": sick; it was process "), "{reason}");
        service.assert_serves(&new);
    }
}

#[test]
fn a_listener_that_only_the_successor_opens_is_probed_by_its_name() {
    let dir = Dir::new();
    // The old release has the listener elsewhere.
    let (service, old) = web(&dir, "http").env("TABLEFLIP_PROBE", "http GET /").serve();
    let moved = "listen without http; listen with http tcp://127.0.0.2:0";
    service.plan(&format!("{moved}; get status 503 later"));
    let reason = fails(&service, &old);
    assert!(reason.contains("it answered 503 Service Unavailable: later"), "{reason}");
    service.plan("listen without http");
    let reason = fails(&service, &old);
    assert!(reason.contains("`TABLEFLIP_PROBE`: no listener `http` is declared"), "{reason}");
    service.plan(moved);
    service.upgrade(&old);
}

#[test]
fn how_an_answer_is_no_good_is_told() {
    let dir = Dir::new();
    let (service, old) = probed(&dir, "echo GET / 204").serve();
    for (answer, expected) in [
        ("bytes hello", "its answer is not HTTP/1.1: \"hello\""),
        ("bytes ", "it closed the connection without an answer"),
        ("bytes HTTP/1.1 204 No", "it closed the connection in the middle of its answer"),
        ("bytes HTTP/1.1 200 OK||fine", "it answered 200 OK instead of 204: fine"),
        ("endless HTTP/1.1 204 OK|A: b|", "the head of its answer is longer than 16384 bytes"),
        ("endless |", "its answer is not HTTP/1.1: \"\""),
    ] {
        service.plan(&format!("get {answer}"));
        let reason = fails(&service, &old);
        assert!(reason.contains(&format!("the probe `echo GET / 204`: {expected}")), "{answer}: {reason}");
        service.assert_serves(&old);
    }
    service.plan("get bytes HTTP/1.1 204 Fine||");
    service.upgrade(&old);
}

#[test]
fn an_answer_without_end_fails_the_upgrade() {
    let dir = Dir::new();
    let (service, old) = probed(&dir, "GET /").serve();
    service.plan("get endless HTTP/1.1 200 OK|Content-Length: 1000000||x");
    let reason = fails(&service, &old);
    assert!(reason.contains("the body of its answer is longer than 65536 bytes"), "{reason}");
    drop(service);
    for (plan, expected) in [("get hang", "it gave no answer"), ("get block", "it gave no answer")] {
        let dir = Dir::new();
        let (service, old) = probed(&dir, "GET /").upgrade_timeout("2s").serve();
        service.plan(plan);
        let new = service.start_late_upgrade(&old);
        service.wait_for(&old, "probing", "the successor is probed");
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains(&format!("the successor failed the probe `GET /`: {expected}")), "{reason}");
        assert!(new.is_gone());
        service.assert_serves(&old);
    }
}

#[test]
fn a_successor_that_dies_in_the_probe_is_told_by_its_end() {
    let dir = Dir::new();
    let (service, old) = probed(&dir, "GET /").serve();
    for (plan, expected) in [
        ("get exit 7", "the successor exited with status 7 before it served"),
        ("get signal KILL", "the successor was killed by SIGKILL before it served"),
    ] {
        service.plan(plan);
        let reason = fails(&service, &old);
        assert!(reason.contains(expected), "{reason}");
        service.assert_serves(&old);
    }
}

/// The successor has had its probe when the predecessor is gone.
#[test]
fn a_predecessor_that_dies_in_the_probe_leaves_a_successor_that_serves() {
    let dir = Dir::new();
    let gate = dir.gate("probe");
    let (service, old) = probed(&dir, "GET /").serve();
    service.plan("get gate probe");
    let new = service.start_upgrade(&old);
    service.wait_for(&new, "gate", "probe");
    old.kill();
    service.wait_until_it_serves(&new);
    gate.open();
    service.assert_serves(&new);
}

#[test]
fn a_stop_and_another_upgrade_meet_a_probe() {
    let dir = Dir::new();
    let _gate = dir.gate("probe");
    let (service, old) = probed(&dir, "GET /").serve();
    service.plan("get gate probe");
    let mut client = service.open(&old);
    client.send("upgrade");
    let new = service.next_process();
    service.wait_for(&new, "gate", "probe");
    service.assert_serves(&old);
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: an upgrade is in progress");
    old.signal(Signal::TERM);
    let answer = client.receive().unwrap();
    assert!(answer.ends_with(": the service was told to stop"), "{answer}");
    drop(client);
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(new.is_gone());
    service.assert_over();
}

/// A release of before the probe, which answers `not-understood` and closes what came with the message.
#[test]
fn a_release_that_knows_no_probe_is_upgraded_to_without_one() {
    let stage = Stage::new();
    let (service, old) = stage.victim().env("TABLEFLIP_PROBE", "GET /").serve();
    let steps = [
        "receive",
        &hello(),
        r#"send {"type":"prepared","adopted":[0]}"#,
        "wait probe",
        r#"send {"type":"not-understood","unknown":"probe"}"#,
        "wait commit",
        r#"send {"type":"active"}"#,
        "say active",
    ];
    let new = stage.impostor(&service, &old, &steps);
    service.wait_for(
        &old,
        "error",
        "a release of tableflip that cannot be probed; the upgrade goes on without the probe",
    );
    service.wait(&new, "active");
    service.wait(&old, "standby");
}

/// What the protocol says of `probe`, from the side of the predecessor.
#[test]
fn a_probe_comes_from_the_predecessor_with_its_connection() {
    let dir = Dir::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let heir = Heir::start_as(&dir, dir.victim().listen_unix("local"));
    heir.channel.send(&offer(1));
    heir.channel.send_with(&sockets(&[entry_of("echo")]), &[listener.as_fd()]);
    heir.channel.wait_for("prepared");
    let probe = |message: &Value, server: OwnedFd| heir.channel.send_with(message, &[server.as_fd()]);
    let unix = || UnixStream::pair().unwrap();
    let tcp = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, OwnedFd::from(listener.accept().unwrap().0))
    };
    // By its place in the offer, under whatever name; and by its name, of a listener that is new.
    let (mut client, server) = tcp();
    probe(&json!({"type": "probe", "listener": 0, "name": "old-name", "within_ms": 1000}), server);
    let ask = |client: &mut dyn Write| client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    ask(&mut client);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("HTTP/1.1 200 OK\r\n\r\n42 {}", heir.process.pid()));
    let (mut client, server) = unix();
    probe(&json!({"type": "probe", "name": "local", "within_ms": 1000}), server.into());
    ask(&mut client);
    answer.clear();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // One that the body cannot serve is closed, with the reason.
    for (message, server, reason) in [
        (json!({"type": "probe", "name": "web", "within_ms": 0}), tcp().1, "it has no listener `web`"),
        (
            json!({"type": "probe", "listener": 0, "name": "echo", "within_ms": 0}),
            unix().1.into(),
            "its listener `echo` has the address tcp://127.0.0.1:0",
        ),
    ] {
        probe(&message, server);
        assert_eq!(heir.channel.wait_for("unprobed")["reason"], reason);
    }
    heir.channel.send(&json!({"type": "commit"}));
    heir.channel.expect("active");
}

#[test]
fn a_release_that_answers_500_is_reverted_by_verify() {
    let dir = Dir::new();
    // Done by the shell: what a machine has for HTTP is not known here.
    let command = r#"exec 3<>"/dev/tcp/${TABLEFLIP_ADDRESS_HTTP%:*}/${TABLEFLIP_ADDRESS_HTTP##*:}"
        printf 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n' >&3
        read -r _ status rest <&3; echo "answered $status"; test "$status" = 200"#;
    fs::write(dir.join("verify"), command).unwrap();
    let (service, old) =
        web(&dir, "http").env("TABLEFLIP_VERIFY", r#"bash "$VICTIM_DIR/verify""#).probation("1h").serve();
    let address = service.address("http");
    service.plan("get status 500 no disk");
    let (good, _) = under_load(&address, || {
        let reason = fails(&service, &old);
        let expected =
            "the successor failed the verification: the command exited with status 1: answered 500";
        assert!(reason.contains(expected), "{reason}");
    });
    assert!(good > 0);
    service.assert_serves(&old);
    assert_eq!(get(&address).0, "200");
}

/// Not even a probation of 0 s ends before the command has.
#[test]
fn a_probation_does_not_end_before_the_first_run() {
    let dir = Dir::new();
    let gate = dir.gate("verify");
    let command = r#"head -c 1 "$VICTIM_DIR/gate-verify" >"$VICTIM_DIR/opened""#;
    let (service, old) = verified(&dir, command).probation("0s").serve();
    let mut client = service.open(&old);
    client.send("upgrade");
    let new = service.next_process();
    service.wait_until_it_serves(&new);
    service.wait(&old, "standby");
    service.wait_for(&old, "step:Standby(Unverified)", "");
    // A second upgrade comes to the successor, whose predecessor is on standby.
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "upgrade refused: the predecessor is ");
    gate.open();
    service.wait_for(&old, "standby", "the successor passed the verification");
    assert_eq!(client.receive().unwrap(), format!("ok 2 {}", new.pid()));
    assert_eq!(fs::read_to_string(dir.join("opened")).unwrap(), ".");
}

#[test]
fn it_learns_the_upgrade_from_its_environment() {
    let dir = Dir::new();
    let command = r#"env | grep TABLEFLIP_ | sort >"$VICTIM_DIR/env.$TABLEFLIP_GENERATION"; umask >>"$VICTIM_DIR/env.$TABLEFLIP_GENERATION""#;
    let (service, old) = verified(&dir, command)
        .listen("a-b", "udp://127.0.0.1:0")
        .listen_unix("local")
        .listen("gone", "tcp://127.0.0.1:0")
        .serve();
    service.plan("listen without gone");
    let new = service.upgrade(&old);
    service.wait_for(&old, "standby", "the successor passed the verification");
    let text = fs::read_to_string(dir.join("env.2")).unwrap();
    for line in [
        format!("TABLEFLIP_PID={}", new.pid()),
        "TABLEFLIP_GENERATION=2".to_owned(),
        format!("TABLEFLIP_PREDECESSOR={}", old.pid()),
        format!("TABLEFLIP_ADDRESS_ECHO={}", service.address("echo")),
        format!("TABLEFLIP_ADDRESS_A_B={}", service.address("a-b")),
        format!("TABLEFLIP_ADDRESS_LOCAL={}", dir.join("local").display()),
        "0022".to_owned(),
    ] {
        assert!(text.lines().any(|it| it == line), "no {line} in {text}");
    }
    assert!(!text.contains("ADDRESS_GONE"), "the successor does not have it: {text}");
}

/// It runs again each second, and any run may fail.
#[test]
fn a_later_run_that_fails_ends_the_upgrade() {
    let dir = Dir::new();
    let command = r#"echo . >>"$VICTIM_DIR/runs"; test "$(wc -l <"$VICTIM_DIR/runs")" -lt 2 || { echo worn out; exit 3; }"#;
    let (service, old) = verified(&dir, command).probation("1h").serve();
    let load = Load::start(&service.address("echo"));
    let reason = fails(&service, &old);
    assert!(reason.contains("the verification: the command exited with status 3: worn out"), "{reason}");
    assert!(load.end() > 0);
    assert_eq!(fs::read_to_string(dir.join("runs")).unwrap().lines().count(), 2);
    service.wait_for(&old, "standby", "the successor passed the verification");
    service.assert_serves(&old);
}

/// A command that starts another one and waits for it. Both write down who they are.
const ENDLESS: &str = r#"
    echo half way
    sleep 1000 & echo $$ $! >"$VICTIM_DIR/pids.new" && mv "$VICTIM_DIR/pids.new" "$VICTIM_DIR/pids"
    wait
"#;

fn wait_for_death_of_command(dir: &Dir) {
    let text = dir.wait_until("command", || fs::read_to_string(dir.join("pids")).ok());
    let pids: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
    wait_until("death", || pids.iter().all(|pid| Stat::of(pid).is_none_or(|stat| stat.is_zombie())));
}

#[test]
fn one_that_takes_too_long_is_killed_with_all_that_it_started() {
    let dir = Dir::new();
    let (service, old) = verified(&dir, ENDLESS).upgrade_timeout("3s").serve();
    let reason = fails(&service, &old);
    let expected = "the successor failed the verification: the command did not end within 3s: half way";
    assert!(reason.contains(expected), "{reason}");
    wait_for_death_of_command(&dir);
    service.assert_serves(&old);
}

#[test]
fn how_it_failed_is_told() {
    for (command, expected) in [
        ("kill -KILL $$", "the command was killed by SIGKILL"),
        ("head -c 300000 /dev/zero | tr '\\0' x; printf end; exit 1", "xxxend"),
    ] {
        let dir = Dir::new();
        let (service, old) = verified(&dir, command).serve();
        let reason = fails(&service, &old);
        assert!(reason.contains(expected) && reason.len() < 5000, "{command}: {reason}");
        service.assert_serves(&old);
    }
}

#[test]
fn a_successor_that_dies_during_a_run_is_told_by_its_end() {
    let dir = Dir::new();
    let (service, old) = verified(&dir, ENDLESS).serve();
    let new = service.upgrade(&old);
    dir.wait_until("command", || fs::read_to_string(dir.join("pids")).ok());
    new.kill();
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("the successor was killed by SIGKILL in its probation"), "{reason}");
    wait_for_death_of_command(&dir);
    service.assert_serves(&old);
}

#[test]
fn a_stop_ends_a_run() {
    let dir = Dir::new();
    let (service, old) = verified(&dir, ENDLESS).serve();
    let new = service.upgrade(&old);
    dir.wait_until("command", || fs::read_to_string(dir.join("pids")).ok());
    new.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    wait_for_death_of_command(&dir);
    service.assert_over();
}

/// The request of one upgrade may have a command of its own, which takes the place of the option.
#[test]
fn a_request_may_have_a_command_of_its_own() {
    let dir = Dir::new();
    let control = dir.join("control");
    let (service, old) =
        verified(&dir, "echo option; exit 1").env("TABLEFLIP_CONTROL", &control).probation("0s").serve();
    let ask = |verify: &str| {
        let mut client = Client::unix(&control);
        client.send(&json!({"command": "upgrade", "verify": verify}).to_string());
        loop {
            let reply = client.reply();
            if reply["reply"] != "phase" {
                return reply;
            }
        }
    };
    for (command, problem) in
        [("", "it is empty; `true` checks nothing"), ("a\0", "a command has no NUL byte")]
    {
        let reply = ask(command);
        assert_eq!(
            (&reply["code"], &reply["message"]),
            (&json!("bad-request"), &json!(format!("`verify`: {problem}")))
        );
    }
    let reply = ask("echo request; exit 2");
    let expected = "the verification: the command exited with status 2: request";
    assert!(reply["message"].as_str().unwrap().contains(expected), "{reply}");
    service.wait_for_failure(&old);
    service.wait_for(&old, "info", "the successor is gone");
    // The next upgrade has the option again.
    assert!(fails(&service, &old).contains("the command exited with status 1: option"));
    service.wait_for(&old, "info", "the successor is gone");
    assert_eq!(ask("true")["reply"], "upgraded");
}
