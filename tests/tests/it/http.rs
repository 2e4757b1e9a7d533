//! `tableflip::http::serve` across an upgrade, seen by a client that writes its requests byte by byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::harness::{Command, DEADLINE, Dir, Exit, Process, Service, Signal, find};

/// A connection to the listener `http`.
struct Http {
    stream: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    /// It says `Connection: close`.
    closes: bool,
    body: String,
}

impl Http {
    fn connect(service: &Service) -> Self {
        Self::connect_to(service, "http")
    }

    fn connect_to(service: &Service, listener: &str) -> Self {
        let stream = TcpStream::connect(service.address(listener)).expect("somebody listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        Self { stream: BufReader::new(stream) }
    }

    fn write(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).expect("the connection is open");
    }

    fn request(&mut self, path: &str) {
        self.write(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the connection is open");
        assert!(line.ends_with('\n'), "the connection ended in mid-answer: {line:?}");
        line.trim_end().to_owned()
    }

    /// The answer without its body.
    fn head(&mut self) -> Response {
        self.read_head().0
    }

    /// A body in chunks, to its end.
    fn chunks(&mut self) -> String {
        let mut body = String::new();
        loop {
            let length = usize::from_str_radix(&self.line(), 16).expect("the length of a chunk");
            let mut chunk = vec![0; length];
            self.stream.read_exact(&mut chunk).expect("the whole chunk");
            assert_eq!(self.line(), "");
            if length == 0 {
                return body;
            }
            body.push_str(&String::from_utf8(chunk).expect("it is text"));
        }
    }

    fn response(&mut self) -> Response {
        let (head, length) = self.read_head();
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("the whole body");
        Response { body: String::from_utf8(body).expect("it is text"), ..head }
    }

    fn read_head(&mut self) -> (Response, usize) {
        let status = self.line().split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let (mut closes, mut length) = (false, 0);
        loop {
            let line = self.line().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("connection", "close")) => closes = true,
                Some(("content-length", value)) => length = value.parse().expect("a length"),
                Some(_) => {}
                None => break,
            }
        }
        (Response { status, closes, body: String::new() }, length)
    }

    fn get(&mut self, path: &str) -> Response {
        self.request(path);
        self.response()
    }

    /// The other side has closed the connection, in the middle of what it owed.
    fn assert_is_cut(&mut self) {
        let mut rest = Vec::new();
        let is_late = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        assert!(!self.stream.read_to_end(&mut rest).is_err_and(|error| is_late(&error)) && rest.is_empty());
    }

    /// The other side has closed the connection, and in order.
    fn assert_ends(&mut self) {
        // A read with a deadline fails with EINTR when its process is stopped and goes on, signal(7); this one goes on as well.
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("it is closed in order");
        assert_eq!(rest, b"");
    }
}

fn by(generation: u64, process: &Process, closes: bool) -> Response {
    Response { status: 200, closes, body: format!("{generation} {}", process.pid()) }
}

/// A service with the listener `http`, whose body awaits `Shutdown`. Its connections stay, and drain with the old process.
pub(crate) fn web(dir: &Dir) -> Command<'_> {
    moving_web(dir).env("VICTIM_HTTP_STAYS", "1")
}

/// The same, with connections that move.
pub(crate) fn moving_web(dir: &Dir) -> Command<'_> {
    dir.victim().listen("http", "tcp://127.0.0.1:0").awaits_shutdown()
}

/// M13, D1. Who closes an idle connection cannot know that the next request is not on its way.
#[test]
fn m13_an_idle_connection_is_told_with_its_next_answer() {
    let dir = Dir::new();
    let (service, old) = web(&dir).serve();
    let mut client = Http::connect(&service);
    assert_eq!(client.get("/"), by(1, &old, false));
    let new = service.upgrade_to_drain(&old, 1);
    assert_eq!(client.get("/"), by(1, &old, true));
    client.assert_ends();
    assert_eq!(Http::connect(&service).get("/"), by(2, &new, false));
    assert_eq!(old.exit(), Exit::Status(0));
}

#[test]
fn m13_in_standby_the_next_answer_tells_as_well() {
    let dir = Dir::new();
    let (service, old) = web(&dir).probation("1h").serve();
    let mut client = Http::connect(&service);
    assert_eq!(client.get("/"), by(1, &old, false));
    let new = service.upgrade(&old);
    assert_eq!(client.get("/"), by(1, &old, true));
    client.assert_ends();

    // Whose probation ends badly: the old one serves again, and keeps what comes open.
    new.kill();
    service.wait_for_failure(&old);
    let mut client = Http::connect(&service);
    assert_eq!(client.get("/"), by(1, &old, false));
    assert_eq!(client.get("/"), by(1, &old, false));
}

/// It was accepted, so it is this process's to serve, though nothing was read from it yet.
#[test]
fn m17_a_connection_that_has_sent_nothing_yet_is_served() {
    let dir = Dir::new();
    let (service, old) = web(&dir).serve();
    // Asked after the silent one was accepted: the queue has an order.
    let mut silent = Http::connect(&service);
    let mut other = Http::connect(&service);
    other.get("/");
    service.upgrade_to_drain(&old, 2);
    assert_eq!(silent.get("/"), by(1, &old, true));
    silent.assert_ends();
    assert_eq!(other.get("/"), by(1, &old, true));
    assert_eq!(old.exit(), Exit::Status(0));
}

#[test]
fn a_request_that_is_being_sent_is_answered() {
    let dir = Dir::new();
    let (service, old) = web(&dir).serve();
    let mut client = Http::connect(&service);
    client.write("GET / HTTP/1.1\r\nHo");
    let mut other = Http::connect(&service);
    other.get("/");
    service.upgrade_to_drain(&old, 2);
    client.write("st: test\r\n\r\n");
    assert_eq!(client.response(), by(1, &old, true));
}

/// D4. The task that accepts ends at the drain; those that it has started do not.
#[test]
fn d4_a_request_in_flight_is_answered() {
    let dir = Dir::new();
    let gate = dir.gate("answer");
    let (service, old) = web(&dir).serve();
    let mut client = Http::connect(&service);
    client.request("/gate/answer");
    service.wait(&old, "gate");
    service.upgrade_to_drain(&old, 1);
    gate.open();
    assert_eq!(client.response(), by(1, &old, true));
    client.assert_ends();
    assert_eq!(old.exit(), Exit::Status(0));
}

/// D5. A connection that is not HTTP any more is counted to its end.
#[test]
fn d5_a_connection_that_became_another_protocol_is_served_to_its_end() {
    let dir = Dir::new();
    let (service, old) = web(&dir).serve();
    let mut client = Http::connect(&service);
    client.write("GET /switch HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(client.response().status, 101);
    client.write("before\n");
    assert_eq!(client.line(), "before");
    let new = service.upgrade_to_drain(&old, 1);
    client.write("after\n");
    assert_eq!(client.line(), "after");
    // The refusal says that the new one knows the old one to be alive.
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "the predecessor is still draining");
    drop(client);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// It is told by `Shutdown` as any body is, and counted until it has said its last word.
#[test]
fn d5_a_connection_that_became_another_protocol_is_told_of_the_drain() {
    let dir = Dir::new();
    let gate = dir.gate("last");
    let (service, old) = web(&dir).serve();
    let mut client = Http::connect(&service);
    client.write(
        "GET /farewell/last HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: farewell\r\n\r\n",
    );
    assert_eq!(client.response().status, 101);
    let new = service.upgrade_to_drain(&old, 1);
    // It has been told, and the old process waits for it.
    service.wait(&old, "gate");
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "the predecessor is still draining");
    gate.open();
    assert_eq!(client.line(), format!("1 {}", old.pid()));
    client.assert_ends();
    assert_eq!(old.exit(), Exit::Status(0));
}

/// K9. What nobody uses is closed in the end, before the deadline of the drain is there: half of it at most. So is what was begun
/// before the drain, and of which nothing has come since.
#[test]
fn a_connection_that_stays_idle_is_closed_before_the_deadline() {
    let dir = Dir::new();
    let (service, old) = web(&dir).drain_timeout("6s").serve();
    let silent = Http::connect(&service);
    let mut idle = Http::connect(&service);
    idle.get("/");
    let mut begun = Http::connect(&service);
    begun.write("G");
    let mut half = Http::connect(&service);
    half.write("GET / HTTP/1.1\r\nHo");
    let mut stray = Http::connect(&service);
    stray.get("/");
    stray.write("\r\n");
    let mut http_2 = Http::connect(&service);
    http_2.write("PRI * HTTP/2");
    // Asked after the others were accepted: the queue has an order.
    let mut last = Http::connect(&service);
    last.get("/");
    service.upgrade_to_drain(&old, 7);
    for mut client in [silent, idle, begun, half, stray, http_2, last] {
        client.assert_ends();
    }
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!service.has_said(&old, "error"), "nothing had to be aborted");
}

/// An upload that is slow is read to its end, and an answer that streams is sent to its end.
#[test]
fn what_takes_long_is_finished_by_the_old_process() {
    let dir = Dir::new();
    let gate = dir.gate("rest");
    let (service, old) = web(&dir).serve();
    let mut upload = Http::connect(&service);
    upload.write("POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nslowly");
    let mut download = Http::connect(&service);
    download.request("/stream/rest");
    service.wait(&old, "gate");
    service.upgrade_to_drain(&old, 2);
    upload.write(" sent");
    let answer = upload.response();
    assert_eq!(answer, Response { body: format!("1 {} 11", old.pid()), ..by(1, &old, true) });
    upload.assert_ends();
    gate.open();
    // Its head was sent before anybody knew.
    let head = download.head();
    assert!(!head.closes);
    assert_eq!(download.chunks(), by(1, &old, true).body);
    // The next request is answered all the same, and says so.
    assert_eq!(download.get("/"), by(1, &old, true));
    download.assert_ends();
    assert_eq!(old.exit(), Exit::Status(0));
}

#[test]
fn an_answer_can_wait_for_the_drain() {
    let dir = Dir::new();
    let (service, old) = web(&dir).serve();
    let mut client = Http::connect(&service);
    client.request("/until-shutdown");
    let mut other = Http::connect(&service);
    other.get("/");
    // Its end may come before that of the other is counted: nobody waits for how many are open.
    service.upgrade(&old);
    assert_eq!(client.response(), by(1, &old, true));
}

/// M17, for a handshake before HTTP: one that was accepted is served, and one that never says a word is not waited for.
#[test]
fn m17_a_connection_in_mid_handshake_is_served_unless_it_stays_silent() {
    let dir = Dir::new();
    let listeners = web(&dir).listen("slow", "tcp://127.0.0.1:0").drain_timeout("6s");
    let (service, old) = listeners.serve();
    let mut late = Http::connect_to(&service, "slow");
    let mut silent = Http::connect_to(&service, "slow");
    let mut shaken = Http::connect_to(&service, "slow");
    shaken.write("!");
    let mut other = Http::connect_to(&service, "slow");
    other.write("!");
    assert_eq!(other.get("/"), by(1, &old, false));
    service.upgrade_to_drain(&old, 4);
    late.write("!");
    assert_eq!(late.get("/"), by(1, &old, true));
    assert_eq!(shaken.get("/"), by(1, &old, true));
    other.assert_ends();
    silent.assert_ends();
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!service.has_said(&old, "error"), "nothing had to be aborted");
}

/// What is left at the deadline is aborted, and named.
#[test]
fn an_answer_that_never_comes_is_aborted_at_the_deadline() {
    let dir = Dir::new();
    let _gate = dir.gate("never");
    let (service, old) = web(&dir).drain_timeout("500ms").serve();
    let mut client = Http::connect(&service);
    client.request("/gate/never");
    service.wait(&old, "gate");
    service.upgrade_to_drain(&old, 1);
    service.wait_for(&old, "error", "drain");
    client.assert_is_cut();
    old.exit();
}

/// The managed listener is a listener of axum as it stands. What is in flight is answered; `http::serve` does more.
#[test]
fn axum_serves_the_managed_listener() {
    let dir = Dir::new();
    let gate = dir.gate("answer");
    let (service, old) = web(&dir).listen("axum", "tcp://127.0.0.1:0").serve();
    let mut client = Http::connect_to(&service, "axum");
    assert_eq!(client.get("/"), by(1, &old, false));
    client.request("/gate/answer");
    service.wait(&old, "gate");
    let new = service.upgrade_to_drain(&old, 1);
    assert_eq!(Http::connect_to(&service, "axum").get("/"), by(2, &new, false));
    gate.open();
    assert_eq!(client.response().body, by(1, &old, true).body);
    client.assert_ends();
    assert_eq!(old.exit(), Exit::Status(0));
}

/// Idle, in the middle of a head, and before its first byte: each goes on in the successor, on the same socket.
#[test]
fn connections_between_two_requests_move() {
    let dir = Dir::new();
    let (service, old) = moving_web(&dir).serve();
    let (mut idle, mut half, mut silent) =
        (Http::connect(&service), Http::connect(&service), Http::connect(&service));
    assert_eq!(idle.get("/"), by(1, &old, false));
    assert_eq!(half.get("/"), by(1, &old, false));
    half.write("GET / HTTP/1.1\r\nHo");
    let mut old = old;
    for generation in 2..5 {
        let new = service.upgrade(&old);
        assert_eq!(old.exit(), Exit::Status(0));
        half.write("st: test\r\n\r\n");
        assert_eq!(half.response(), by(generation, &new, false));
        assert_eq!(idle.get("/"), by(generation, &new, false));
        if generation == 4 {
            assert_eq!(silent.get("/"), by(generation, &new, false));
        }
        half.write("GET / HTTP/1.1\r\nHo");
        old = new;
    }
}

/// Nothing has moved by then, so the end of a bad probation costs no connection.
#[test]
fn in_standby_an_answer_does_not_end_a_connection_that_is_to_move() {
    let dir = Dir::new();
    let (service, old) = moving_web(&dir).probation("1h").serve();
    let mut client = Http::connect(&service);
    let new = service.upgrade(&old);
    assert_eq!(client.get("/"), by(1, &old, false));
    new.kill();
    service.wait_for_failure(&old);
    assert_eq!(client.get("/"), by(1, &old, false));
}

/// A request that comes before the old process has handed its connection over is answered there; the connection moves after it.
fn assert_moves(client: &mut Http, old: &Process, new: &Process) {
    find("answer of the new process", || {
        let answer = client.get("/");
        assert!([by(1, old, false), by(2, new, false)].contains(&answer), "{answer:?}");
        (answer == by(2, new, false)).then_some(())
    });
}

/// The old process gives the answer that it owes, and the connection moves after it.
#[test]
fn a_connection_moves_after_the_answer_under_way() {
    let dir = Dir::new();
    let gate = dir.gate("rest");
    let (service, old) = moving_web(&dir).serve();
    let mut upload = Http::connect(&service);
    upload.write("POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nslowly");
    let mut download = Http::connect(&service);
    download.request("/stream/rest");
    service.wait(&old, "gate");
    let new = service.upgrade_to_drain(&old, 2);
    upload.write(" sent");
    let answer = upload.response();
    assert_eq!(answer, Response { body: format!("1 {} 11", old.pid()), ..by(1, &old, false) });
    assert_moves(&mut upload, &old, &new);
    gate.open();
    assert!(!download.head().closes);
    assert_eq!(download.chunks(), by(1, &old, false).body);
    assert_moves(&mut download, &old, &new);
    assert_eq!(old.exit(), Exit::Status(0));
}
