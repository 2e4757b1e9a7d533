//! `tableflip::http::serve` across an upgrade, seen by a client that writes the frames of HTTP/2 itself, RFC 9113.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{DEADLINE, Dir, Exit, Process, Service};
use crate::http::web;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The stream that the first GOAWAY names: none is refused.
const ANY: u32 = (1 << 31) - 1;
/// A payload of SETTINGS: a byte of an answer may be sent, and more when the client says so.
const INITIAL_WINDOW_OF_ONE: [u8; 6] = [0, 4, 0, 0, 0, 1];

/// A connection to the listener `http`.
struct Http2 {
    stream: TcpStream,
    /// What has come of each answer.
    data: BTreeMap<u32, Vec<u8>>,
}

/// What came back, without what is of no interest here.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    /// The body of an answer, whole.
    Answer {
        stream: u32,
        body: String,
    },
    Ping {
        payload: [u8; 8],
    },
    /// With the last stream that is served.
    GoAway {
        last: u32,
    },
    End,
}

impl Http2 {
    /// Says nothing yet.
    fn connect(service: &Service) -> Self {
        let stream = TcpStream::connect(service.address("http")).expect("somebody listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        Self { stream, data: BTreeMap::new() }
    }

    /// Has had the answer to its first request, by the first generation.
    fn answered_by(service: &Service, first: &Process) -> Self {
        let mut client = Self::connect(service);
        client.begin();
        client.ask(1, "/");
        assert_eq!(client.next(), by(1, first, 1));
        client
    }

    /// The preface.
    fn begin(&mut self) {
        self.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the connection is open");
        self.frame(SETTINGS, 0, 0, &[]);
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.stream.write_all(&frame).expect("the connection is open");
    }

    /// Asks for a path. The fields are those of the static table of HPACK, RFC 7541: GET, http, and two literals.
    fn ask(&mut self, stream: u32, path: &str) {
        let length = u8::try_from(path.len()).expect("a short path");
        let fields = [&[0x82, 0x86, 0x04, length], path.as_bytes(), &[0x01, 4], b"test"].concat();
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields);
    }

    /// The next frame of interest.
    fn next(&mut self) -> Frame {
        loop {
            let mut head = Vec::new();
            // Goes on after EINTR, as of a process that was stopped meanwhile.
            (&mut self.stream).take(9).read_to_end(&mut head).expect("it ends in order");
            if head.is_empty() {
                return Frame::End;
            }
            let head: [u8; 9] = head.try_into().expect("a whole frame");
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).expect("a whole frame");
            let stream = u32::from_be_bytes(stream);
            match kind {
                DATA => {
                    let data = self.data.entry(stream).or_default();
                    data.extend(payload);
                    if flags & END_STREAM != 0 {
                        let data = std::mem::take(data);
                        let body = String::from_utf8(data).expect("it is text");
                        return Frame::Answer { stream, body };
                    }
                }
                PING if flags & ACK == 0 => {
                    return Frame::Ping { payload: payload.try_into().expect("eight bytes") };
                }
                GOAWAY => {
                    let [last, reason] = [&payload[..4], &payload[4..8]]
                        .map(|field| u32::from_be_bytes(field.try_into().expect("four bytes")));
                    assert_eq!(reason, 0, "NO_ERROR");
                    return Frame::GoAway { last };
                }
                _ => {}
            }
        }
    }

    /// Takes the GOAWAY that comes a while after the first, and the PING behind it; which is answered by what this returns.
    fn second_goaway(&mut self) -> [u8; 8] {
        assert_eq!(self.next(), Frame::GoAway { last: ANY });
        match self.next() {
            Frame::Ping { payload } => payload,
            other => panic!("it is {other:?}"),
        }
    }

    /// Takes the first one and an answer, which come in any order.
    fn first_goaway_and(&mut self, answer: Frame) {
        self.goaway_and(ANY, answer);
    }

    fn goaway_and(&mut self, last: u32, answer: Frame) {
        let goaway = Frame::GoAway { last };
        let both = [self.next(), self.next()];
        assert!(both.contains(&goaway) && both.contains(&answer), "{both:?}");
    }

    /// Takes all that is left to come, with this stream as the last one.
    fn assert_ends_after(&mut self, last: u32) {
        let ping = self.second_goaway();
        self.pong(ping);
        assert_eq!(self.next(), Frame::GoAway { last });
        assert_eq!(self.next(), Frame::End);
    }

    fn pong(&mut self, payload: [u8; 8]) {
        self.frame(PING, ACK, 0, &payload);
    }
}

fn by(generation: u64, process: &Process, stream: u32) -> Frame {
    Frame::Answer { stream, body: format!("{generation} {}", process.pid()) }
}

/// D6, M13. The first GOAWAY refuses nothing, so no request crosses it; the last one comes when the client is known to
/// have read the first, and what it had sent before has arrived.
#[test]
fn d6_an_idle_connection_gets_both_goaways_and_what_crosses_them_is_answered() {
    let dir = Dir::new();
    let (service, old) = web(&dir).serve();
    let mut client = Http2::answered_by(&service, &old);
    service.upgrade_to_drain(&old, 1);
    assert_eq!(client.next(), Frame::GoAway { last: ANY });
    // As if it had been on its way.
    client.ask(3, "/");
    assert_eq!(client.next(), by(1, &old, 3));
    client.assert_ends_after(3);
    assert_eq!(old.exit(), Exit::Status(0));
}

#[test]
fn d6_in_standby_the_next_request_brings_the_goaway() {
    let dir = Dir::new();
    let (service, old) = web(&dir).probation("1h").serve();
    let mut client = Http2::answered_by(&service, &old);
    service.upgrade(&old);
    client.ask(3, "/");
    client.first_goaway_and(by(1, &old, 3));
    client.assert_ends_after(3);
}

/// M17. It was accepted, so it is this process's to serve, though not even its preface has arrived.
#[test]
fn m17_a_connection_that_has_sent_nothing_yet_is_served_over_http_2() {
    let dir = Dir::new();
    let (service, old) = web(&dir).serve();
    // Asked after the silent ones were accepted: the queue has an order.
    let mut silent = Http2::connect(&service);
    let mut begun = Http2::connect(&service);
    begun.begin();
    let mut other = Http2::answered_by(&service, &old);
    service.upgrade_to_drain(&old, 3);
    silent.begin();
    for client in [&mut silent, &mut begun] {
        client.ask(1, "/");
        client.first_goaway_and(by(1, &old, 1));
        client.assert_ends_after(1);
    }
    assert_eq!(other.next(), Frame::GoAway { last: ANY });
    other.assert_ends_after(1);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// D4. Each stream that is open at the drain is served to its end.
#[test]
fn d4_streams_in_flight_are_answered_after_the_goaway() {
    let dir = Dir::new();
    let gates = [dir.gate("answer"), dir.gate("rest")];
    let (service, old) = web(&dir).serve();
    let mut client = Http2::connect(&service);
    client.begin();
    client.ask(1, "/gate/answer");
    service.wait(&old, "gate");
    client.ask(3, "/stream/rest");
    service.wait(&old, "gate");
    client.ask(5, "/until-shutdown");
    service.upgrade_to_drain(&old, 1);
    client.first_goaway_and(by(1, &old, 5));
    let ping = client.second_goaway();
    client.pong(ping);
    assert_eq!(client.next(), Frame::GoAway { last: 5 });
    gates[0].open();
    assert_eq!(client.next(), by(1, &old, 1));
    gates[1].open();
    assert_eq!(client.next(), by(1, &old, 3));
    assert_eq!(client.next(), Frame::End);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// A channel that somebody has opened in advance, and not used yet.
#[test]
fn a_connection_without_a_request_is_closed_before_the_deadline_over_http_2() {
    let dir = Dir::new();
    let (service, old) = web(&dir).drain_timeout("6s").serve();
    let mut client = Http2::connect(&service);
    client.begin();
    let mut other = Http2::answered_by(&service, &old);
    service.upgrade_to_drain(&old, 2);
    for (client, last) in [(&mut other, 1), (&mut client, 0)] {
        assert_eq!(client.next(), Frame::GoAway { last: ANY });
        client.assert_ends_after(last);
    }
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!service.has_said(&old, "error"), "nothing had to be aborted");
}

/// It is gone without a word, and its answer to the PING is not waited for until the deadline.
#[test]
fn a_client_that_is_gone_does_not_hold_the_drain_over_http_2() {
    let dir = Dir::new();
    let (service, old) = web(&dir).drain_timeout("6s").serve();
    let mut client = Http2::answered_by(&service, &old);
    service.upgrade_to_drain(&old, 1);
    assert_eq!(client.next(), Frame::GoAway { last: ANY });
    client.second_goaway();
    assert_eq!(client.next(), Frame::End);
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!service.has_said(&old, "error"), "nothing had to be aborted");
}

/// It lives, for it answers the PING, and may take its time with what it has asked for.
#[test]
fn a_client_that_is_silent_after_the_goaways_is_served_to_the_end() {
    let dir = Dir::new();
    let gate = dir.gate("answer");
    let (service, old) = web(&dir).drain_timeout("6s").serve();
    let mut client = Http2::connect(&service);
    client.begin();
    client.ask(1, "/gate/answer");
    service.wait(&old, "gate");
    let mut gone = Http2::answered_by(&service, &old);
    service.upgrade_to_drain(&old, 2);
    for client in [&mut client, &mut gone] {
        assert_eq!(client.next(), Frame::GoAway { last: ANY });
    }
    let ping = client.second_goaway();
    client.pong(ping);
    assert_eq!(client.next(), Frame::GoAway { last: 1 });
    // That one is given up at the time at which the other would be.
    gone.second_goaway();
    assert_eq!(gone.next(), Frame::End);
    gate.open();
    assert_eq!(client.next(), by(1, &old, 1));
    assert_eq!(client.next(), Frame::End);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// hyper has the whole body of that answer, and the client's window has no room for it.
#[test]
fn an_answer_that_waits_for_the_window_is_sent_to_its_end() {
    let dir = Dir::new();
    let (service, old) = web(&dir).drain_timeout("6s").serve();
    let mut client = Http2::connect(&service);
    client.begin();
    client.frame(SETTINGS, 0, 0, &INITIAL_WINDOW_OF_ONE);
    client.ask(1, "/");
    let mut gone = Http2::answered_by(&service, &old);
    service.upgrade_to_drain(&old, 2);
    for client in [&mut client, &mut gone] {
        assert_eq!(client.next(), Frame::GoAway { last: ANY });
    }
    let ping = client.second_goaway();
    // That one is given up at the time at which the other would be.
    gone.second_goaway();
    assert_eq!(gone.next(), Frame::End);
    client.frame(WINDOW_UPDATE, 0, 1, &1000u32.to_be_bytes());
    client.pong(ping);
    client.goaway_and(1, by(1, &old, 1));
    assert_eq!(client.next(), Frame::End);
    assert_eq!(old.exit(), Exit::Status(0));
}
