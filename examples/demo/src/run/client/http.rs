//! A minimal HTTP/1.1 client that knows exactly how a request was lost.
//!
//! The usual clients hide what this program counts: they retry a request that met a closed connection, and they
//! tell all failures of a connection apart from one another by a text at best. This one sends a request once and
//! says what became of it.

use std::{io, net::SocketAddr, time::Duration};

use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{Answer, CROSSING, Client, Exchange, Kind, Loss, Named, Place};

/// How long the server may take to close a connection that it said it would close.
const CLOSING: Duration = Duration::from_secs(1);

/// What the head of an answer may measure at most.
const HEAD: usize = 8 * 1024;

/// Where the requests go, and how long each may take.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    server: SocketAddr,
    /// How long a connection may take to come about, and then an answer to be complete.
    patience: Duration,
    crossing: Duration,
    /// Who serves, if the answers do not say it.
    named: Option<Named>,
    /// The next request on a connection may be another process's.
    is_behind_a_proxy: bool,
}

impl Http {
    pub(crate) fn new(
        server: SocketAddr,
        patience: Duration,
        named: Option<Named>,
        is_behind_a_proxy: bool,
    ) -> Self {
        Self { server, patience, crossing: CROSSING, named, is_behind_a_proxy }
    }

    async fn connect(&self) -> Result<Connection, Loss> {
        Connection::open(self).await.map_err(|error| Loss {
            kind: Kind::of(&error),
            place: Place::NewConnection,
            detail: format!("connecting: {error}"),
            last_pid: None,
        })
    }

    /// What the failure of a connection means for the request that had been written on it this long before.
    fn loss(&self, error: &io::Error, since: Duration, connection: &Connection) -> Loss {
        let kind = Kind::of(error);
        let first = connection.requests == 1;
        let silent = connection.buffer.is_empty();
        let closed_at_once = kind != Kind::Timeout && since < self.crossing;
        let place = match (first, silent) {
            (true, true) if closed_at_once || kind == Kind::Timeout => Place::NewConnection,
            (false, true) if closed_at_once => Place::CrossingClose,
            _ => Place::InFlight,
        };
        let (ms, number) = (since.as_secs_f64() * 1e3, connection.requests);
        let detail = format!("{error}, {ms:.1} ms after request {number} on its connection");
        Loss { kind, place, detail, last_pid: connection.last_pid }
    }
}

impl Client for Http {
    type Kept = Connection;

    async fn open(&self, slot: &mut Option<Connection>) -> Result<(), Loss> {
        *slot = Some(self.connect().await?);
        Ok(())
    }

    fn give_up_closed(&self, slot: &mut Option<Connection>) -> bool {
        slot.take_if(|connection| !connection.is_open()).is_some()
    }

    async fn exchange(&self, slot: &mut Option<Connection>, slow: bool, keep_alive: bool) -> Exchange {
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => connection,
                Err(loss) => return Exchange { opened: None, result: Err(loss) },
            },
        };
        if self.is_behind_a_proxy {
            connection.named = self.named.as_ref().map(Named::get);
        }
        let path = if slow && self.named.is_none() { "/slow" } else { "/" };
        let ending = if keep_alive { "" } else { "Connection: close\r\n" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{ending}\r\n", self.server);
        let written = Instant::now();
        let sent = connection.send(request.as_bytes(), self.patience).await;
        let opened = (connection.requests == 1).then_some(connection.opened);
        let result = match sent {
            Ok(answer) => {
                connection.last_pid = Some(answer.pid);
                if keep_alive && !answer.close {
                    *slot = Some(connection);
                } else {
                    tokio::spawn(connection.wait_for_close());
                }
                Ok(answer)
            }
            Err(error) => Err(self.loss(&error, written.elapsed(), &connection)),
        };
        Exchange { opened, result }
    }
}

/// One connection to the server.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    opened: Instant,
    /// What has been received of the answer.
    buffer: Vec<u8>,
    requests: u32,
    last_pid: Option<u32>,
    /// Who serves it, if the answers do not say it.
    named: Option<(u64, u32)>,
}

impl Connection {
    async fn open(client: &Http) -> io::Result<Self> {
        let opened = Instant::now();
        // After the time was taken: the named process has answered before, so that a new connection to it is none to a
        // superseded process.
        let named = client.named.as_ref().map(Named::get);
        let connecting = timeout(client.patience, TcpStream::connect(client.server));
        let stream = connecting.await.map_err(io::Error::from)??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, opened, buffer: Vec::with_capacity(512), requests: 0, last_pid: None, named })
    }

    /// Whether the server has not closed the connection, as far as the kernel knows at this very moment. Tokio is
    /// not asked, since it only knows what it has been told at its last turn.
    fn is_open(&self) -> bool {
        let mut byte = [0_u8; 1];
        match rustix::net::recv(&self.stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => false,
            // Bytes without a request make the next answer a bad one, and rightly so.
            Ok(_) => true,
            Err(error) => error == rustix::io::Errno::AGAIN,
        }
    }

    async fn send(&mut self, request: &[u8], patience: Duration) -> io::Result<Answer> {
        self.requests += 1;
        self.buffer.clear();
        timeout(patience, async {
            self.stream.write_all(request).await?;
            loop {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended"));
                }
                if let Some(answer) = parse(&self.buffer, self.named)? {
                    return Ok(answer);
                }
            }
        })
        .await
        .map_err(io::Error::from)?
    }

    /// Leaves it to the server to close first: the port then stays in TIME_WAIT on its side, where a new
    /// connection may take it over, and the client does not run out of ports at 1,000 new connections a second.
    async fn wait_for_close(mut self) {
        let mut rest = [0_u8; 64];
        let closed = async { while matches!(self.stream.read(&mut rest).await, Ok(1..)) {} };
        // Whoever has the whole answer does not mind how its connection ends, or when.
        drop(timeout(CLOSING, closed).await);
    }
}

/// The answer in `bytes`, or `None` as long as it is not complete; it is that of `named`, or says whose it is.
fn parse(bytes: &[u8], named: Option<(u64, u32)>) -> io::Result<Option<Answer>> {
    let bad = |what: &str| {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {start:?}"))
    };

    // What cannot become an answer is refused at once, not when its connection ends.
    const STATUS: &[u8] = b"HTTP/1.1 200";
    let known = bytes.len().min(STATUS.len());
    if bytes[..known] != STATUS[..known] {
        return Err(bad("not an HTTP/1.1 200 answer"));
    }
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > HEAD { Err(bad("no end of the head")) } else { Ok(None) };
    };

    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| bad("a head that is not text"))?;
    let mut length = None;
    let mut close = false;
    for line in head.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else { return Err(bad("a header without a colon")) };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().map_err(|_| bad("a content-length that is none"))?);
        } else if name.eq_ignore_ascii_case("connection") {
            close = value.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"));
        }
    }
    // `hello` sends a short text of known length; a chunked answer would be from another service.
    let length = length.filter(|length| *length <= HEAD).ok_or_else(|| bad("no sensible content-length"))?;

    let body = &bytes[end + 4..];
    if body.len() < length {
        return Ok(None);
    }
    if body.len() > length {
        return Err(bad("more bytes than the answer has"));
    }
    let (generation, pid) = named.or_else(|| parse_body(body)).ok_or_else(|| bad("not the text of hello"))?;
    Ok(Some(Answer { generation, pid, close }))
}

/// Generation and PID out of `hello 0.1.0, generation 2, pid 1234`.
fn parse_body(body: &[u8]) -> Option<(u64, u32)> {
    let mut fields = std::str::from_utf8(body).ok()?.strip_suffix('\n')?.split(", ");
    fields.next()?.strip_prefix("hello ")?;
    let generation = fields.next()?.strip_prefix("generation ")?.parse().ok()?;
    let pid = fields.next()?.strip_prefix("pid ")?.parse().ok()?;
    fields.next().is_none().then_some((generation, pid))
}

#[cfg(test)]
mod tests;
