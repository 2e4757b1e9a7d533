//! The managed listeners.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::sync::Arc;
use std::thread;

use socket2::SockRef;

use super::TcpStream;
#[cfg(unix)]
use super::UnixStream;
use super::polled_gate::PolledGate;
use super::resumed::Resumed;
use crate::base::address::Address;
use crate::between::gate;
use crate::between::managed::{ListeningSocket, managed_type};
use crate::between::params::ListenerSocket;
use crate::between::resumed::Source;
use crate::between::shared::Counted;
use crate::outside::sockets::{self, StdListener};
use crate::sys::fd::{self, OwnedFd};

/// A stream of std, the address of its peer, and its place in the count of open connections.
type Accepted<L> = (<L as StdListener>::Stream, <L as StdListener>::Address, Counted);

/// A listening socket behind a gate, of this type of std.
struct Acceptor<L> {
    gate: Arc<PolledGate<OwnedFd>>,
    address: Address,
    kind: PhantomData<fn() -> L>,
}

impl<L: StdListener> Acceptor<L> {
    fn new(socket: ListenerSocket<'_>) -> io::Result<Self> {
        let io = Arc::new(socket.duplicate()?);
        let address = socket.address().clone();
        Ok(Self { gate: PolledGate::new(socket, io)?, address, kind: PhantomData })
    }

    /// The next connection; `None` once the gate is retired.
    fn accept(&self) -> io::Result<Option<Accepted<L>>> {
        let gate = &self.gate.gate;
        loop {
            let injected = || gate.take_injected(false);
            let accepted = self.gate.accept_through(injected, |listener| {
                let (stream, peer) = sockets::accept(fd::borrow(listener))?;
                // Counted inside the gate: a drain that begins next sees this connection.
                Ok((stream, peer, gate.count()))
            });
            match accepted {
                Ok(None) => return Ok(None),
                Ok(Some((stream, peer, counted))) => {
                    if let Some((stream, peer)) = L::accepted(stream, &peer) {
                        return Ok(Some((stream, peer, counted)));
                    }
                }
                Err(error) => {
                    let io = gate.io();
                    thread::sleep(gate.recover(io.as_ref().map(fd::borrow), &self.address, error)?);
                }
            }
        }
    }

    fn resumed<S, K: Into<String>>(&self, kinds: impl IntoIterator<Item = K>) -> Resumed<S> {
        let gate = &self.gate.gate;
        Resumed::new(Source::new(gate.shared(), gate.listener(), &self.address, kinds))
    }

    fn socket(&self) -> io::Result<ListeningSocket> {
        self.gate.gate.io().map(ListeningSocket::new).ok_or_else(gate::given_up)
    }

    fn local_addr(&self) -> io::Result<L::Address> {
        let io = self.gate.gate.io().ok_or_else(gate::given_up)?;
        L::bound_to(&SockRef::from(&*io).local_addr()?)
    }
}

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $stream:ident, $std:ty, $addr:ty) => {
        managed_type! {
            $(#[$doc])*
            ///
            /// The first call of [`accept`](Self::accept) tells that the service is ready to serve it. Accepting begins
            /// once the service is active, pauses while a successor is on probation, and ends when this process drains.
            $name, $kind, acceptor: Acceptor<$std>, $addr,
            /// `NotConnected` once this process has given the listener up for good.
        }

        impl $name {
            /// accept(2): waits for the next connection; `None` once this process is replaced or stopped.
            ///
            /// Connections that died in the queue are passed over. While the process or the machine is out of
            /// descriptors or memory the queue waits. Any number of threads may wait at once.
            ///
            /// # Errors
            ///
            /// Only an error that makes the listener useless, such as EBADF.
            pub fn accept(&self) -> io::Result<Option<($stream, $addr)>> {
                let accepted = self.acceptor.accept()?;
                Ok(accepted.map(|(stream, peer, counted)| ($stream::new(stream, counted), peer)))
            }

            /// The connections, one after the other; it ends once this process is replaced or stopped.
            ///
            /// It does not end at the beginning of a probation: this process accepts again if the successor fails.
            pub fn incoming(&self) -> Incoming<'_, $name> {
                Incoming { listener: self }
            }

            /// The connections of these kinds that come from the predecessor: those of a stream's `hand_over`.
            ///
            /// From this call on, until the value is dropped, this process takes such connections. Call it before the service is ready: the
            /// predecessor learns then what is taken. Several values share what comes.
            ///
            /// # Panics
            ///
            /// If a kind is empty or longer than 64 bytes.
            pub fn resumed<K: Into<String>>(&self, kinds: impl IntoIterator<Item = K>) -> Resumed<$stream> {
                self.acceptor.resumed(kinds)
            }

            /// The listening socket, for socket options.
            ///
            /// # Errors
            ///
            /// `NotConnected` once this process has given the listener up for good.
            pub fn socket(&self) -> io::Result<ListeningSocket> {
                self.acceptor.socket()
            }
        }

        impl Iterator for Incoming<'_, $name> {
            type Item = io::Result<$stream>;

            fn next(&mut self) -> Option<Self::Item> {
                self.listener.accept().map(|accepted| accepted.map(|(stream, _peer)| stream)).transpose()
            }
        }
    };
}

/// The connections of a listener, made by its `incoming`.
#[derive(Debug)]
#[must_use = "iterators are lazy: it accepts nothing until `next` is called"]
pub struct Incoming<'a, L> {
    listener: &'a L,
}

managed! {
    /// A managed TCP listener.
    TcpListener, Tcp, TcpStream, std::net::TcpListener, SocketAddr
}

#[cfg(unix)]
managed! {
    /// A managed listener for Unix stream sockets.
    UnixListener, Unix, UnixStream, std::os::unix::net::UnixListener, UnixSocketAddr
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::between::params::make;
    use crate::between::shared::Shared;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn the_incoming_connections_end_at_a_drain_and_not_at_a_pause() {
        let shared = Arc::new(Shared::new(1, false, Duration::ZERO).unwrap());
        let (socket, mut gates) =
            (sockets::bind("it", &"tcp://127.0.0.1:0".parse().unwrap()).unwrap(), Vec::new());
        let listener: TcpListener = make(&socket, &shared, &mut gates).unwrap();
        let (gate, by_then) = (gates.pop().unwrap(), || Instant::now() + Duration::from_secs(2));
        let address = listener.local_addr().unwrap();
        let connect = || std::net::TcpStream::connect(address).unwrap();
        let options = listener.socket().unwrap();
        assert_eq!(SockRef::from(&options).local_addr().unwrap().as_socket(), Some(address));
        drop(options);
        let (send, accepted) = mpsc::channel();
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                listener.incoming().for_each(|stream| {
                    let mut stream = stream.unwrap();
                    // By `DerefMut`, and `AsFd`.
                    std::ops::DerefMut::deref_mut(&mut stream).set_nodelay(true).unwrap();
                    send.send(SockRef::from(&stream).tcp_nodelay().unwrap()).unwrap();
                });
            });
            gate.open();
            let _first = connect();
            assert_eq!(accepted.recv_timeout(DEADLINE), Ok(true));
            assert!(gate.close(by_then()));
            let _second = connect();
            assert!(accepted.recv_timeout(Duration::from_millis(50)).is_err(), "a successor is on probation");
            assert!(!server.is_finished());
            // It has failed.
            gate.open();
            assert_eq!(accepted.recv_timeout(DEADLINE), Ok(true));
            assert!(gate.retire(by_then()));
        });
        assert_eq!(listener.socket().unwrap_err().kind(), io::ErrorKind::NotConnected);
    }
}
