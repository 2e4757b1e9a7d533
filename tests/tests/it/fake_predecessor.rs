//! The test plays the predecessor, written from `docs/protocol.md`: first a correct one, then one that makes every mistake.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};

use serde_json::{Value, json};
use tests::channel::{Channel, MAX_MESSAGE, Predecessor, listen_at};

use crate::harness::{Client, Command, Dir, Exit, Process, Service, Signal, wait_until, wait_until_refused};
use crate::look;

/// A service that is started as a successor, the test's end of its channel, and the process of its predecessor.
pub(crate) struct Heir {
    pub(crate) service: Service,
    pub(crate) process: Process,
    pub(crate) channel: Channel,
    predecessor: Predecessor,
}

impl Heir {
    /// Waits until it is prepared, and commits: it serves then.
    pub(crate) fn commit(&self) {
        self.channel.wait_for("prepared");
        self.channel.send(&json!({"type": "commit"}));
        self.channel.expect("active");
    }

    /// It tells the predecessor this reason, and exits.
    #[track_caller]
    fn assert_gives_up(&self, reason: &str) {
        let failed = self.channel.wait_for("failed");
        assert_eq!(failed["reason"], reason);
        assert_eq!(self.process.exit(), Exit::Status(1));
        assert_eq!(self.service.pidfile(), None);
    }

    fn start(dir: &Dir) -> Self {
        Self::start_as(dir, dir.victim())
    }

    pub(crate) fn start_as(dir: &Dir, command: Command<'_>) -> Self {
        let at = dir.join("channel");
        let (listener, predecessor) = listen_at(env!("CARGO_BIN_EXE_with_channel"), &at);
        let command = command.binary(env!("CARGO_BIN_EXE_with_channel")).arg("channel").arg(&at);
        let service = command.arg(env!("CARGO_BIN_EXE_victim")).start();
        let channel = Channel::accept(&listener);
        std::fs::remove_file(at).unwrap();
        let process = service.first().clone();
        Self { service, process, channel, predecessor }
    }

    /// It gives up, for a reason that it says on stderr and to its predecessor.
    #[track_caller]
    fn assert_fails(&self, reason: &str) {
        let failed = self.channel.wait_for("failed");
        let told = failed["reason"].as_str().expect("a text");
        assert!(told.contains(reason), "`{reason}` is not in: {told}");
        assert_eq!(self.process.exit(), Exit::Status(1));
        // The last word is there if its engine had begun.
        if let Some(last) = self.channel.receive() {
            assert_eq!(last.text, r#"{"type":"over"}"#);
            assert!(self.channel.receive().is_none(), "that was its last word");
        }
        self.service.wait_until_all_are_gone();
        let log = self.service.log();
        let said: Vec<_> = log.lines().filter(|line| line.contains("cannot start: ")).collect();
        assert_eq!(said, [format!("tableflip: cannot start: {told}")]);
        assert_eq!(log.lines().last(), said.last().copied(), "it is the last word");
        assert!(!self.service.has_said(&self.process, "init"), "its body ran");
        assert_eq!(self.service.pidfile(), None);
    }
}

fn speaker() -> Value {
    json!({"protocol": 1, "oldest_protocol": 1, "release": "0.1.0", "generation": 41, "pid": std::process::id()})
}

fn message(name: &str, fields: &Value) -> Value {
    let mut message = json!({"type": name});
    let all = message.as_object_mut().expect("it is one");
    all.extend(fields.as_object().expect("it is one").clone());
    message
}

pub(crate) fn offer(sockets: usize) -> Value {
    let mut offer = message("offer", &speaker());
    offer["sockets"] = sockets.into();
    offer
}

/// The entry of a socket for the listener `echo` of a victim.
fn entry() -> Value {
    entry_of("echo")
}

/// The entry of a socket for a TCP listener on a port of the kernel's choice.
pub(crate) fn entry_of(name: &str) -> Value {
    json!({"name": name, "address": "tcp://127.0.0.1:0"})
}

pub(crate) fn sockets(entries: &[Value]) -> Value {
    json!({"type": "sockets", "entries": entries})
}

/// Golden: what `docs/protocol.md` says is enough to hand a service over.
#[test]
fn the_protocol_as_it_is_documented() {
    let dir = Dir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = dir.join("local");
    let local = UnixListener::bind(&path).unwrap();
    // Left over from an earlier release, and not declared by this one.
    let extra = TcpListener::bind("127.0.0.1:0").unwrap();
    let heir = Heir::start_as(&dir, dir.victim().listen_unix("local").listen("new", "tcp://127.0.0.1:0"));

    let mut offer = offer(3);
    offer["executable"] = env!("CARGO_BIN_EXE_victim").into();
    offer["umask"] = 0o027.into();
    // What the service passes on by name, of which this one takes nothing.
    offer["files"] = 2.into();
    heir.channel.send(&offer);
    let local_entry =
        json!({"name": "local", "address": format!("unix://{}", path.display()), "inode": inode(&path)});
    let extra_entry = json!({"name": "extra", "address": "tcp://127.0.0.1:0"});
    heir.channel.send_with(&sockets(&[extra_entry, local_entry]), &[extra.as_fd(), local.as_fd()]);
    let files = json!({"type": "files", "names": ["lock", "state"]});
    heir.channel.send_with(&files, &[std::io::stdin().as_fd(), std::io::stderr().as_fd()]);
    heir.channel.send_with(&sockets(&[entry()]), &[listener.as_fd()]);

    let hello = heir.channel.expect("hello");
    assert_eq!(hello["protocol"], 1);
    assert_eq!(hello["oldest_protocol"], 1);
    assert_eq!(hello["generation"], 42);
    assert_eq!(hello["pid"], heir.process.pid());
    assert!(hello["release"].is_string());
    // Those that its body has not asked yet are said at each change; the last of these may be the empty list.
    let prepared = loop {
        let packet = heir.channel.receive().expect("it gets ready");
        let message: Value = serde_json::from_str(&packet.text).expect("JSON");
        match message["type"].as_str() {
            Some("unserved") => assert!(message["listeners"].is_array(), "{message}"),
            _ => break message,
        }
    };
    assert_eq!(prepared, json!({"type": "prepared", "adopted": [2, 1]}));
    // Nothing is served before the commit, and the pid file is not its own.
    let mut client = Client::tcp(listener.local_addr().unwrap().to_string());
    client.send("who");
    assert_eq!(heir.service.pidfile(), None);
    assert!(!heir.service.has_said(&heir.process, "serving"));

    heir.channel.send(&json!({"type": "commit"}));
    assert_eq!(heir.channel.expect("active"), json!({"type": "active"}));
    assert_eq!(heir.service.pidfile(), Some(heir.process.pid()));
    assert_eq!(client.receive().unwrap(), format!("42 {}", heir.process.pid()));
    assert_eq!(heir.service.connect_unix("local").who().0, 42);
    assert_eq!(heir.service.connect_to("new").who().0, 42);

    // While its predecessor lives, no upgrade; once that is gone, it is on its own.
    heir.process.signal(Signal::HUP);
    heir.service.wait_for(&heir.process, "error", "upgrade refused: the predecessor is still draining");
    let Heir { service, process, channel, predecessor } = heir;
    drop((client, channel, predecessor, listener, local, extra));
    service.wait(&process, "alone");
    let next = service.upgrade(&process);
    assert_eq!(service.connect_unix("local").who(), (43, next.pid()));
    assert_eq!(look::umask(&next), "0027", "it is passed on");
    assert_eq!(process.exit(), Exit::Status(0));
    service.wait(&next, "alone");
    // The path was not its own making, and is its own to remove.
    next.signal(Signal::TERM);
    assert_eq!(next.exit(), Exit::Status(0));
    assert!(!path.exists());
}

/// A11. What is offered gets numbers: one that a variable names without having it open is not among them.
#[test]
fn a11_an_offered_descriptor_is_not_taken_by_its_number() {
    const FILES: usize = 150;
    let dir = Dir::new();
    let heir = Heir::start_as(&dir, dir.victim().env("TABLEFLIP_SUPERVISOR", "100"));
    let mut offer = offer(0);
    offer["files"] = FILES.into();
    heir.channel.send(&offer);
    // Of the kind that the variable is for.
    let file = listen_at(env!("CARGO_BIN_EXE_with_channel"), &dir.join("file")).0;
    let names: Vec<_> = (0..FILES).map(|number| number.to_string()).collect();
    for names in names.chunks(50) {
        let fds: Vec<_> = names.iter().map(|_| file.as_fd()).collect();
        heir.channel.send_with(&json!({"type": "files", "names": names}), &fds);
    }
    heir.assert_fails("environment variable `TABLEFLIP_SUPERVISOR`: \"100\": no such descriptor");
}

fn inode(path: &std::path::Path) -> Value {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).unwrap();
    json!([metadata.dev(), metadata.ino()])
}

/// Whoever knows that the predecessor is gone asks for an upgrade and gets it, though the engine has not looked yet. It
/// stands still where it refuses the request before, in the middle of a round.
#[test]
fn an_upgrade_after_the_end_of_the_predecessor_is_not_refused() {
    let dir = Dir::new();
    let gate = dir.gate("refused");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let heir = Heir::start_as(&dir, dir.victim().plan("error gate refused"));
    heir.channel.send(&offer(1));
    heir.channel.send_with(&sockets(&[entry()]), &[listener.as_fd()]);
    heir.commit();
    let Heir { service, process, channel, predecessor } = heir;
    let mut client = Client::tcp(listener.local_addr().unwrap().to_string());
    process.signal(Signal::HUP);
    service.wait(&process, "gate");
    drop((channel, predecessor));
    client.send("upgrade-said");
    service.wait(&process, "asked");
    gate.open();
    let next = service.successor_of(&process);
    assert_eq!(client.receive().unwrap(), format!("ok 43 {}", next.pid()));
}

/// A stop that reaches the predecessor while it waits for `active` is passed on.
#[test]
fn a_stop_is_passed_on() {
    let dir = Dir::new();
    let heir = Heir::start(&dir);
    heir.channel.send(&offer(0));
    heir.commit();
    heir.channel.send(&json!({"type": "stop"}));
    heir.channel.expect("leaving");
    assert_eq!(heir.process.exit(), Exit::Status(0));
    assert_eq!(heir.service.pidfile(), None);
}

/// A release that knows more says more.
#[test]
fn h11_unknown_fields_and_messages_are_borne() {
    let dir = Dir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let heir = Heir::start(&dir);
    let mut offer = offer(1);
    offer["protocol"] = 7.into();
    offer["mood"] = json!({"today": ["fine"]});
    heir.channel.send(&offer);
    heir.channel.send(&json!({"type": "sing", "song": 1}));
    let mut entry = entry();
    entry["colour"] = "red".into();
    heir.channel.send_with(&sockets(&[entry]), &[listener.as_fd()]);
    heir.channel.expect("hello");
    assert_eq!(heir.channel.expect("not-understood"), json!({"type": "not-understood", "unknown": "sing"}));
    assert_eq!(heir.channel.wait_for("prepared")["adopted"], json!([0]));
    // At any time, and one that only the other end sends.
    heir.channel.send(&json!({"type": "dance"}));
    heir.channel.send(&json!({"type": "prepared", "adopted": [9]}));
    heir.channel.send(&json!({"type": "not-understood", "unknown": "hello"}));
    heir.channel.send(&json!({"type": "commit", "why": "because"}));
    assert_eq!(heir.channel.wait_for("not-understood")["unknown"], "dance");
    heir.channel.expect("active");
    assert_eq!(Client::tcp(listener.local_addr().unwrap().to_string()).who(), (42, heir.process.pid()));
}

#[test]
fn what_is_no_offer_is_refused() {
    let no_message = "the other process sent what is not a message";
    let no_offer = "it did not begin with an offer";
    for (packet, reason) in [
        (&b"\x00\xff\xfe"[..], no_message),
        (b"not JSON", no_message),
        (b"null", no_message),
        (b"{}", no_message),
        // Truncated.
        (br#"{"type":"offer","protocol":1,"oldest_pro"#, no_message),
        // Without what an offer must have, or with another type of it.
        (br#"{"type":"offer"}"#, no_message),
        (
            br#"{"type":"offer","protocol":"1","oldest_protocol":1,"release":"0","generation":1,"pid":1,"sockets":0}"#,
            no_message,
        ),
        (
            br#"{"type":"offer","protocol":1,"oldest_protocol":1,"release":"0","generation":1,"pid":1,"sockets":-1}"#,
            no_message,
        ),
        (br#"{"type":"commit"}"#, no_offer),
        (br#"{"type":"sing"}"#, no_offer),
    ] {
        let dir = Dir::new();
        let heir = Heir::start(&dir);
        heir.channel.send_packet(packet, &[]);
        heir.assert_fails(reason);
    }
}

#[test]
fn an_oversized_message_is_refused() {
    let dir = Dir::new();
    let heir = Heir::start(&dir);
    let mut packet = offer(0).to_string().into_bytes();
    packet.resize(MAX_MESSAGE + 1, b' ');
    heir.channel.send_packet(&packet, &[]);
    heir.assert_fails("more than 65536 bytes");

    // The largest there may be.
    let dir = Dir::new();
    let heir = Heir::start(&dir);
    packet.truncate(MAX_MESSAGE);
    heir.channel.send_packet(&packet, &[]);
    heir.channel.wait_for("prepared");
}

#[test]
fn h11_an_incompatible_protocol_is_refused_by_name() {
    for (oldest, newest) in [(2, 9), (0, 0)] {
        let dir = Dir::new();
        let heir = Heir::start(&dir);
        let mut offer = offer(0);
        offer["oldest_protocol"] = oldest.into();
        offer["protocol"] = newest.into();
        // Somebody else's words stand in a log line of ours.
        offer["release"] = "7.5.0\nFAKE LINE".into();
        heir.channel.send(&offer);
        // The other one is told who this is before it is told why not.
        assert_eq!(heir.channel.expect("hello")["protocol"], 1);
        let us = std::process::id();
        heir.assert_fails(&format!(
            "process {us} has tableflip 7.5.0 FAKE LINE, which speaks the handover protocols {oldest} to {newest}; \
             this is tableflip "
        ));
    }
}

/// There is no number for its successor, and two processes of one number could not be told apart.
#[test]
fn a_generation_that_cannot_be_counted_further() {
    let us = std::process::id();
    let last = u64::MAX;
    let reason = |pid| {
        format!(
            "process {pid} is of generation {last}, the last that there is a number for; stop the service and start it \
             again once"
        )
    };
    let dir = Dir::new();
    let heir = Heir::start(&dir);
    let mut offer = offer(0);
    offer["generation"] = last.into();
    heir.channel.send(&offer);
    heir.assert_fails(&reason(us));

    // The one before it has a successor, which has none.
    let dir = Dir::new();
    let heir = Heir::start(&dir);
    offer["generation"] = (last - 1).into();
    heir.channel.send(&offer);
    heir.channel.wait_for("prepared");
    let Heir { service, process, channel, predecessor } = heir;
    drop((channel, predecessor));
    service.wait(&process, "alone");
    process.signal(Signal::HUP);
    assert_eq!(
        service.wait_for_failure(&process),
        format!("upgrade failed: {}; this process serves on", reason(process.pid()))
    );
    assert_eq!(service.connect().who(), (last, process.pid()));
}

#[test]
fn a_wrong_number_of_descriptors_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_fd();
    let two = || sockets(&[entry(), json!({"name": "other", "address": "tcp://127.0.0.1:0"})]);
    let one = || sockets(&[entry()]);
    for (message, fds, reason) in [
        (two(), &[fd][..], "sent 1 descriptors where 2 belong"),
        (one(), &[], "sent 0 descriptors where 1 belong"),
        (one(), &[fd, fd], "sent 2 descriptors where 1 belong"),
        (json!({"type": "commit"}), &[fd], "sent 1 descriptors where 0 belong"),
        (json!({"type": "files", "names": ["lock"]}), &[], "sent 0 descriptors where 1 belong"),
    ] {
        let dir = Dir::new();
        let heir = Heir::start(&dir);
        heir.channel.send(&offer(2));
        heir.channel.send_with(&message, fds);
        heir.assert_fails(reason);
    }
    let dir = Dir::new();
    let heir = Heir::start(&dir);
    heir.channel.send_with(&offer(0), &[fd]);
    heir.assert_fails("sent 1 descriptors where 0 belong");
}

#[test]
fn m5_more_descriptors_than_a_message_may_have_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = Dir::new();
    let heir = Heir::start(&dir);
    heir.channel.send(&offer(100));
    let entries = vec![entry(); 100];
    heir.channel.send_with(&sockets(&entries), &vec![listener.as_fd(); 100]);
    heir.assert_fails("sent 100 descriptors where 64 belong");
}

#[test]
fn an_offer_of_a_million_sockets_is_refused() {
    for field in ["sockets", "files"] {
        for count in [1_000_000_u64, u64::MAX] {
            let dir = Dir::new();
            let heir = Heir::start(&dir);
            let mut offer = offer(1);
            offer[field] = count.into();
            heir.channel.send(&offer);
            heir.assert_fails("at most 65536 are taken");
        }
    }
}

/// More than was announced is taken in no offer.
#[test]
fn more_sockets_than_were_offered_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_fd();
    let other = json!({"name": "other", "address": "tcp://127.0.0.1:0"});
    let two_files = json!({"type": "files", "names": ["lock", "state"]});
    for (files, packets, reason) in [
        (0, vec![(sockets(&[entry(), other]), 2)], "it offered 1 sockets and sent 2"),
        // That the sum is right makes no difference.
        (1, vec![(sockets(&[entry()]), 1), (sockets(&[entry()]), 1)], "it offered 1 sockets and sent 2"),
        (1, vec![(two_files.clone(), 2)], "it offered 1 files and sent 2"),
        (0, vec![(two_files, 2)], "it offered 0 files and sent 2"),
    ] {
        let dir = Dir::new();
        let heir = Heir::start(&dir);
        let mut offer = offer(1);
        offer["files"] = files.into();
        heir.channel.send(&offer);
        for (packet, count) in packets {
            heir.channel.send_with(&packet, &vec![fd; count]);
        }
        heir.assert_fails(reason);
    }
}

/// Nor after it, in a packet of its own, while there is still somebody else to serve.
#[test]
fn sockets_after_the_offer_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_fd();
    for (message, fds) in [
        (sockets(&[entry()]), &[fd][..]),
        (json!({"type": "files", "names": ["lock"]}), &[fd]),
        (offer(0), &[]),
    ] {
        let dir = Dir::new();
        let heir = Heir::start(&dir);
        heir.channel.send(&offer(1));
        heir.channel.send_with(&sockets(&[entry()]), &[fd]);
        heir.channel.wait_for("prepared");
        heir.channel.send_with(&message, fds);
        heir.assert_gives_up("the predecessor sent more than it had offered");
    }
}

/// One that serves has all it needs, and what comes late neither ends it nor stays open in it.
#[test]
fn sockets_after_the_commit_are_dropped() {
    let (kept, late) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let dir = Dir::new();
    let heir = Heir::start(&dir);
    heir.channel.send(&offer(1));
    heir.channel.send_with(&sockets(&[entry()]), &[kept.as_fd()]);
    heir.commit();
    heir.channel.send_with(&sockets(&[entry()]), &[late.as_fd()]);
    heir.service.wait_for(&heir.process, "error", "a message that a predecessor does not send");
    assert_eq!(Client::tcp(kept.local_addr().unwrap().to_string()).who(), (42, heir.process.pid()));
    let at = late.local_addr().unwrap();
    drop(late);
    wait_until_refused(at);
}

/// Nor is it the death of who said it: there are two processes still, and what it says next counts.
#[test]
fn what_is_no_message_after_the_commit_is_passed_over() {
    let dir = Dir::new();
    let heir = Heir::start(&dir);
    heir.channel.send(&offer(0));
    heir.commit();
    // One of no bytes looks like the end to a read(2).
    heir.channel.send_packet(b"", &[]);
    heir.service.wait_for(&heir.process, "error", "a message of the predecessor is no good");
    heir.channel.send_packet(b"not JSON", &[]);
    heir.process.signal(Signal::HUP);
    heir.service.wait_for(&heir.process, "error", "upgrade refused");
    heir.channel.send(&json!({"type": "stop"}));
    heir.channel.expect("leaving");
    assert_eq!(heir.process.exit(), Exit::Status(0));
}

/// SO_TYPE, SO_ACCEPTCONN and getsockname are looked at, K6.
#[test]
fn k6_a_socket_that_is_not_what_its_entry_says_is_refused() {
    let dir = Dir::new();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let on_v6 = TcpListener::bind("[::1]:0");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let local = UnixListener::bind(dir.join("local")).unwrap();
    let datagram = UnixDatagram::bind(dir.join("datagram")).unwrap();
    let bound =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&bound, &"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap()).unwrap();
    let connected = std::net::TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let taken = elsewhere.local_addr().unwrap().port();

    let mut cases: Vec<(BorrowedFd<'_>, String, &str)> = vec![
        (udp.as_fd(), "tcp://127.0.0.1:0".into(), "is of another type"),
        (bound.as_fd(), "tcp://127.0.0.1:0".into(), "does not listen"),
        (connected.as_fd(), "tcp://127.0.0.1:0".into(), "does not listen"),
        (elsewhere.as_fd(), "tcp://127.0.0.2:0".into(), "is bound elsewhere (getsockname 127.0.0.1:"),
        (elsewhere.as_fd(), format!("tcp://127.0.0.1:{}", taken ^ 1), "is bound elsewhere"),
        (local.as_fd(), "tcp://127.0.0.1:0".into(), "is bound elsewhere (getsockname /"),
        (datagram.as_fd(), "tcp://127.0.0.1:0".into(), "is of another type"),
        (elsewhere.as_fd(), format!("unix://{}", dir.join("local").display()), "is bound elsewhere"),
        (local.as_fd(), format!("unix://{}", dir.join("other").display()), "is bound elsewhere"),
        (datagram.as_fd(), format!("unix://{}", dir.join("datagram").display()), "is of another type"),
        (file.as_fd(), "tcp://127.0.0.1:0".into(), "cannot be looked at"),
    ];
    if let Ok(on_v6) = &on_v6 {
        cases.push((on_v6.as_fd(), "tcp://127.0.0.1:0".into(), "is bound elsewhere"));
    }
    for (fd, address, reason) in cases {
        let dir = Dir::new();
        let heir = Heir::start_as(&dir, dir.victim().no_listeners().listen("echo", &address));
        heir.channel.send(&offer(1));
        heir.channel.send_with(&sockets(&[json!({"name": "echo", "address": address})]), &[fd]);
        heir.assert_fails(&format!("listener `echo`: the socket that was inherited for {address} {reason}"));
    }
    // What others have is theirs still.
    std::net::TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap();
    assert!(dir.join("local").exists());
}

/// What is offered and does not match what is declared is not adopted, and what is declared is bound.
#[test]
fn what_does_not_match_is_closed() {
    let dir = Dir::new();
    let offered: Vec<OwnedFd> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap().into()).collect();
    let fds: Vec<_> = offered.iter().map(AsFd::as_fd).collect();
    let heir = Heir::start(&dir);
    heir.channel.send(&offer(3));
    let entries = [
        json!({"name": "Echo", "address": "tcp://127.0.0.1:0"}),
        json!({"name": "echo", "address": "udp://127.0.0.1:0"}),
        json!({"name": "echo", "address": "\u{0}\n"}),
    ];
    heir.channel.send_with(&sockets(&entries), &fds);
    assert_eq!(heir.channel.wait_for("prepared")["adopted"], json!([]));
    let addresses: Vec<_> =
        offered.into_iter().map(|fd| TcpListener::from(fd).local_addr().unwrap()).collect();
    heir.channel.send(&json!({"type": "commit"}));
    heir.channel.expect("active");
    assert_eq!(heir.service.connect().who(), (42, heir.process.pid()));
    addresses.into_iter().for_each(wait_until_refused);
}

/// M15: a predecessor that dies in the middle of its offer leaves nobody else to serve.
#[test]
fn m15_a_predecessor_that_dies_in_its_offer_is_succeeded() {
    let dir = Dir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Heir { service, process, channel, predecessor } = Heir::start(&dir);
    channel.send(&offer(2));
    channel.send_with(&sockets(&[entry()]), &[listener.as_fd()]);
    drop((channel, predecessor));
    service.wait_until_it_serves(&process);
    let mut client = Client::tcp(listener.local_addr().unwrap().to_string());
    assert_eq!(client.who(), (42, process.pid()));
    assert_eq!(service.pidfile(), Some(process.pid()));
}

/// A predecessor that goes on running and says nothing: there are two deadlines, one for the offer, one for the answer
/// to `prepared`, each of 10 s.
#[test]
fn h6_a_predecessor_that_says_nothing_is_given_up() {
    let (one, other) = (Dir::new(), Dir::new());
    let silent = Heir::start(&one);
    let begun = Heir::start(&other);
    begun.channel.send(&offer(1));
    let third = Dir::new();
    let waiting = Heir::start(&third);
    waiting.channel.send(&offer(0));
    waiting.channel.wait_for("prepared");
    // To say other things without end is no offer either.
    let fourth = Dir::new();
    let noisy = Heir::start(&fourth);
    noisy.channel.send(&offer(1));
    wait_until("it listens no more", || {
        (0..1000).for_each(|_| _ = noisy.channel.try_send_packet(br#"{"type":"commit"}"#, &[]));
        noisy.process.has_exited()
    });

    noisy.assert_fails("it offered 1 descriptors and sent 0");
    silent.assert_fails("nothing is offered on it");
    begun.assert_fails("it offered 1 descriptors and sent 0");
    waiting.assert_gives_up("the predecessor did not answer");
}

/// A1: the end of the channel is no death, and a predecessor that lives may serve. The deadline is 10 s.
#[test]
fn a1_an_end_of_the_channel_without_a_death_opens_nothing() {
    let dir = Dir::new();
    let (heir, _listener) = prepared(&dir);
    let Heir { service, process, channel, predecessor } = heir;
    drop(channel);
    assert_eq!(process.exit(), Exit::Status(1));
    let reason = "cannot start: the predecessor, process ";
    assert!(service.log().contains(reason) && service.log().contains("closed the channel and lives"));
    assert!(!service.has_said(&process, "serving"));
    assert_eq!(service.pidfile(), None);
    drop(predecessor);
}

/// The other way round: a process that the predecessor has forked holds its end of the channel, and is nobody's predecessor.
#[test]
fn a1_a_death_without_an_end_of_the_channel_is_one() {
    let dir = Dir::new();
    let (heir, _listener) = prepared(&dir);
    drop(heir.predecessor);
    heir.service.wait_until_it_serves(&heir.process);
    heir.service.wait(&heir.process, "alone");
    drop(heir.service.upgrade(&heir.process));
    assert_eq!(heir.process.exit(), Exit::Status(0));
}

/// A2: a predecessor that has said its last word may live on: its successor serves, and is not upgraded beside it.
#[test]
fn a2_a_predecessor_that_is_over_opens_the_gates_and_nothing_else() {
    let dir = Dir::new();
    let (heir, _listener) = prepared(&dir);
    heir.channel.send(&json!({"type": "over"}));
    heir.service.wait_until_it_serves(&heir.process);
    let mut client = heir.service.connect();
    client.send("predecessor");
    heir.process.signal(Signal::HUP);
    heir.service.wait_for(&heir.process, "error", "upgrade refused: the predecessor is still draining");
    assert!(!heir.service.has_said(&heir.process, "alone"));
    drop((heir.channel, heir.predecessor));
    assert_eq!(client.receive().unwrap(), "gone true");
    heir.service.wait(&heir.process, "alone");
    drop(heir.service.upgrade(&heir.process));
}

/// Nobody else would serve: the pid file that cannot be written is a complaint, as it is after the death of the predecessor.
#[test]
fn a_successor_of_a_predecessor_that_is_over_serves_without_the_pid_file() {
    let dir = Dir::new();
    let (heir, _listener) = prepared(&dir);
    // A rename cannot replace a directory that has something in it.
    std::fs::create_dir_all(dir.join("pid").join("something")).unwrap();
    heir.channel.send(&json!({"type": "over"}));
    heir.service.wait_for(&heir.process, "error", "cannot write the pid file");
    heir.service.wait(&heir.process, "serving");
    drop(heir.service.connect());
}

/// A successor that is prepared, and the listener that it was offered.
fn prepared(dir: &Dir) -> (Heir, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let heir = Heir::start(dir);
    heir.channel.send(&offer(1));
    heir.channel.send_with(&sockets(&[entry()]), &[listener.as_fd()]);
    heir.channel.wait_for("prepared");
    (heir, listener)
}
