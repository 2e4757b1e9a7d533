//! The probe of a prepared successor: one connection, one request of HTTP/1.1, and its answer. Nothing here blocks.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::base::answer::{Answer, Expected};
use crate::base::probe::Probe;

/// The longest body of an answer, in bytes.
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
        let answer = Answer::new(probe.status().map_or(Expected::Success, Expected::Code), MAX_BODY);
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
        self.answer.has_status()
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sys::poll;

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
