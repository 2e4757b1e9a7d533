//! The probe of a prepared successor: one connection, one request of HTTP/1.1, and its answer. Nothing here blocks.

use std::io::{self, Read, Write};
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::base::probe::Probe;
use crate::base::report::{MAX_REASON, printable};

/// The longest heads of an answer together, and the longest body, in bytes.
const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 64 * 1024;

/// The fields of the request.
const FIELDS: [&str; 4] =
    ["Host: localhost", "User-Agent: tableflip-probe", "Accept: */*", "Connection: close"];

/// How many reads follow one another, and the bytes of each. An answer without end then does not delay the engine.
const READS: usize = 4;
const READ_AT_ONCE: usize = 16 * 1024;

/// The client of a probe.
#[derive(Debug)]
pub(crate) struct ProbeClient {
    socket: Socket,
    /// The private listener of a TCP connection that is not accepted yet.
    listener: Option<Socket>,
    /// The end of the server, until it is taken.
    server: Option<OwnedFd>,
    /// What is left to send of the request.
    request: Vec<u8>,
    answer: Answer,
    /// The result. It does not change any more.
    ended: Option<Result<(), String>>,
}

impl ProbeClient {
    /// Begins a connection such as a client of this listener has: of TCP over the loopback interface, or of Unix sockets.
    pub(crate) fn begin(listener: BorrowedFd<'_>, probe: &Probe) -> io::Result<Self> {
        let (socket, listener, server) = match SockRef::from(&listener).local_addr()?.as_socket() {
            Some(SocketAddr::V4(_)) => loopback((Ipv4Addr::LOCALHOST, 0).into())?,
            Some(SocketAddr::V6(_)) => loopback((Ipv6Addr::LOCALHOST, 0).into())?,
            None => {
                let (ours, theirs) = UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                (OwnedFd::from(ours).into(), None, Some(theirs.into()))
            }
        };
        let request = format!("GET {} HTTP/1.1\r\n{}\r\n\r\n", probe.path(), FIELDS.join("\r\n"));
        let answer = Answer::new(probe.status());
        Ok(Self { socket, listener, server, request: request.into_bytes(), answer, ended: None })
    }

    /// The descriptors to wait for, and the events.
    pub(crate) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let wanted = match (&self.listener, self.ended.is_some(), self.request.is_empty()) {
            // poll(2) reports a connect that fails unasked.
            (Some(_), _, _) | (_, true, _) => PollFlags::empty(),
            (None, false, true) => PollFlags::POLLIN,
            (None, false, false) => PollFlags::POLLIN | PollFlags::POLLOUT,
        };
        let listener = self.listener.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        [PollFd::new(self.socket.as_fd(), wanted)].into_iter().chain(listener)
    }

    /// Goes on as far as it can without a wait. Returns the result once there is one.
    pub(crate) fn go_on(&mut self) -> Option<Result<(), String>> {
        if self.ended.is_none() {
            self.ended = match self.try_to_go_on() {
                Ok(ended) => ended,
                // Where the successor has not read the request, its close is a reset.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    Some(self.answer.end(self.closed()))
                }
                Err(error) => Some(self.answer.end(&format!("the connection failed: {error}"))),
            };
        }
        self.ended.clone()
    }

    /// The end of the server, once, when the connection is there.
    pub(crate) fn take_server(&mut self) -> Option<OwnedFd> {
        self.server.take()
    }

    /// Whether the successor has answered with a status. Otherwise it may be dead.
    pub(crate) fn has_status(&self) -> bool {
        self.answer.status.is_some()
    }

    /// Why there is no result yet, for a deadline that passes.
    pub(crate) fn is_missing(&self) -> String {
        if self.listener.is_some() {
            return "the connection on the loopback interface was not made".to_owned();
        }
        self.answer.is_missing()
    }

    fn closed(&self) -> &'static str {
        if self.answer.is_empty() {
            "it closed the connection without an answer"
        } else {
            "it closed the connection in the middle of its answer"
        }
    }

    fn try_to_go_on(&mut self) -> io::Result<Option<Result<(), String>>> {
        if let Some(listener) = &self.listener {
            let Some(server) = accepted(listener, &self.socket)? else { return Ok(None) };
            (self.server, self.listener) = (Some(server), None);
        }
        while !self.request.is_empty() {
            match self.socket.write(&self.request) {
                Ok(count) => drop(self.request.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The successor may have answered without a look at the request.
                Err(_) => self.request.clear(),
            }
        }
        let mut buffer = [0; READ_AT_ONCE];
        for _ in 0..READS {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(Some(self.answer.end(self.closed()))),
                Ok(count) => {
                    if let Some(ended) = self.answer.take(&buffer[..count]) {
                        return Ok(Some(ended));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Begins to connect to a listener of its own on the loopback interface.
fn loopback(any_port: SocketAddr) -> io::Result<(Socket, Option<Socket>, Option<OwnedFd>)> {
    let stream = |address: &SocketAddr| Socket::new(Domain::for_address(*address), Type::STREAM, None);
    let listener = stream(&any_port)?;
    listener.set_nonblocking(true)?;
    listener.bind(&SockAddr::from(any_port))?;
    listener.listen(8)?;
    let client = stream(&any_port)?;
    client.set_nonblocking(true)?;
    match client.connect(&listener.local_addr()?) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        Ok(()) | Err(_) => Ok((client, Some(listener), None)),
    }
}

/// The other end of the client's connection, once it is in the queue. A connection of any other process is closed.
fn accepted(listener: &Socket, client: &Socket) -> io::Result<Option<OwnedFd>> {
    if let Some(error) = client.take_error()? {
        return Err(error);
    }
    // A bound: other processes may connect as fast as this one accepts.
    for _ in 0..64 {
        match listener.accept() {
            Ok((server, peer)) => {
                if peer.as_socket() == client.local_addr()?.as_socket() {
                    return Ok(Some(server.into()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// An answer of HTTP/1.1 as far as it has arrived.
#[derive(Debug)]
struct Answer {
    /// The status that it must have. `None` for any from 200 to 299.
    expected: Option<u16>,
    stage: Stage,
    /// The bytes of the head that is not complete.
    head: Vec<u8>,
    /// The length of all heads so far.
    head_length: usize,
    /// The first line, once the head is complete.
    status: Option<Status>,
    body: Vec<u8>,
    /// The length of the body with its framing.
    body_length: usize,
}

/// The status line of an answer.
#[derive(Debug)]
struct Status {
    code: u16,
    /// The code with the reason phrase.
    text: String,
}

#[derive(Debug)]
enum Stage {
    Head,
    /// The body ends with the connection.
    UntilEnd,
    /// So many bytes of the body are missing.
    Length(usize),
    Chunked(Chunk),
}

/// The place in a chunked body.
#[derive(Debug)]
enum Chunk {
    Size(usize),
    /// The rest of the line that has the size.
    Extension(usize),
    Data(usize),
    /// The end of the line behind the data.
    AfterData,
    /// A line of the trailer, and whether it has a byte.
    Trailer {
        is_empty: bool,
    },
}

impl Answer {
    fn new(expected: Option<u16>) -> Self {
        Self {
            expected,
            stage: Stage::Head,
            head: Vec::new(),
            head_length: 0,
            status: None,
            body: Vec::new(),
            body_length: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.head_length == 0
    }

    /// Takes what has arrived. Returns the result once it is known.
    fn take(&mut self, mut bytes: &[u8]) -> Option<Result<(), String>> {
        while !bytes.is_empty() {
            let taken = match self.stage {
                Stage::Head => self.take_head(bytes),
                _ => self.take_body(bytes),
            };
            match taken {
                Ok(Progress::Taken(count)) => bytes = &bytes[count..],
                Ok(Progress::Complete) => return Some(self.verdict()),
                Err(problem) => return Some(Err(problem)),
            }
        }
        // The reason of a failure has room for no more of the body.
        let is_enough = self.status.is_some() && !self.is_expected() && self.body.len() >= MAX_REASON;
        is_enough.then(|| self.verdict())
    }

    /// The result of an answer after which nothing comes.
    fn end(&self, how: &str) -> Result<(), String> {
        match &self.stage {
            Stage::UntilEnd => self.verdict(),
            // The status is the better reason.
            Stage::Length(_) | Stage::Chunked(_) if !self.is_expected() => self.verdict(),
            Stage::Head | Stage::Length(_) | Stage::Chunked(_) => Err(how.to_owned()),
        }
    }

    fn is_missing(&self) -> String {
        match &self.status {
            None if self.is_empty() => "it gave no answer".to_owned(),
            None => "the head of its answer did not end".to_owned(),
            Some(status) => format!("it answered {}, and its answer did not end", status.text),
        }
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<Progress, String> {
        for (at, byte) in bytes.iter().enumerate() {
            self.head.push(*byte);
            self.head_length += 1;
            if self.head_length > MAX_HEAD {
                return Err(format!("the head of its answer is longer than {MAX_HEAD} bytes"));
            }
            let length = self.head.len();
            if length <= START.len() && self.head[..] != START[..length] {
                let shown = printable(&String::from_utf8_lossy(&bytes[..bytes.len().min(64)]));
                return Err(format!("its answer is not HTTP/1.1: {shown:?}"));
            }
            if *byte == b'\n' && (self.head.ends_with(b"\n\n") || self.head.ends_with(b"\n\r\n")) {
                let head = mem::take(&mut self.head);
                return self.read_head(&String::from_utf8_lossy(&head), at + 1);
            }
        }
        Ok(Progress::Taken(bytes.len()))
    }

    fn read_head(&mut self, head: &str, count: usize) -> Result<Progress, String> {
        let mut lines = head.lines();
        let line = lines.next().unwrap_or_default();
        let not_http = || format!("its answer is not HTTP/1.1: {:?}", printable(line));
        let (version, rest) = line.split_once(' ').ok_or_else(not_http)?;
        let digits = rest.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let code: u16 = digits.and_then(|digits| digits.parse().ok()).ok_or_else(not_http)?;
        if !version.starts_with("HTTP/1.") || !rest[3..].is_empty() && !rest[3..].starts_with(' ') {
            return Err(not_http());
        }
        // An interim response. The answer is still to come.
        if (100..200).contains(&code) && code != 101 {
            return Ok(Progress::Taken(count));
        }
        self.status = Some(Status { code, text: printable(rest).trim_end().to_owned() });
        let fields = lines.filter_map(|line| line.split_once(':'));
        let (mut is_chunked, mut length) = (false, None);
        for (name, value) in fields {
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") {
                is_chunked |= value.to_ascii_lowercase().ends_with("chunked");
            } else if name.eq_ignore_ascii_case("content-length") {
                let no_number =
                    || format!("the Content-Length of its answer is no number: {:?}", printable(value));
                length = Some(value.parse::<usize>().map_err(|_| no_number())?);
            }
        }
        self.stage = match length {
            _ if matches!(code, 204 | 304) => return Ok(Progress::Complete),
            _ if is_chunked => Stage::Chunked(Chunk::Size(0)),
            Some(0) => return Ok(Progress::Complete),
            Some(length) => Stage::Length(length),
            None => Stage::UntilEnd,
        };
        Ok(Progress::Taken(count))
    }

    fn take_body(&mut self, bytes: &[u8]) -> Result<Progress, String> {
        let too_long = || Err(format!("the body of its answer is longer than {MAX_BODY} bytes"));
        match &mut self.stage {
            Stage::Head => {}
            Stage::UntilEnd => self.body.extend_from_slice(bytes),
            Stage::Length(missing) => {
                let count = bytes.len().min(*missing);
                *missing -= count;
                self.body.extend_from_slice(&bytes[..count]);
                if *missing == 0 && self.body.len() <= MAX_BODY {
                    return Ok(Progress::Complete);
                }
            }
            Stage::Chunked(chunk) => {
                for byte in bytes {
                    if chunk.take(*byte, &mut self.body)? {
                        return Ok(Progress::Complete);
                    }
                }
            }
        }
        self.body_length += bytes.len();
        if self.body_length > MAX_BODY && (self.status.is_none() || self.is_expected()) {
            return too_long();
        }
        Ok(Progress::Taken(bytes.len()))
    }

    fn is_expected(&self) -> bool {
        let Some(status) = &self.status else { return false };
        self.expected.map_or((200..300).contains(&status.code), |expected| expected == status.code)
    }

    fn verdict(&self) -> Result<(), String> {
        if self.is_expected() {
            return Ok(());
        }
        let status = self.status.as_ref().map(|status| status.text.as_str()).unwrap_or_default();
        let expected = self.expected.map(|expected| format!(" instead of {expected}")).unwrap_or_default();
        let body = printable(&String::from_utf8_lossy(&self.body));
        let body = if body.is_empty() { body } else { format!(": {body}") };
        Err(format!("it answered {status}{expected}{body}"))
    }
}

/// What every answer begins with.
const START: &[u8] = b"HTTP/1.";

enum Progress {
    /// So many bytes are taken, and more are to come.
    Taken(usize),
    Complete,
}

impl Chunk {
    /// Takes the next byte. Returns whether the body is complete.
    fn take(&mut self, byte: u8, body: &mut Vec<u8>) -> Result<bool, String> {
        let broken = || "the chunks of its answer are broken".to_owned();
        match self {
            Self::Size(size) => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) => {
                    let digit = usize::try_from(digit).map_err(|_| broken())?;
                    *size =
                        size.checked_mul(16).and_then(|size| size.checked_add(digit)).ok_or_else(broken)?;
                }
                (None, b'\n') => *self = Self::after_size(*size),
                (None, b'\r' | b';' | b' ' | b'\t') => *self = Self::Extension(*size),
                (None, _) => return Err(broken()),
            },
            Self::Extension(size) if byte == b'\n' => *self = Self::after_size(*size),
            Self::Extension(_) => {}
            Self::Data(left) => {
                body.push(byte);
                *left -= 1;
                if *left == 0 {
                    *self = Self::AfterData;
                }
            }
            Self::AfterData if byte == b'\n' => *self = Self::Size(0),
            Self::AfterData if byte == b'\r' => {}
            Self::AfterData => return Err(broken()),
            Self::Trailer { is_empty } => match byte {
                b'\n' if *is_empty => return Ok(true),
                b'\n' => *is_empty = true,
                b'\r' => {}
                _ => *is_empty = false,
            },
        }
        Ok(false)
    }

    fn after_size(size: usize) -> Self {
        if size == 0 { Self::Trailer { is_empty: true } } else { Self::Data(size) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sys::poll;

    fn judged(expected: Option<u16>, answer: &[u8], at_once: usize) -> Result<(), String> {
        let mut taken = Answer::new(expected);
        for bytes in answer.chunks(at_once) {
            if let Some(ended) = taken.take(bytes) {
                return ended;
            }
        }
        taken.end("it ended")
    }

    /// The result of an answer, whatever the pieces are that it arrives in.
    fn judge(expected: Option<u16>, answer: &str) -> Result<(), String> {
        let result = judged(expected, answer.as_bytes(), answer.len().max(1));
        for at_once in [1, 2, 7] {
            assert_eq!(judged(expected, answer.as_bytes(), at_once), result, "{answer:?} by {at_once}");
        }
        result
    }

    #[test]
    fn an_answer_is_judged_by_its_status_and_must_be_whole() {
        for whole in [
            "HTTP/1.1 200 OK\r\n\r\nfine",
            "HTTP/1.1 200 OK\n\nfine",
            "HTTP/1.0 299\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nA: b\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert_eq!(judge(None, whole), Ok(()), "{whole:?}");
        }
        assert_eq!(judge(Some(503), "HTTP/1.1 503 Busy\r\n\r\n"), Ok(()));
        for (answer, problem) in [
            ("HTTP/1.1 500 Oh no\r\n\r\nno disk\nat all", "it answered 500 Oh no: no disk at all"),
            ("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "it answered 302 Found"),
            ("HTTP/1.1 500\r\nContent-Length: 99\r\n\r\nhalf", "it answered 500: half"),
            ("", "it ended"),
            ("HTTP/1.1 200 OK\r\nA: b", "it ended"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf", "it ended"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "it ended"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhalf",
                "the chunks of its answer are broken",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
                "the chunks of its answer are broken",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                "the Content-Length of its answer is no number: \"-1\"",
            ),
            ("HTTP/1.1 2000 OK\r\n\r\n", "its answer is not HTTP/1.1: \"HTTP/1.1 2000 OK\""),
            ("HTTP/1.1\r\n\r\n", "its answer is not HTTP/1.1: \"HTTP/1.1\""),
        ] {
            assert_eq!(judge(None, answer), Err(problem.to_owned()), "{answer:?}");
        }
        let other = judge(Some(204), "HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(other, Err("it answered 200 OK instead of 204".to_owned()));
        let garbage = judged(None, b"SSH-2.0-x\r\n", 100);
        assert_eq!(garbage, Err("its answer is not HTTP/1.1: \"SSH-2.0-x\"".to_owned()));
    }

    /// An answer without end is no reason to keep all of it.
    #[test]
    fn an_answer_is_bounded() {
        let repeated = |start: &str, piece: &[u8], end: usize| {
            let mut answer = start.as_bytes().to_vec();
            while answer.len() < end {
                answer.extend_from_slice(piece);
            }
            judged(None, &answer, 4096).unwrap_err()
        };
        let ok = "HTTP/1.1 200 OK\r\n";
        assert_eq!(repeated(ok, b"A: b\r\n", 100_000), "the head of its answer is longer than 16384 bytes");
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(repeated("", interim, 100_000), "the head of its answer is longer than 16384 bytes");
        let too_long = "the body of its answer is longer than 65536 bytes";
        assert_eq!(repeated(&format!("{ok}\r\n"), b"x", 100_000), too_long);
        let chunked = format!("{ok}Transfer-Encoding: chunked\r\n\r\n");
        assert_eq!(repeated(&chunked, b"1\r\nx\r\n", 100_000), too_long);
        let long = format!("{ok}Content-Length: 99999\r\n\r\n");
        assert_eq!(repeated(&long, b"x", 99_999), too_long);
        let failure = repeated("HTTP/1.1 500 No\r\n\r\n", b"x", 100_000);
        assert!(
            failure.starts_with("it answered 500 No: xxx") && failure.len() < 2 * MAX_REASON,
            "{failure}"
        );
    }

    /// Waits until the connection of a probe is there.
    fn connected(listener: BorrowedFd<'_>) -> (ProbeClient, Socket) {
        let probe = Probe::parse("GET /healthz").unwrap();
        let mut client = ProbeClient::begin(listener, &probe).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert_eq!(client.go_on(), None);
            if let Some(server) = client.take_server() {
                return (client, server.into());
            }
            assert!(Instant::now() < deadline);
            poll::until(&mut client.fds().collect::<Vec<_>>(), Some(deadline)).unwrap();
        }
    }

    #[test]
    fn its_connection_is_one_of_the_family_of_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let listeners: [OwnedFd; 3] = [
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
            TcpListener::bind("[::1]:0").unwrap().into(),
            UnixListener::bind(dir.path().join("s")).unwrap().into(),
        ];
        for listener in listeners {
            let (mut client, mut server) = connected(listener.as_fd());
            let family = SockRef::from(&listener).domain().unwrap();
            assert_eq!(server.domain().unwrap(), family);
            let mut request = [0; 1024];
            let count = server.read(&mut request).unwrap();
            let request = std::str::from_utf8(&request[..count]).unwrap();
            assert!(request.starts_with("GET /healthz HTTP/1.1\r\nHost: localhost\r\n"), "{request}");
            assert!(request.ends_with("\r\nConnection: close\r\n\r\n"), "{request}");
            assert_eq!(client.go_on(), None);
            assert_eq!(client.is_missing(), "it gave no answer");
            server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            drop(server);
            poll::until(&mut client.fds().collect::<Vec<_>>(), None).unwrap();
            assert_eq!(client.go_on(), Some(Ok(())));
        }
    }

    /// Any process of the machine can connect to a port of the loopback interface.
    #[test]
    fn a_connection_of_another_process_is_not_taken_for_its_own() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (client, listener, _) = loopback(any).unwrap();
        let listener = listener.unwrap();
        let (other, _of_other, _) = loopback(any).unwrap();
        assert!(accepted(&listener, &other).unwrap().is_none(), "it is a stranger's");
        drop(client);
    }

    #[test]
    fn one_that_closes_is_told() {
        let listener = UnixStream::pair().unwrap().0;
        let (mut client, server) = connected(listener.as_fd());
        drop(server);
        let closed = "it closed the connection without an answer".to_owned();
        assert_eq!(client.go_on(), Some(Err(closed)));
    }
}
