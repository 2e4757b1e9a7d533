//! A program that breaks the protocol replaces the executable: each time the old process says what was wrong, kills the
//! impostor, and serves on.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde_json::{Value, json};
use socket2::{SockRef, Type};

use crate::harness::{Command, Dir, Gate, Process, Service, Signal};
use crate::limits::limit_files;
use crate::look;
use crate::many::allow_many_files;

const IMPOSTOR: &str = env!("CARGO_BIN_EXE_impostor");

/// A service whose executable can be replaced.
pub(crate) struct Stage {
    dir: Dir,
    executable: PathBuf,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = Dir::new();
        let executable = dir.copy_of_victim("svc");
        Self { dir, executable }
    }

    pub(crate) fn victim(&self) -> Command<'_> {
        self.dir.victim().binary(&self.executable)
    }

    pub(crate) fn gate(&self, name: &str) -> Gate {
        self.dir.gate(name)
    }

    fn put(&self, program: &str) {
        fs::remove_file(&self.executable).unwrap();
        self.dir.copy(program, "svc");
    }

    /// From now on an upgrade starts an impostor that takes these steps.
    fn put_impostor(&self, steps: &[&str]) {
        fs::write(self.dir.join("impostor"), steps.join("\n")).unwrap();
        self.put(IMPOSTOR);
    }

    /// Starts an upgrade to an impostor.
    pub(crate) fn impostor(&self, service: &Service, old: &Process, steps: &[&str]) -> Process {
        self.put_impostor(steps);
        service.start_late_upgrade(old)
    }

    /// An upgrade to an impostor fails; returns the reason.
    #[track_caller]
    fn fails(&self, service: &Service, old: &Process, steps: &[&str]) -> String {
        let impostor = self.impostor(service, old, steps);
        let reason = service.wait_for_failure(old);
        assert!(impostor.is_gone(), "{steps:?}: it lives");
        self.serves_on(service, old);
        assert!(reason.ends_with("; this process serves on"), "{reason}");
        reason
    }

    /// It serves as if nothing had been.
    #[track_caller]
    fn serves_on(&self, service: &Service, old: &Process) {
        service.assert_serves(old);
        assert_eq!(look::children(old), [0_u32; 0]);
    }

    /// And is upgraded, once the right executable is there again.
    #[track_caller]
    fn is_upgraded(&self, service: &Service, old: &Process) {
        self.put(env!("CARGO_BIN_EXE_victim"));
        let new = loop {
            let new = service.start_late_upgrade(old);
            // A deadline that is short because a test waits for it can pass on a machine that is busy.
            if service.wait_for_either((&new, "step:Serving"), (old, "error")) {
                break new;
            }
        };
        service.wait(old, "standby");
        assert_eq!(service.connect().who(), (2, new.pid()));
        assert_eq!(service.pidfile(), Some(new.pid()));
    }
}

/// The answer to an offer, as a release of this one's kind gives it.
pub(crate) fn hello() -> String {
    let speaker = json!({
        "type": "hello", "protocol": 1, "oldest_protocol": 1, "release": "0.1.0", "generation": 2, "pid": 1
    });
    format!("send {speaker}")
}

/// Steps, and what the old process says of them.
#[track_caller]
fn assert_fails(steps: &[&str], reasons: &[&str]) {
    let stage = Stage::new();
    let (service, old) = stage.victim().serve();
    let mut before = service.connect();
    let reason = stage.fails(&service, &old, steps);
    for expected in reasons {
        assert!(reason.contains(expected), "{steps:?}: `{expected}` is not in: {reason}");
    }
    assert_eq!(before.who(), (1, old.pid()));
    stage.is_upgraded(&service, &old);
}

#[test]
fn what_is_no_message_fails_the_upgrade() {
    let what = "the handover to the successor failed: the other process sent what is not a message";
    assert_fails(&["receive", "send garbage"], &[what]);
    assert_fails(&["send {}"], &[what]);
    assert_fails(&["receive", &hello(), r#"send {"type":"prepared","adop"#], &[what]);
    assert_fails(&["receive", &hello(), r#"send {"type":"prepared"}"#], &[what]);
    assert_fails(&["receive", &hello(), r#"send {"type":"prepared","adopted":[-1]}"#], &[what]);
    assert_fails(&["receive", "oversized"], &["the other process sent a message of more than 65536 bytes"]);
    assert_fails(
        &["receive", r#"send-with {"type":"prepared","adopted":[]}"#],
        &["sent 1 descriptors where 0 belong"],
    );
    assert_fails(
        &["receive", r#"send {"type":"sockets","entries":[{"name":"a","address":"b"}]}"#],
        &["sent 0 descriptors where 1 belong"],
    );
}

/// H8: what it is to get does not go into the channel at once, and it never takes the rest, alive or dead. Nothing is left of
/// it when the old process goes on, be it a zombie, the channel, or what waits in that.
#[test]
fn h8_a_successor_that_cannot_be_given_what_is_offered() {
    const COUNT: usize = 1300;
    allow_many_files(4096);
    let stage = Stage::new();
    // Names and addresses as long as they may be, which alone are more than a socket has room for.
    let directory = stage.dir.path().to_str().expect("a temporary directory is UTF-8").len();
    let room = fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap().trim().parse().unwrap();
    assert!(COUNT * (64 + 107) > room, "a socket has room for {room} bytes here");
    let listen = |number: usize| {
        let path = stage.dir.join(format!("{number:0>width$}", width = 107 - directory - 1));
        format!("listen with {number:0>64} unix://{}", path.display())
    };
    // By the plan: it is too much for a variable of the environment.
    let listeners = (0..COUNT).map(listen).collect::<Vec<_>>().join("; ");
    let (service, old) = stage.victim().plan(&listeners).upgrade_timeout("10s").serve();
    let mut before = service.connect();
    before.who();
    let gone = "the successor exited with status 7 before it served";
    let closed = "the handover to the successor failed: it closed the channel and went on running";
    for (steps, reason) in
        [(&["exit 7"][..], gone), (&["close"], closed), (&[], "the successor was not ready within 10s")]
    {
        let said = stage.fails(&service, &old, steps);
        assert!(said.contains(reason), "{steps:?}: {said}");
        // The one kind that no listener of this service is.
        let is_channel = |fd: &OwnedFd| SockRef::from(fd).r#type().is_ok_and(|kind| kind == Type::SEQPACKET);
        assert!(!old.sockets().iter().any(is_channel), "{steps:?}: the channel is there");
        assert!(!look::kinds(&old).keys().any(|kind| kind.contains("pidfd")), "{steps:?}");
    }
    assert_eq!(before.who(), (1, old.pid()));
    service.plan(&listeners);
    stage.is_upgraded(&service, &old);
}

#[test]
fn indices_that_were_not_offered_fail_the_upgrade() {
    // The service has one listener.
    for adopted in ["[1]", "[0,0]", "[0,1]", "[18446744073709551615]"] {
        let prepared = format!(r#"send {{"type":"prepared","adopted":{adopted}}}"#);
        assert_fails(&["receive", &hello(), &prepared], &["it adopted sockets that were not offered"]);
    }
}

/// A release that knows nothing of names is judged by what it adopts, and told nothing that it would have to understand.
#[test]
fn d2_a_release_that_says_no_name_is_let_through_with_a_listener_and_not_without() {
    let prepared = |adopted: &str| format!(r#"send {{"type":"prepared","adopted":{adopted}}}"#);
    let none = "the successor was refused: it adopts none of the listeners";
    assert_fails(&["receive", &hello(), &prepared("[]")], &[none, "`echo`"]);
    // Nor without a word of who it is.
    assert_fails(&["receive", &prepared("[]")], &[none]);
    let stage = Stage::new();
    let (service, old) = stage.victim().plan("listen name a").serve();
    let steps =
        ["receive", &hello(), &prepared("[0]"), "wait commit", r#"send {"type":"active"}"#, "answer 0"];
    let impostor = stage.impostor(&service, &old, &steps);
    service.wait(&old, "standby");
    assert_eq!(service.connect().receive().unwrap(), "impostor");
    impostor.kill();
}

#[test]
fn h11_an_incompatible_successor_is_refused_by_name() {
    let mut hello = json!({"type": "hello", "protocol": 9, "oldest_protocol": 5, "generation": 2, "pid": 77});
    hello["release"] = "7.5.0\u{1b}[31m\nFAKE LINE".into();
    let stage = Stage::new();
    let (service, old) = stage.victim().serve();
    let reason = stage.fails(&service, &old, &["receive", &format!("send {hello}")]);
    let expected = "process 77 has tableflip 7.5.0 FAKE LINE, which speaks the handover protocols 5 to 9; this is \
                    tableflip ";
    assert!(reason.contains(expected) && reason.contains("which speaks 1 to 1"), "{reason}");
    assert!(!service.log().contains('\u{1b}'), "{}", service.log());
    stage.is_upgraded(&service, &old);
}

#[test]
fn a_successor_that_closes_the_channel_and_stays_is_killed() {
    let what = "it closed the channel and went on running";
    assert_fails(&["close"], &[what]);
    assert_fails(&["receive", &hello(), "close"], &[what]);
    // A packet of no bytes looks like the end to a read(2), and is none.
    assert_fails(&["receive", "empty"], &["what is not a message: an empty packet"]);
}

/// What came with a message that is refused is closed, be it too much or, in a process without numbers left, too little: the old
/// process serves on, and what it kept of each attempt would add up.
#[test]
fn m5_descriptors_of_a_message_that_is_refused_are_closed() {
    let message = r#"send-with-many 100 {"type":"active"}"#;
    for (spare, reason) in
        [(None, "sent 100 descriptors where 0 belong"), (Some(5), "descriptors were lost on the way")]
    {
        let stage = Stage::new();
        let (service, old) = stage.victim().serve();
        let before = look::numbers(&old);
        let gate = stage.dir.gate("send");
        let new = stage.impostor(&service, &old, &["receive", "gate send", message]);
        service.wait(&new, "gate");
        let numbers = look::numbers(&old);
        let free = (0..).filter(|number| !numbers.contains(number));
        limit_files(&old, spare.and_then(|spare| free.clone().nth(spare)).map(u64::from));
        gate.open();
        let said = service.wait_for_failure(&old);
        assert!(said.contains(reason), "{said}");
        assert_eq!(look::numbers(&old), before, "{reason}");
        limit_files(&old, None);
        stage.is_upgraded(&service, &old);
    }
}

/// Told by `commit` alone: until then the old process serves.
#[test]
fn to_be_active_or_leaving_untold_fails_the_upgrade() {
    for (message, claim) in [("active", "serves"), ("leaving", "has served")] {
        let reason =
            format!("the handover to the successor failed: it says that it {claim}, and was not told to;");
        assert_fails(&["receive", &hello(), &format!(r#"send {{"type":"{message}"}}"#)], &[&reason]);
    }
}

#[test]
fn a_successor_that_breaks_the_protocol_once_it_is_prepared() {
    let prepared = r#"send {"type":"prepared","adopted":[0]}"#;
    let ready = |last: &str| {
        let steps =
            ["receive".to_owned(), hello(), prepared.to_owned(), "wait commit".to_owned(), last.to_owned()];
        steps.to_vec()
    };
    for (last, reason) in [
        ("send garbage", "what is not a message"),
        ("oversized", "more than 65536 bytes"),
        ("close", "closed the channel and went on running"),
        ("exit 7", "exited with status 7 before it served"),
        (r#"send {"type":"failed","reason":"no disk"}"#, "the successor could not start: no disk"),
    ] {
        let steps = ready(last);
        assert_fails(&steps.iter().map(String::as_str).collect::<Vec<_>>(), &[reason]);
    }
}

/// It says why it fails, and does not leave: it is given a time, and then killed.
#[test]
fn a_successor_that_fails_and_stays_is_killed() {
    assert_fails(
        &["receive", &hello(), r#"send {"type":"failed","reason":"no disk"}"#],
        &["the successor could not start: no disk"],
    );
}

#[test]
fn a_reason_cannot_forge_the_log() {
    let long = "x".repeat(60_000);
    let failed = json!({"type": "failed", "reason": format!("a\nERROR b\u{1b}[31m {long}")});
    let stage = Stage::new();
    let (service, old) = stage.victim().serve();
    stage.fails(&service, &old, &["receive", &format!("send {failed}"), "exit 1"]);
    let log = service.log();
    let line = log.lines().find(|line| line.contains("upgrade failed")).expect("it is there");
    assert!(line.contains("could not start: a ERROR b xxx"), "{line}");
    assert!(line.len() < 5000, "{} bytes", line.len());
    assert!(!log.contains('\u{1b}'));
    stage.is_upgraded(&service, &old);
}

/// Messages of a later release are answered and ignored, those of the other side as well, and what is said twice is
/// said once. Then it plays its part, to the end: golden, from the other side.
#[test]
fn the_protocol_as_it_is_documented() {
    let stage = Stage::new();
    let (service, old) = stage.victim().listen_unix("local").serve();
    let mut steps = vec!["receive".to_owned()];
    steps.extend(
        [
            json!({"type": "sing", "song": 1}),
            json!({"type": "commit"}),
            json!({"type": "stop"}),
            json!({"type": "not-understood", "unknown": "offer"}),
            json!({"type": "unserved", "listeners": ["echo", "local", "\u{1b}[31m", "a\nb"], "mood": "fine"}),
        ]
        .iter()
        .map(|message| format!("send {message}")),
    );
    steps.push("wait not-understood".to_owned());
    steps.push(hello());
    steps.push(r#"send {"type":"prepared","adopted":[1,0]}"#.to_owned());
    steps.push(r#"send {"type":"prepared","adopted":[0]}"#.to_owned());
    steps.push("wait commit".to_owned());
    steps.push(r#"send {"type":"active"}"#.to_owned());
    steps.push(r#"send {"type":"active"}"#.to_owned());
    steps.push("answer 0".to_owned());
    steps.push("wait ping".to_owned());
    steps.push(r#"send {"type":"alive"}"#.to_owned());
    let steps: Vec<_> = steps.iter().map(String::as_str).collect();
    let impostor = stage.impostor(&service, &old, &steps);

    let offer: Value = serde_json::from_str(&service.wait(&impostor, "offered").text).unwrap();
    assert_eq!(offer["protocol"], 1);
    assert_eq!(offer["oldest_protocol"], 1);
    assert!(offer["release"].is_string());
    assert_eq!(offer["generation"], 1);
    assert_eq!(offer["pid"], old.pid());
    assert_eq!(offer["sockets"], 2);
    assert_eq!(offer["executable"], stage.executable.to_str().unwrap());
    assert_eq!(service.wait(&impostor, "received").text, r#"{"type":"not-understood","unknown":"sing"}"#);
    assert_eq!(service.wait(&impostor, "received").text, r#"{"type":"commit"}"#);
    service.wait(&old, "standby");
    let mut client = service.connect();
    assert_eq!(client.receive().unwrap(), "impostor");
    // It has passed its probation, and the old process leaves.
    assert_eq!(old.exit(), crate::harness::Exit::Status(0));
    assert!(!impostor.has_exited());
}

#[test]
fn a_successor_that_never_answers_is_killed_at_the_deadline() {
    let stage = Stage::new();
    // So many sockets that the offer does not fit in the channel at once.
    let mut command = stage.victim().upgrade_timeout("1s");
    for i in 0..400 {
        command = command.listen(&format!("{:a<60}", format!("l{i}")), "tcp://127.0.0.1:0");
    }
    let (service, old) = command.serve();
    for steps in [&[][..], &["receive"], &["receive", "repeat 3 {\"type\":\"sing\"}"]] {
        let reason = stage.fails(&service, &old, steps);
        // None of them has said who it is.
        assert!(
            reason.contains("the successor was not ready within 1s: it has not said anything yet"),
            "{reason}"
        );
    }
    stage.is_upgraded(&service, &old);
}

/// What it says of itself is in the message, made fit for a log.
#[test]
fn the_names_that_a_successor_says_are_cleaned() {
    let stage = Stage::new();
    let (service, old) = stage.victim().upgrade_timeout("1s").serve();
    let unserved =
        json!({"type": "unserved", "listeners": ["\u{1b}[31mred\nFAKE LINE", "more than there are"]});
    let steps = ["receive", &format!("send {unserved}")];
    // On a machine that is busy the deadline can pass before it has said anything.
    let said = |reason: &String| reason.contains("has not asked for a connection of `red FAKE LINE`;");
    assert!((0..10).any(|_| said(&stage.fails(&service, &old, &steps))));
    assert!(!service.log().contains('\u{1b}'), "{}", service.log());
    stage.is_upgraded(&service, &old);
}

/// Committed, and then silent: nobody accepts meanwhile, so the deadline for this is 10 s.
#[test]
fn a_successor_that_does_not_serve_when_told_is_killed_at_the_deadline() {
    let stage = Stage::new();
    let (service, old) = stage.victim().serve();
    let steps = ["receive", &hello(), r#"send {"type":"prepared","adopted":[0]}"#, "wait commit"];
    let impostor = stage.impostor(&service, &old, &steps);
    service.wait(&impostor, "received");
    // Whoever comes now is in the queue, and is not lost.
    let mut client = service.connect();
    client.send("who");
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("did not answer within 10s"), "{reason}");
    assert_eq!(client.receive().unwrap(), format!("1 {}", old.pid()));
    stage.serves_on(&service, &old);
    stage.is_upgraded(&service, &old);
}

/// A successor that talks without end keeps the old process neither from its deadlines nor from its signals.
#[test]
fn a_successor_that_floods_the_channel_is_killed_at_the_deadline() {
    for message in
        [r#"{"type":"unserved","listeners":["echo"]}"#, r#"{"type":"sing"}"#, r#"{"type":"commit"}"#]
    {
        let stage = Stage::new();
        let (service, old) = stage.victim().upgrade_timeout("1s").serve();
        let reason = stage.fails(&service, &old, &["receive", &format!("flood {message}")]);
        assert!(reason.contains("was not ready within 1s"), "{message}: {reason}");
        stage.is_upgraded(&service, &old);
    }
}

/// Each unknown message is to be answered, and what is not read has to wait somewhere.
#[test]
fn a_successor_that_reads_no_answers_does_not_fill_the_memory() {
    let stage = Stage::new();
    let (service, old) = stage.victim().serve();
    let before = look::number(&old, "VmHWM");
    let message = json!({"type": "sing".repeat(250)});
    let reason = stage.fails(&service, &old, &["receive", &format!("repeat 10000 {message}"), "exit 7"]);
    assert!(reason.contains("exited with status 7"), "{reason}");
    let after = look::number(&old, "VmHWM");
    // All of them would be ten megabytes.
    assert!(after < before + 5 * 1024, "{before} KiB before, {after} KiB after");
    stage.is_upgraded(&service, &old);
}

#[test]
fn a_stop_is_heard_though_the_successor_floods_the_channel() {
    let stage = Stage::new();
    let (service, old) = stage.victim().serve();
    let flood = r#"flood {"type":"unserved","listeners":["echo"]}"#;
    stage.impostor(&service, &old, &["receive", "say flooding", flood]);
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), crate::harness::Exit::Status(0));
    service.assert_over();
}

/// K1, M16: O_NONBLOCK belongs to what both processes share.
mod nonblocking {
    use super::*;

    #[track_caller]
    fn is_restored(steps: &[&str], reason: &str) {
        let stage = Stage::new();
        let (service, old) = stage.victim().serve();
        let why = stage.impostor(&service, &old, steps);
        let failure = service.wait_for_failure(&old);
        assert!(failure.contains(reason), "{failure}");
        assert!(why.is_gone());
        let said = service.wait_for(&old, "error", "O_NONBLOCK").text;
        assert!(said.contains("listener `echo`"), "{said}");
        // One after the other: after each the process looks whether there is a next, and would sleep there.
        for _ in 0..3 {
            assert_eq!(service.served_by(), old.pid());
        }
        // What sleeps in an accept would take one connection more after the next upgrade (M16).
        stage.put(env!("CARGO_BIN_EXE_victim"));
        let new = service.upgrade(&old);
        for _ in 0..3 {
            assert_eq!(service.connect().who(), (2, new.pid()));
        }
        assert_eq!(old.exit(), crate::harness::Exit::Status(0));
    }

    #[test]
    fn m16_k1_it_is_set_again_after_a_successor_that_never_got_ready() {
        is_restored(&["receive", "block-sockets", "exit 7"], "exited with status 7");
    }

    #[test]
    fn m16_k1_it_is_set_again_after_a_successor_that_was_told_to_serve() {
        let prepared = r#"send {"type":"prepared","adopted":[0]}"#;
        let steps = ["receive", &hello(), prepared, "wait commit", "block-sockets", "exit 7"];
        is_restored(&steps, "exited with status 7");
    }

    /// While it initialises, the old process accepts from the very description.
    #[test]
    fn m16_k1_a_successor_that_clears_it_while_the_old_process_serves() {
        let stage = Stage::new();
        let (service, old) = stage.victim().current_thread().serve();
        let mut before = service.connect();
        let impostor =
            stage.impostor(&service, &old, &["receive", "block-sockets", "say cleared", "wait commit"]);
        service.wait(&impostor, "cleared");
        for _ in 0..5 {
            assert_eq!(service.served_by(), old.pid());
        }
        assert_eq!(before.who(), (1, old.pid()));
        impostor.kill();
        service.wait_for_failure(&old);
        service.wait_for(&old, "error", "O_NONBLOCK");
        assert_eq!(service.served_by(), old.pid());
        stage.is_upgraded(&service, &old);
    }

    /// In the pause nobody is asleep, and nobody takes what comes after it.
    #[test]
    fn m16_k1_a_successor_that_clears_it_before_it_is_told_to_serve() {
        let stage = Stage::new();
        let (service, old) = stage.victim().current_thread().listen_unix("local").serve();
        let prepared = r#"send {"type":"prepared","adopted":[0,1]}"#;
        let gate = stage.dir.gate("cleared");
        let hello = hello();
        let steps = [
            "receive",
            &hello,
            "block-sockets",
            "gate cleared",
            prepared,
            "wait commit",
            "answer 0",
            "exit 7",
        ];
        let impostor = stage.impostor(&service, &old, &steps);
        service.wait(&impostor, "gate");
        for _ in 0..5 {
            assert_eq!(service.served_by(), old.pid());
            assert_eq!(service.connect_unix("local").who().1, old.pid());
        }
        gate.open();
        service.wait(&impostor, "received");
        // It is the first that comes after the pause: a thread asleep in an accept would be woken by it.
        assert_eq!(service.connect().receive().unwrap(), "impostor");
        service.wait_for_failure(&old);
        service.wait_for(&old, "error", "O_NONBLOCK");
        assert_eq!(service.served_by(), old.pid());
        stage.is_upgraded(&service, &old);
    }
}
