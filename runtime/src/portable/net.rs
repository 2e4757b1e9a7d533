//! The managed types of an `async fn main`: listeners and sockets that stop handing out connections and datagrams
//! when the service is stopped, and streams that a drain waits for.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use event_listener::listener;

use crate::base::address::Kind;
use crate::between::drain;
#[cfg(feature = "http")]
use crate::between::drain::Shutdown;
use crate::between::gate::{Gate, GateState};
use crate::between::params::{FromListener, ListenerSocket};
use crate::outside::sockets;

#[path = "../net/stream.rs"]
mod stream;

#[cfg(unix)]
pub use stream::UnixStream;
#[cfg(feature = "http")]
pub(crate) use stream::forward_write;
pub use stream::{OwnedReadHalf, OwnedWriteHalf, TcpStream};

/// The socket of a gate, once it is open. Pending while it is closed, and for ever once it is retired.
async fn entered<T: Send + Sync>(gate: &Gate<T>) -> Arc<T> {
    gate.ask();
    loop {
        // Registered before the gate is looked at, so that no change is missed in between.
        listener!(gate.changed() => changed);
        match gate.state() {
            GateState::Open(io) => return io,
            GateState::Closed => changed.await,
            GateState::Retired => drain::never(gate.shared()).await,
        }
    }
}

/// Does `attempt`, which must be cancel safe, while the gate is open; `None` once that has changed.
///
/// Each poll of it is inside the gate: one that has been closed hands out nothing more.
async fn inside<T: Send + Sync, R>(gate: &Gate<T>, attempt: impl Future<Output = R>) -> Option<R> {
    let mut attempt = pin!(attempt);
    listener!(gate.changed() => changed);
    poll_fn(|cx| match gate.pass(|_| attempt.as_mut().poll(cx)) {
        Some(Poll::Ready(done)) => Poll::Ready(Some(done)),
        Some(Poll::Pending) => Pin::new(&mut changed).poll(cx).map(|()| None),
        None => Poll::Ready(None),
    })
    .await
}

macro_rules! managed_listener {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $stream:ident, $std:ty, $tokio:ty, $addr:ty) => {
        $(#[$doc])*
        ///
        /// The first call of [`accept`](Self::accept) tells that the service is ready to serve it. Accepting begins
        /// once the service is active and ends when this process drains: from then on `accept` is pending for ever,
        /// and the process exits when its connections are finished.
        #[derive(Clone)]
        pub struct $name {
            gate: Arc<Gate<$tokio>>,
        }

        impl $name {
            /// accept(2): the next connection and the address of its peer.
            ///
            /// Connections that died in the queue are passed over, and while the process or the machine is out of
            /// descriptors or memory the queue waits. It is cancel safe, and any number of tasks may wait at once.
            ///
            /// # Errors
            ///
            /// Only what makes the listener useless, such as EBADF.
            pub async fn accept(&self) -> io::Result<($stream, $addr)> {
                let shared = self.gate.shared();
                loop {
                    let listener = entered(&self.gate).await;
                    let accept = async {
                        let (stream, peer) = listener.accept().await?;
                        // Counted while the gate is held open: a drain that begins next sees this connection.
                        Ok(($stream::new(stream, shared.count()), peer.into()))
                    };
                    let Some(accepted) = inside(&self.gate, accept).await else { continue };
                    match accepted {
                        Err(error) if sockets::died_in_queue(&error) => {}
                        Err(error) => {
                            let pause = self.gate.out_of_resources(error)?;
                            tokio::time::sleep(pause).await;
                        }
                        accepted => return accepted,
                    }
                }
            }

            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            /// `NotConnected` once the listener has been closed.
            pub fn local_addr(&self) -> io::Result<$addr> {
                match self.gate.io() {
                    Some(io) => io.local_addr().map(Into::into),
                    None => Err(io::Error::new(io::ErrorKind::NotConnected, "the listener has been closed")),
                }
            }

            /// Says that it is useless, to whoever tries it all the same.
            #[cfg(feature = "axum")]
            pub(crate) fn complain(&self, error: &io::Error) {
                self.gate.complain(error);
            }

            #[cfg(feature = "http")]
            pub(crate) fn shutdown(&self) -> Shutdown {
                Shutdown::new(self.gate.shared().clone())
            }
        }

        impl FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                let io = Arc::new(<$tokio>::from_std(<$std>::from(socket.duplicate()?))?);
                Ok(Self { gate: gate(socket, io) })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("local_addr", &self.local_addr().ok()).finish()
            }
        }
    };
}

fn gate<T: Send + Sync + 'static>(socket: ListenerSocket<'_>, io: Arc<T>) -> Arc<Gate<T>> {
    let gate = Arc::new(Gate::new(socket.name().to_owned(), socket.shared().clone(), io));
    socket.register(gate.clone());
    gate
}

managed_listener! {
    /// A managed TCP listener.
    TcpListener, Tcp, TcpStream, std::net::TcpListener, tokio::net::TcpListener, SocketAddr
}

#[cfg(unix)]
managed_listener! {
    /// A managed listener for Unix stream sockets.
    UnixListener, Unix, UnixStream, std::os::unix::net::UnixListener, tokio::net::UnixListener, UnixSocketAddr
}

macro_rules! managed_datagram {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $std:ty, $tokio:ty, $addr:ty, $send:expr) => {
        $(#[$doc])*
        ///
        /// The first call of [`recv_from`](Self::recv_from) tells that the service is ready to serve it. Receiving
        /// begins once the service is active and ends when this process drains: from then on `recv_from` is pending
        /// for ever. Sending works to the end, so that what was received is answered. A drain does not know of a
        /// datagram that is being worked on; a [`Shutdown::guard`](crate::Shutdown::guard) makes it wait.
        #[derive(Clone)]
        pub struct $name {
            gate: Arc<Gate<$tokio>>,
            /// For sending, which needs no gate.
            io: Arc<$tokio>,
        }

        impl $name {
            /// recvfrom(2): the next datagram and the address of its sender. What does not fit in `buffer` is lost.
            ///
            /// It is cancel safe, and any number of tasks may wait at once: each datagram goes to one of them.
            ///
            /// # Errors
            ///
            /// What the system says, such as ECONNREFUSED for an earlier datagram that nobody received.
            pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, $addr)> {
                loop {
                    let socket = entered(&self.gate).await;
                    if let Some(received) = inside(&self.gate, socket.recv_from(buffer)).await {
                        return received.map(|(length, sender)| (length, sender.into()));
                    }
                }
            }

            /// sendto(2): sends a datagram.
            ///
            /// # Errors
            ///
            /// What the system says.
            pub async fn send_to(&self, data: &[u8], target: $addr) -> io::Result<usize> {
                $send(&self.io, data, target).await
            }

            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            /// What the system says.
            pub fn local_addr(&self) -> io::Result<$addr> {
                self.io.local_addr().map(Into::into)
            }
        }

        impl FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                let io = Arc::new(<$tokio>::from_std(<$std>::from(socket.duplicate()?))?);
                Ok(Self { gate: gate(socket, io.clone()), io })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("local_addr", &self.local_addr().ok()).finish()
            }
        }
    };
}

managed_datagram! {
    /// A managed UDP socket.
    UdpSocket, Udp, std::net::UdpSocket, tokio::net::UdpSocket, SocketAddr, tokio::net::UdpSocket::send_to
}

#[cfg(unix)]
managed_datagram! {
    /// A managed Unix datagram socket.
    UnixDatagram, UnixDatagram, std::os::unix::net::UnixDatagram, tokio::net::UnixDatagram, UnixSocketAddr, send_to_path
}

#[cfg(unix)]
async fn send_to_path(
    socket: &tokio::net::UnixDatagram,
    data: &[u8],
    target: UnixSocketAddr,
) -> io::Result<usize> {
    match target.as_pathname() {
        Some(path) => socket.send_to(data, path).await,
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the address is not a path")),
    }
}
