//! A client that sends whatever HTTP/1.1 allows: half heads, several requests at once, bodies in pieces of any size with and
//! without a length, requests whose answer takes long, and bodies that the service does not read.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use load::{DEADLINE, wait_until};
use processes::is_slow_wanted;

use crate::watched::{Watched, unless_held_up};

const CLIENTS: u32 = 64;
/// The longest pause within a request, in milliseconds. An upgrade takes about as long.
const PAUSE: u64 = 300;
/// Each request is longer.
const HEAD: usize = 50;
/// The longest body.
const BODY: usize = 40_000;
/// The most requests that are sent at once.
const PIPELINED: usize = 6;

/// What is done to the service in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// One request, its head in pieces.
    Head,
    /// Several requests in one write, of any kind but the last one's.
    Pipeline,
    /// A body with a length.
    Length,
    /// A body in chunks, with extensions and trailers.
    Chunks,
    /// A body that is sent back while it arrives.
    Stream,
    /// An answer that takes long.
    Slow,
    /// An answer in parts.
    Drip,
    /// Nothing, for a while.
    Nothing,
    /// A body that the service does not read, after which it may close the connection.
    Unread,
}

use Turn::{Chunks, Drip, Head, Length, Nothing, Pipeline, Slow, Stream, Unread};

const TURNS: [Turn; 9] = [Head, Pipeline, Length, Chunks, Stream, Slow, Drip, Nothing, Unread];

/// What went wrong.
#[derive(Debug)]
enum Wrong {
    /// The connection has ended.
    Closed(String),
    /// An answer that is right says that the connection closes.
    ToldToClose,
    /// An answer is not the one to its request.
    Answer(String),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(how) => write!(f, "closed: {how}"),
            Self::ToldToClose => f.write_str("told to close"),
            Self::Answer(what) => write!(f, "a wrong answer: {what}"),
        }
    }
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Answer("none in time".to_owned()),
            _ => Self::Closed(error.to_string()),
        }
    }
}

/// A request and the answer to it.
struct Exchange {
    bytes: Vec<u8>,
    status: u16,
    /// Starts with the path.
    answer: Vec<u8>,
}

struct Hostile {
    address: SocketAddr,
    number: u32,
    random: Rng,
    stream: BufReader<TcpStream>,
    /// The last turn left a body unread.
    may_be_closed: bool,
    asked: u32,
    seen: Seen,
}

/// What one client has seen.
#[derive(Debug, Default)]
struct Seen {
    /// The ports of its connections.
    ports: BTreeSet<u16>,
    answers: usize,
    paths: BTreeSet<String>,
    closed_after_an_unread_body: usize,
    /// In order, with all answers before it.
    closed: Vec<String>,
    wrong: Vec<String>,
}

impl Hostile {
    fn connect(address: SocketAddr) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        stream.set_nodelay(true).expect("an option");
        BufReader::new(stream)
    }

    fn new(address: SocketAddr, number: u32, seed: u64) -> Self {
        let stream = Self::connect(address);
        let random = Rng::with_seed(seed ^ (u64::from(number) << 32));
        let mut client =
            Self { address, number, random, stream, may_be_closed: false, asked: 0, seen: Seen::default() };
        client.note_port();
        client
    }

    fn note_port(&mut self) {
        let local = self.stream.get_ref().local_addr().expect("it is connected");
        self.seen.ports.insert(local.port());
    }

    fn reconnect(&mut self) {
        self.stream = Self::connect(self.address);
        self.may_be_closed = false;
        self.note_port();
    }

    /// Every second client keeps its connection from the beginning to the end.
    fn leaves_bodies_unread(&self) -> bool {
        self.number % 2 == 1
    }

    /// Takes its turns until the upgrades are over.
    fn run(mut self, over: &AtomicBool) -> Seen {
        while !over.load(Ordering::Relaxed) {
            let turn = TURNS[self.random.usize(..TURNS.len())];
            if turn == Unread && !self.leaves_bodies_unread() {
                continue;
            }
            let was_unread = self.may_be_closed;
            match self.take(turn) {
                Ok(()) => {}
                // Before a byte of the answer: a client asks again on a new connection. What is left of the turn is dropped.
                Err(Wrong::Closed(_) | Wrong::ToldToClose) if was_unread || turn == Unread => {
                    self.seen.closed_after_an_unread_body += 1;
                    self.reconnect();
                }
                Err(wrong) => {
                    let list = match wrong {
                        Wrong::ToldToClose => &mut self.seen.closed,
                        Wrong::Closed(_) | Wrong::Answer(_) => &mut self.seen.wrong,
                    };
                    list.push(format!("client {}, {turn:?}: {wrong}", self.number));
                    self.reconnect();
                }
            }
        }
        self.seen
    }

    fn take(&mut self, turn: Turn) -> Result<(), Wrong> {
        match turn {
            Nothing => {
                thread::sleep(Duration::from_millis(self.random.u64(..PAUSE)));
                return Ok(());
            }
            Pipeline => {
                let kinds = [Head, Length, Chunks, Stream, Slow, Drip];
                let count = self.random.usize(2..=PIPELINED);
                let exchanges: Vec<_> = (0..count)
                    .map(|_| {
                        let kind = kinds[self.random.usize(..kinds.len())];
                        self.exchange(kind)
                    })
                    .collect();
                let bytes: Vec<_> = exchanges.iter().flat_map(|exchange| &exchange.bytes).copied().collect();
                self.send(&bytes, &exchanges)?;
                self.may_be_closed = false;
            }
            turn => {
                let exchange = self.exchange(turn);
                let bytes = exchange.bytes.clone();
                self.send(&bytes, &[exchange])?;
                self.may_be_closed = turn == Unread;
            }
        }
        Ok(())
    }

    /// A request of this kind, with a path that no other has.
    fn exchange(&mut self, turn: Turn) -> Exchange {
        self.asked += 1;
        let way = match turn {
            Stream => "stream",
            Slow => "slow",
            Drip => "drip",
            Unread => "unread",
            _ => "whole",
        };
        let path = format!("/{way}/{}/{}", self.number, self.asked);
        let has_body = matches!(turn, Length | Chunks | Stream | Unread);
        let length = if has_body { self.random.usize(1..=BODY) } else { 0 };
        let body: Vec<u8> =
            std::iter::repeat_with(|| self.random.alphanumeric() as u8).take(length).collect();
        let in_chunks = turn == Chunks || (turn == Stream && self.random.bool());
        let method = if has_body { "POST" } else { "GET" };
        let filler = "x".repeat(self.random.usize(..2000));
        let mut bytes =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Filler: {filler}\r\n").into_bytes();
        if in_chunks {
            bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            let mut rest = &body[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(self.random.usize(1..=rest.len()));
                let extension = if self.random.bool() { ";name=value" } else { "" };
                bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
                rest = after;
            }
            let trailer = if self.random.bool() { "X-Trailer: value\r\n" } else { "" };
            bytes.extend(format!("0\r\n{trailer}\r\n").bytes());
        } else if has_body {
            bytes.extend(format!("Content-Length: {length}\r\n\r\n").bytes());
            bytes.extend(&body);
        } else {
            bytes.extend(b"\r\n");
        }
        let (status, answer) = match turn {
            Unread => (413, path.clone().into_bytes()),
            Head | Slow | Drip => (200, path.clone().into_bytes()),
            _ => (200, [path.as_bytes(), &body].concat()),
        };
        self.seen.paths.insert(path);
        Exchange { bytes, status, answer }
    }

    /// Sends the bytes in pieces, with pauses, and reads the answers.
    fn send(&mut self, bytes: &[u8], exchanges: &[Exchange]) -> Result<(), Wrong> {
        let written = self.write(bytes);
        // What the service has said before it closed is there to be read.
        for exchange in exchanges {
            self.read(exchange)?;
            self.seen.answers += 1;
        }
        Ok(written?)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let pieces = self.random.usize(1..=5);
        // Half of the cuts are in the head of the first request.
        let mut cuts = Vec::new();
        for _ in 1..pieces {
            let most = if self.random.bool() { bytes.len() } else { HEAD };
            cuts.push(self.random.usize(..most));
        }
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut from = 0;
        for cut in cuts {
            self.stream.get_mut().write_all(&bytes[from..cut])?;
            from = cut;
            let pause = match self.random.u8(..10) {
                0 => PAUSE,
                1..=4 => 3,
                _ => continue,
            };
            thread::sleep(Duration::from_millis(self.random.u64(..pause)));
        }
        Ok(())
    }

    fn read(&mut self, exchange: &Exchange) -> Result<(), Wrong> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(Wrong::Closed(format!("after {head:?} of an answer")));
            }
        }
        let lower = head.to_ascii_lowercase();
        let header = |name: &str| {
            let mut lines = lower.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.trim().to_owned()))
        };
        let body = match header("content-length") {
            Some(length) => {
                let mut body = vec![0; length.parse().expect("a number")];
                self.stream.read_exact(&mut body)?;
                body
            }
            None => self.read_chunks()?,
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        if status != Some(exchange.status) || body != exchange.answer {
            let [wanted, got] = [&exchange.answer, &body]
                .map(|text| String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned());
            return Err(Wrong::Answer(format!(
                "{head:?}, {} bytes from {got:?}, not {} from {wanted:?}",
                body.len(),
                exchange.answer.len()
            )));
        }
        if header("connection").is_some_and(|value| value == "close") {
            return Err(Wrong::ToldToClose);
        }
        Ok(())
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>, Wrong> {
        let mut body = Vec::new();
        loop {
            let mut size = String::new();
            self.stream.read_line(&mut size)?;
            let Ok(size) = usize::from_str_radix(size.trim_end(), 16) else {
                return Err(match size.is_empty() {
                    true => Wrong::Closed("within an answer".to_owned()),
                    false => Wrong::Answer(format!("a chunk that begins with {size:?}")),
                });
            };
            let from = body.len();
            body.resize(from + size + 2, 0);
            self.stream.read_exact(&mut body[from..])?;
            if body.split_off(from + size) != b"\r\n" {
                return Err(Wrong::Answer("a chunk without an end".to_owned()));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// Each answer is right, and only a connection with a body that was not read is closed.
#[test]
fn a_hostile_client_sees_no_upgrade() {
    unless_held_up(|| run(if is_slow_wanted() { 50 } else { 5 }));
}

fn run(upgrades: usize) -> Result<(), String> {
    let seed = fastrand::u64(..);
    let mut watched = Watched::start();
    let address = watched.service.address("http");
    let over = AtomicBool::new(false);
    let (seen, pids) = thread::scope(|scope| {
        let client = |number| {
            scope.spawn({
                let over = &over;
                move || Hostile::new(address, number, seed).run(over)
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        // A panic would leave the clients without an end.
        let pids = catch_unwind(AssertUnwindSafe(|| upgrade(&mut watched, upgrades)));
        over.store(true, Ordering::Relaxed);
        let seen: Vec<_> =
            clients.into_iter().map(|client| client.join().expect("it does not panic")).collect();
        (seen, pids.unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let answers: usize = seen.iter().map(|seen| seen.answers).sum();
    let unread: usize = seen.iter().map(|seen| seen.closed_after_an_unread_body).sum();
    let kept = seen.iter().filter(|seen| seen.ports.len() == 1).count();
    println!(
        "{upgrades} upgrades: {kept} of {CLIENTS} clients kept their socket, {answers} answers, {unread} closed after a body that \
         was not read; seed {seed}"
    );
    let wrong: Vec<_> = seen.iter().flat_map(|seen| &seen.wrong).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} of {answers}, seed {seed}:\n{}", wrong.len(), few(&wrong));
    watched.journal.has_no_repeated_path();
    let closed: Vec<_> = seen.iter().flat_map(|seen| &seen.closed).map(String::as_str).collect();
    if !closed.is_empty() {
        return Err(format!("{} were closed, seed {seed}:\n{}", closed.len(), few(&closed)));
    }
    assert!(kept >= CLIENTS as usize / 2 && unread > 0 && answers > 0);

    // On the same socket from the first process to the last.
    let [first, last] = [pids[0], pids[upgrades]].map(|pid| watched.journal.ports_of(pid));
    for seen in seen.iter().filter(|seen| seen.ports.len() == 1) {
        assert!(seen.ports.is_subset(&first) && seen.ports.is_subset(&last), "{:?}", seen.ports);
    }
    Ok(())
}

/// Upgrades the service, each time after each client has asked the process that serves. Gives all processes.
fn upgrade(watched: &mut Watched, upgrades: usize) -> Vec<u32> {
    let mut pids = vec![watched.service.pid()];
    loop {
        let pid = watched.service.pid();
        wait_until("all clients have asked the process", || {
            let requests = watched.journal.requests().iter().rev().take_while(|request| request.pid == pid);
            // `/WAY/CLIENT/REQUEST`
            let clients = requests.filter_map(|request| request.path.split('/').nth(2));
            clients.collect::<BTreeSet<_>>().len() == CLIENTS as usize
        });
        if pids.len() > upgrades {
            return pids;
        }
        pids.push(watched.service.upgrade());
    }
}

fn few(lines: &[&str]) -> String {
    lines[..lines.len().min(20)].join("\n")
}
