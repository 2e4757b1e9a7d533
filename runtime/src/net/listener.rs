//! The managed listeners.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use event_listener::listener;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{TcpStream, UnixStream};
use crate::address::Kind;
#[cfg(feature = "http")]
use crate::drain::Shutdown;
use crate::gate::{Gate, Passage};
use crate::params::{FromListener, ListenerSocket};
use crate::report::tell;
use crate::shared::{Counted, Shared};
use crate::sockets;

/// What the managed listeners share: a listening socket behind a gate.
#[derive(Clone)]
struct Acceptor {
    gate: Arc<Gate<AsyncFd<OwnedFd>>>,
}

impl Acceptor {
    fn new(socket: ListenerSocket<'_>) -> io::Result<Self> {
        let fd = socket.duplicate()?;
        // SAFETY: an `OwnedFd` is one descriptor from here until it is dropped, which `AsyncFd` does after it has
        // deregistered it.
        #[allow(unsafe_code)]
        let io = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        let gate = Arc::new(Gate::new(socket.name().to_owned(), socket.shared().clone(), io));
        socket.register(gate.clone());
        Ok(Self { gate })
    }

    fn shared(&self) -> &Arc<Shared> {
        self.gate.shared()
    }

    /// The next connection. Pending while the gate is closed, and for ever once it is retired.
    async fn accept(&self) -> io::Result<(OwnedFd, Counted)> {
        self.gate.ask();
        loop {
            // A connection that is waiting is taken without registering for changes.
            if let Some(taken) = self.gate.pass(|| self.try_accept()).flatten() {
                match taken {
                    Ok(connection) => return Ok(connection),
                    Err(error) => match sockets::out_of_resources(&error) {
                        Some(pause) => {
                            // The connection stays in the queue; to give the error to a body that says `?` would
                            // end the service for a shortage that passes.
                            tell!(self.shared(), WARN, %error, "cannot accept for now");
                            tokio::time::sleep(pause).await;
                            continue;
                        }
                        None => return Err(error),
                    },
                }
            }
            // Registered before the gate is looked at, so that no change is missed in between.
            listener!(self.gate.changed() => changed);
            let io = match self.gate.passage() {
                Passage::Open(io) => io,
                Passage::Closed => {
                    changed.await;
                    continue;
                }
                Passage::Retired => std::future::pending().await,
            };
            let mut readable = pin!(io.readable());
            poll_fn(|cx| {
                if let Poll::Ready(ready) = readable.as_mut().poll(cx) {
                    // What it is ready for is tried above. That try clears the readiness itself, when there is
                    // nothing, so this guard must leave it as it is.
                    return Poll::Ready(ready.map(|mut guard| guard.retain_ready()));
                }
                Pin::new(&mut changed).poll(cx).map(Ok)
            })
            .await?;
        }
    }

    /// One accept4(2) if epoll says that it is worth it; `None` if nobody waits.
    fn try_accept(&self) -> Option<io::Result<(OwnedFd, Counted)>> {
        let io = self.gate.io()?;
        let accepted = io.try_io(Interest::READABLE, |fd| {
            let stream = sockets::accept(fd.as_fd())?;
            // Counted while the gate is held open: a drain that begins next sees this connection.
            Ok((stream, self.shared().count()))
        });
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(result),
        }
    }

    fn local_addr(&self) -> io::Result<socket2::SockAddr> {
        match self.gate.io() {
            Some(io) => SockRef::from(io.get_ref()).local_addr(),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "the listener has been handed over")),
        }
    }
}

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $stream:ident, $std:ty, $addr:ty, $peer:expr, $local:expr) => {
        $(#[$doc])*
        ///
        /// The first call of [`accept`](Self::accept) tells that the service is ready to serve it. Accepting begins
        /// once the service is active, pauses while a successor is on probation, and ends when this process drains:
        /// from then on `accept` is pending for ever, and the process exits when its connections are finished.
        #[derive(Clone)]
        pub struct $name {
            acceptor: Acceptor,
        }

        impl $name {
            /// accept4(2): the next connection and the address of its peer.
            ///
            /// Connections that died in the queue are passed over, and while the process or the machine is out of
            /// descriptors or memory the queue waits. It is cancel safe, and any number of tasks may wait at once.
            ///
            /// # Errors
            ///
            /// Only what makes the listener useless, such as EBADF.
            pub async fn accept(&self) -> io::Result<($stream, $addr)> {
                loop {
                    let (fd, counted) = self.acceptor.accept().await?;
                    let stream = <$std>::from(fd);
                    // A peer that is gone already leaves a stream without an address, and nothing to serve.
                    let Ok(peer) = $peer(&stream) else { continue };
                    return Ok(($stream::new(stream, counted)?, peer));
                }
            }

            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            /// `NotConnected` once the listener has been handed over for good.
            pub fn local_addr(&self) -> io::Result<$addr> {
                let address = self.acceptor.local_addr()?;
                $local(&address).ok_or_else(|| io::Error::other("it is not bound to an address of its kind"))
            }

            #[cfg(feature = "http")]
            pub(crate) fn shutdown(&self) -> Shutdown {
                Shutdown::new(self.acceptor.shared().clone())
            }
        }

        impl FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                Ok(Self { acceptor: Acceptor::new(socket)? })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("local_addr", &self.local_addr().ok()).finish()
            }
        }
    };
}

managed! {
    /// A managed TCP listener.
    TcpListener, Tcp, TcpStream, std::net::TcpStream, SocketAddr,
    |stream: &std::net::TcpStream| stream.peer_addr(),
    |address: &socket2::SockAddr| address.as_socket()
}

managed! {
    /// A managed listener for Unix stream sockets.
    UnixListener, Unix, UnixStream, std::os::unix::net::UnixStream, UnixSocketAddr,
    |stream: &std::os::unix::net::UnixStream| stream.peer_addr(),
    |address: &socket2::SockAddr| address.as_unix()
}
