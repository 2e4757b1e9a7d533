//! The control socket: the requests of operators and their answers, and hostile clients.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::harness::find;
use crate::harness::{
    Client, Command, DEADLINE, Dir, Exit, Process, Root, Service, Signal, names_in, root_or_skip,
};

fn controlled(dir: &Dir) -> Command<'_> {
    dir.victim().env("TABLEFLIP_CONTROL", "control")
}

/// A connection to the control socket.
fn operator(service: &Service) -> Client {
    service.connect_unix("control")
}

fn ask(service: &Service, command: &str) -> Value {
    operator(service).ask_command(command)
}

/// The phases, up to another answer, and that one.
fn story(client: &mut Client) -> (Vec<String>, Value) {
    let mut phases = Vec::new();
    loop {
        let answer = client.reply();
        if answer["reply"] != "phase" {
            return (phases, answer);
        }
        phases.push(answer["phase"].as_str().unwrap().to_owned());
    }
}

#[test]
fn it_tells_how_things_stand() {
    let dir = Dir::new();
    let address = "tcp://127.0.0.1:0?backlog=7";
    let (service, old) = controlled(&dir).no_listeners().listen("echo", address).probation("1h").serve();
    let mode = fs::metadata(dir.join("control")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let client = service.open(&old);
    let status = ask(&service, "status");
    assert_eq!(status["reply"], "status");
    assert_eq!(status["protocol"], 1);
    assert_eq!(status["release"], "0.1.0");
    assert_eq!((&status["generation"], &status["pid"]), (&1.into(), &old.pid().into()));
    assert_eq!((&status["phase"], &status["open"]), (&"serving".into(), &1.into()));
    assert!(status["serving_ms"].as_u64() <= status["uptime_ms"].as_u64());
    assert_eq!(status["version"], "7.7.7", "the victim states it");
    let generations = serde_json::json!([{"generation": 1, "pid": old.pid(), "open": 1}]);
    assert_eq!(status["generations"], generations);
    let echo = serde_json::json!([{
        "name": "echo", "address": format!("tcp://{}", service.address("echo")), "taken": 1, "waiting": 0,
        "backlog": 7,
    }]);
    assert_eq!(status["listeners"], echo);
    let running = old.proc("exe");
    let file = fs::metadata(&running).unwrap();
    let executable = serde_json::json!({
        "path": fs::read_link(running).unwrap(), "device": file.dev(), "inode": file.ino(), "modified": file.mtime(),
    });
    assert_eq!(status["executable"], executable);

    let new = service.upgrade(&old);
    let status = ask(&service, "status");
    assert_eq!((&status["generation"], &status["pid"]), (&2.into(), &new.pid().into()));
    assert_eq!(status["predecessor"], old.pid());
    assert_eq!((&status["open"], &status["upgrades"]["done"]), (&0.into(), &1.into()));
    let refused = ask(&service, "upgrade")["message"].clone();
    let standby = "the predecessor is on standby for 1h more, to serve again if this process dies";
    assert_eq!(refused, standby);
    let upgrades = serde_json::json!({"done": 1, "refused": 1, "failed": 0, "last_failure": refused});
    assert_eq!(ask(&service, "status")["upgrades"], upgrades);
    // What is open in the predecessor it says itself, at once and when it has changed.
    let open = |open: u32| {
        serde_json::json!([
            {"generation": 1, "pid": old.pid(), "open": open},
            {"generation": 2, "pid": new.pid(), "open": 0},
        ])
    };
    let mut watching = operator(&service);
    watching.send_command("watch");
    while watching.reply()["generations"] != open(1) {}
    drop(client);
    while watching.reply()["generations"] != open(0) {}
    old.kill();
    service.wait(&new, "alone");
    assert_eq!(ask(&service, "status")["predecessor"], Value::Null);
}

/// Of a listener that nobody accepts from.
#[test]
fn it_tells_how_many_connections_wait() {
    let dir = Dir::new();
    let idle = "tcp://127.0.0.1:0?backlog=5";
    let command = controlled(&dir).listen("idle", idle).takes_ready().plan("init skip idle");
    let (service, _process) = command.serve();
    let queue = || {
        let listener = ask(&service, "status")["listeners"][1].take();
        assert_eq!((&listener["name"], &listener["taken"]), (&"idle".into(), &0.into()));
        (listener["waiting"].as_u64().unwrap(), listener["backlog"].as_u64().unwrap())
    };
    assert_eq!(queue(), (0, 5));
    let connect = |_| TcpStream::connect(service.address("idle")).unwrap();
    let waiting: Vec<_> = (0..3).map(connect).collect();
    // The last of a handshake may be on its way still.
    find("queue of three", || (queue() == (3, 5)).then_some(()));
    drop(waiting);
}

#[test]
fn an_upgrade_is_told_phase_by_phase_to_its_outcome() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).env("TABLEFLIP_PREFLIGHT", "true").serve();
    let mut client = operator(&service);
    client.send_command("upgrade");
    let (phases, outcome) = story(&mut client);
    assert_eq!(phases, ["checking", "upgrading", "handing-over", "standby", "draining"]);
    let new = service.next_process();
    assert_eq!((&outcome["reply"], &outcome["generation"]), (&"upgraded".into(), &2.into()));
    assert_eq!(outcome["pid"], new.pid());
    assert!(outcome["elapsed_ms"].is_u64());
    // The connection is the old one's, and ends with it.
    assert_eq!(client.reply()["reply"], "drained");
    client.wait_for_the_end();
    assert_eq!(old.exit(), Exit::Status(0));
}

#[test]
fn two_operators_get_one_upgrade() {
    let dir = Dir::new();
    let gate = dir.gate("slow");
    let (service, _old) = controlled(&dir).serve();
    service.plan("init gate slow");
    let (mut one, mut two) = (operator(&service), operator(&service));
    one.send_command("upgrade");
    assert_eq!(one.reply()["phase"], "upgrading");
    two.send_command("upgrade");
    // What happens meanwhile is told to both.
    let (_, refusal) = story(&mut two);
    assert_eq!((&refusal["reply"], &refusal["code"]), (&"error".into(), &"in-progress".into()));
    // One who asks twice is told so as well, and gets the outcome of the first.
    one.send_command("upgrade");
    let (_, refusal) = story(&mut one);
    assert_eq!(refusal["code"], "in-progress");
    gate.open();
    let (_, outcome) = story(&mut one);
    assert_eq!((&outcome["reply"], &outcome["generation"]), (&"upgraded".into(), &2.into()));
}

#[test]
fn a_failure_is_told_with_its_reason_and_remembered() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).serve();
    service.plan("init panic no-configuration");
    let mut client = operator(&service);
    client.send_command("upgrade");
    let (_, outcome) = story(&mut client);
    assert_eq!((&outcome["reply"], &outcome["code"]), (&"error".into(), &"failed".into()));
    let pid = service.next_process().pid();
    let reason =
        format!("the successor could not start: the body panicked: no-configuration; it was process {pid}");
    assert_eq!(outcome["message"], reason);
    let status = ask(&service, "status");
    assert_eq!((&status["pid"], &status["phase"]), (&old.pid().into(), &"serving".into()));
    let at = &status["upgrades"]["last_failed"]["at"];
    let last_failed = serde_json::json!({"pid": pid, "step": "start", "reason": reason, "at": at});
    let upgrades = serde_json::json!({
        "done": 0, "refused": 0, "failed": 1, "last_failure": reason, "last_failed": last_failed,
    });
    assert_eq!(status["upgrades"], upgrades);
}

#[test]
fn a_stop_is_told_to_the_end() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).serve();
    let open = service.open(&old);
    let mut client = operator(&service);
    client.send_command("stop");
    assert_eq!(client.reply()["reply"], "stopping");
    assert_eq!(client.reply()["phase"], "draining");
    drop(open);
    assert_eq!(client.reply()["phase"], "ended");
    assert_eq!(client.reply()["reply"], "drained");
    client.wait_for_the_end();
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!names_in(dir.path()).contains(&"control".to_owned()), "its path is gone");
}

/// Who had called before the socket was handed over is heard by the old process still, and means the service.
#[test]
fn a_stop_on_a_connection_from_before_the_handover_stops_the_service() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).probation("1h").serve();
    let mut client = operator(&service);
    client.send_command("status");
    assert_eq!(client.reply()["pid"], old.pid());
    let new = service.upgrade(&old);
    client.send_command("stop");
    assert_eq!(client.reply()["reply"], "stopping");
    service.wait(&new, "stop");
    service.wait_until_all_are_gone();
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

#[test]
fn whoever_watches_is_told_of_every_change() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).probation("1h").serve();
    let mut client = operator(&service);
    client.send_command("watch");
    assert_eq!(client.reply()["phase"], "serving");
    let new = service.upgrade(&old);
    while client.reply()["successor"] != new.pid() {}
    while client.reply()["phase"] != "standby" {}
    new.kill();
    while client.reply()["phase"] != "serving" {}
}

/// It belongs to whoever serves, as every listener does.
#[test]
fn it_moves_to_the_successor_and_back() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).probation("1h").serve();
    let pid_of = |service: &Service| ask(service, "status")["pid"].as_u64().unwrap();
    let inode = || fs::metadata(dir.join("control")).unwrap().ino();
    let first = inode();
    let new = service.upgrade(&old);
    assert_eq!(pid_of(&service), u64::from(new.pid()));
    new.kill();
    service.wait_for_failure(&old);
    assert_eq!(pid_of(&service), u64::from(old.pid()));
    assert_eq!(inode(), first, "nobody was ever without it");

    let new = service.upgrade(&old);
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(pid_of(&service), u64::from(new.pid()));
    assert_eq!(inode(), first);
}

#[test]
fn what_is_no_request_is_answered() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).serve();
    for line in ["", "{}", "status", r#"{"command":"dance"}"#, r#"{"command":7}"#, "[1,2"] {
        let mut client = operator(&service);
        client.send(line);
        let answer = client.reply();
        assert_eq!((&answer["reply"], &answer["code"]), (&"error".into(), &"bad-request".into()), "{line}");
        // The next line is a new one.
        client.send(r#"{"command":"status","later releases":"may say more"}"#);
        assert_eq!(client.reply()["pid"], old.pid());
    }
    let mut client = connect(&dir);
    client.write_all(b"\xff\xfe\n{\"command\":\"status\"}\n{\"command\":\"status\"}").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).unwrap();
    let replies: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(replies.len(), 2, "half a line is none: {answers}");
    assert_eq!((&replies[0]["code"], &replies[1]["reply"]), (&"bad-request".into(), &"status".into()));
}

fn connect(dir: &Dir) -> UnixStream {
    let stream = UnixStream::connect(dir.join("control")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A megabyte without a line, a thousand that say nothing, and readers that do not read, during an upgrade.
#[test]
fn hostile_clients_cost_little_and_delay_nothing() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).serve();
    let before = (old.descriptors().len(), kilobytes(&old, "VmRSS:"));
    let crowd: Vec<UnixStream> = (0..1000).map(|_| connect(&dir)).collect();
    let flooding = thread::spawn({
        let mut client = connect(&dir);
        move || {
            // It is told once, and hung up on.
            let failed = client.write_all(&vec![b'x'; 1 << 20]);
            let mut answer = String::new();
            (failed.is_err(), client.read_to_string(&mut answer).map(|_| answer))
        }
    });
    let deaf: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut client = connect(&dir);
            client.set_nonblocking(true).unwrap();
            // Until nothing more goes in: what comes back is not read.
            while client.write(b"{\"command\":\"status\"}\n").is_ok() {}
            client
        })
        .collect();
    let (failed, answer) = flooding.join().unwrap();
    assert!(failed || answer.is_ok_and(|answer| answer.contains("a line has at most 4096 bytes")));

    let (descriptors, kilobytes) = (old.descriptors().len(), kilobytes(&old, "VmRSS:"));
    println!("{descriptors} descriptors, {kilobytes} kB; before {before:?}");
    // As many as are served, and one that is about to be, or to be turned away.
    assert!(descriptors <= before.0 + 33, "{descriptors} descriptors, {} before", before.0);
    assert!(kilobytes < before.1 + 8192, "{kilobytes} kB, {} before", before.1);

    assert_eq!(service.served_by(), old.pid());
    let new = service.upgrade(&old);
    assert_eq!(ask(&service, "status")["pid"], new.pid());
    drop((crowd, deaf));
}

/// What a hostile client does with its connection, and with those that it keeps open.
type Attack = fn(&mut UnixStream, &mut Vec<UnixStream>);

const ATTACKS: [Attack; 4] = [
    // A crowd that says nothing.
    |client, kept| kept.insert(0, client.try_clone().unwrap()),
    // A megabyte without a line feed.
    |client, _| is_cut_off(client.write_all(&vec![b'x'; 1 << 20])),
    // Bytes that are no text.
    |client, _| {
        is_cut_off(client.write_all(&[0xff, b'\n'].repeat(100)));
        is_cut_off(client.read(&mut [0; 4096]).map(drop));
    },
    // A client that asks without end and reads nothing.
    |client, kept| {
        client.set_nonblocking(true).unwrap();
        while client.write(b"{\"command\":\"status\"}\n").is_ok() {}
        kept.insert(0, client.try_clone().unwrap());
        kept.truncate(20);
    },
];

/// The same without a pause, while requests are served and the service is upgraded by operators who have to get through.
#[test]
fn hostile_clients_during_upgrades_under_load_lose_no_request() {
    const UPGRADES: u64 = 5;
    let dir = Dir::new();
    let (service, mut process) = controlled(&dir).serve();
    let before = kilobytes(&process, "VmHWM:");
    let done = AtomicBool::new(false);
    let (served, slowest, attacks) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let path = dir.join("control");
    let (mut most, mut took) = (0, Vec::new());
    thread::scope(|scope| {
        let serving = || {
            // It panics if one is refused, reset or not answered.
            while !done.load(Ordering::Relaxed) {
                let asked = Instant::now();
                service.connect().who();
                served.fetch_add(1, Ordering::Relaxed);
                slowest.fetch_max(u64::try_from(asked.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
            }
        };
        scope.spawn(serving);
        scope.spawn(serving);
        // Each of these attacks as often as it can, and is hung up on.
        let attack = |attack: Attack| {
            let (path, done, attacks) = (&path, &done, &attacks);
            scope.spawn(move || {
                let mut kept = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let mut client = UnixStream::connect(path).expect("somebody listens at every moment");
                    client.set_read_timeout(Some(DEADLINE)).unwrap();
                    client.set_write_timeout(Some(DEADLINE)).unwrap();
                    attack(&mut client, &mut kept);
                    kept.truncate(1000);
                    attacks.fetch_add(1, Ordering::Relaxed);
                }
            });
        };
        ATTACKS.into_iter().for_each(attack);
        let _done = Done(&done);

        for generation in 2..=UPGRADES + 1 {
            most = most.max(kilobytes(&process, "VmHWM:"));
            let asked = Instant::now();
            let program = std::process::Command::new(env!("CARGO_BIN_EXE_tableflip-program"))
                .args(["upgrade", "--wait-drained", "control"])
                .current_dir(dir.path())
                .output()
                .unwrap();
            took.push(asked.elapsed());
            let said = String::from_utf8_lossy(&program.stderr).into_owned();
            assert!(program.status.success(), "upgrade {generation}: {said}");
            process = service.next_process();
            service.wait(&process, "alone");
        }
        most = most.max(kilobytes(&process, "VmHWM:"));
    });
    println!(
        "{} requests served, 0 lost, the slowest took {} ms; {} attacks; {UPGRADES} upgrades took {took:?}; at most {} kB more \
         than {before} kB",
        served.load(Ordering::Relaxed),
        slowest.load(Ordering::Relaxed),
        attacks.load(Ordering::Relaxed),
        most.saturating_sub(before),
    );
    assert_eq!(service.connect().who(), (UPGRADES + 1, process.pid()));
    assert!(most < before + 16384, "{most} kB, {before} before");
}

/// The other end hangs up on an attack, or serves it: whatever this one learns of it is right.
fn is_cut_off(result: std::io::Result<()>) {
    match result {
        Ok(()) | Err(_) => {}
    }
}

/// Ends the threads, also those of a test that fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A line of proc_pid_status(5): `VmRSS:` what is resident, `VmHWM:` the most that ever was.
fn kilobytes(process: &Process, what: &str) -> u64 {
    let status = fs::read_to_string(process.proc("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The mode of the path keeps them out; whoever changed it has not let them in.
#[test]
fn another_user_is_not_served() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let (service, old) = controlled(&dir).serve();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(dir.join("control"), fs::Permissions::from_mode(0o666)).unwrap();
    let path = dir.join("control");
    // The credentials are those of the thread that connects.
    let answer = thread::spawn(move || {
        let nobody = rustix::thread::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut client = Client::unix(&path);
        client.reply()
    });
    assert_eq!(answer.join().unwrap()["code"], "denied");
    assert_eq!(ask(&service, "status")["pid"], old.pid());
}

/// Nobody could come to the one that was inherited.
#[test]
fn one_whose_file_is_gone_is_made_again_by_the_next_process() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).serve();
    fs::remove_file(dir.join("control")).unwrap();
    let new = service.upgrade(&old);
    assert_eq!(ask(&service, "status")["pid"], new.pid());
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    let last = service.upgrade(&new);
    assert_eq!(ask(&service, "status")["pid"], last.pid());
    assert_eq!(new.exit(), Exit::Status(0));
    service.wait(&last, "alone");
    last.signal(Signal::TERM);
    assert_eq!(last.exit(), Exit::Status(0));
    assert!(!dir.join("control").exists());
}

#[test]
fn one_that_is_served_is_not_taken_and_a_stale_one_is() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).serve();
    let other = Dir::new();
    let taken = dir.join("control");
    let failed = other.victim().env("TABLEFLIP_CONTROL", &taken).start();
    assert_eq!(failed.first().exit(), Exit::Status(1));
    let problem = format!("listener `control socket`: cannot bind unix://{}", taken.display());
    let log = failed.log();
    assert!(log.contains(&problem) && log.contains("another process serves it"), "{log}");
    assert_eq!(ask(&service, "status")["pid"], old.pid());

    old.kill();
    assert_eq!(old.exit(), Exit::by(Signal::KILL));
    let (service, old) = controlled(&dir).serve();
    assert_eq!(ask(&service, "status")["pid"], old.pid());
}

/// D1: an answer to what an operator asks of a start, which is `phase`, and whose listeners are not served.
#[track_caller]
fn assert_starting(service: &Service, process: &Process, unserved: &[&str]) {
    let status = ask(service, "status");
    assert_eq!((&status["pid"], &status["phase"]), (&process.pid().into(), &"starting".into()));
    assert_eq!(status["unserved"], serde_json::json!(unserved));
    let refused = ask(service, "upgrade");
    assert_eq!((&refused["reply"], &refused["code"]), (&"error".into(), &"not-ready".into()));
}

#[test]
fn d1_a_start_is_answered_from_its_first_moment() {
    let dir = Dir::new();
    let (preparing, initialising) = (dir.gate("preparing"), dir.gate("initialising"));
    let service = controlled(&dir)
        .listen("other", "tcp://127.0.0.1:0")
        .plan("prepare gate preparing; init gate initialising")
        .start();
    let first = service.next_process();
    for gate in [&preparing, &initialising] {
        service.wait(&first, "gate");
        assert_starting(&service, &first, &["echo", "other"]);
        gate.open();
    }
    service.wait_until_it_serves(&first);
    // What was refused is not carried out later.
    let status = ask(&service, "status");
    assert_eq!((&status["phase"], &status["upgrades"]["refused"]), (&"serving".into(), &2.into()));
    assert_eq!((&status["unserved"], &status["successor"]), (&Value::Null, &Value::Null));
}

#[test]
fn d1_a_listener_that_is_never_served_is_named_and_a_stop_ends_the_start() {
    for plan in ["init skip other", "init never", "init block", "prepare block"] {
        let dir = Dir::new();
        let service = controlled(&dir).current_thread().listen_unix("other").plan(plan).start();
        let first = service.next_process();
        let unserved: &[&str] = if plan == "init skip other" { &["other"] } else { &["echo", "other"] };
        if plan.ends_with("block") {
            service.wait(&first, "blocked");
        } else {
            service.wait(&first, if plan == "init never" { "init" } else { "serve" });
        }
        assert_starting(&service, &first, unserved);
        let mut client = operator(&service);
        client.send_command("stop");
        assert_eq!(client.reply()["reply"], "stopping");
        assert_eq!(first.exit(), Exit::Status(0), "{plan}");
        let left: Vec<_> = names_in(dir.path());
        assert!(left.iter().all(|name| name == "log" || name == "plan"), "{plan}: {left:?}");
    }
}

/// It answers there when it serves, or when its predecessor is dead.
#[test]
fn d1_a_successor_leaves_the_control_socket_to_its_predecessor() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir).serve();
    let (new, gate) = service.start_upgrade_to(&old, "prepare");
    for _ in 0..10 {
        let status = ask(&service, "status");
        assert_eq!((&status["pid"], &status["phase"]), (&old.pid().into(), &"upgrading".into()));
    }
    old.kill();
    service.wait(&new, "alone");
    assert_starting(&service, &new, &["echo"]);
    gate.open();
    service.wait_until_it_serves(&new);
    assert_eq!(service.served_by(), new.pid());
}
