//! Sockets of tokio behind a gate: Windows has no registration of a descriptor.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use event_listener::listener;

use crate::base::address::Address;
use crate::between::gate::{self, Gate, GateState};
use crate::between::managed::{ListeningSocket, gated};
use crate::between::params::ListenerSocket;
use crate::between::resumed::Source;
use crate::between::shared::{Counted, Shared};
use crate::net::resumed::Resumed;
use crate::outside::sockets::{self, StdDatagram, StdListener};
use crate::sys::fd::{AsFd, OwnedFd};

/// The type of tokio for a listener of std.
pub(super) trait TokioListener: StdListener + From<OwnedFd> {
    type Tokio: AsFd + Send + Sync + 'static;
    type TokioStream;

    fn into_tokio(self) -> io::Result<Self::Tokio>;
    fn accept(
        listener: &Self::Tokio,
    ) -> impl Future<Output = io::Result<(Self::TokioStream, Self::Address)>> + Send;
    fn local_addr(listener: &Self::Tokio) -> io::Result<Self::Address>;
}

macro_rules! tokio_listener {
    ($std:ty, $tokio:ty, $stream:ty, $address:ty) => {
        impl TokioListener for $std {
            type Tokio = $tokio;
            type TokioStream = $stream;

            fn into_tokio(self) -> io::Result<$tokio> {
                <$tokio>::from_std(self)
            }

            async fn accept(listener: &$tokio) -> io::Result<($stream, $address)> {
                listener.accept().await.map(|(stream, peer)| (stream, peer.into()))
            }

            fn local_addr(listener: &$tokio) -> io::Result<$address> {
                listener.local_addr().map(Into::into)
            }
        }
    };
}

tokio_listener!(std::net::TcpListener, tokio::net::TcpListener, tokio::net::TcpStream, SocketAddr);
#[cfg(unix)]
tokio_listener!(
    std::os::unix::net::UnixListener,
    tokio::net::UnixListener,
    tokio::net::UnixStream,
    UnixSocketAddr
);

/// A listening socket behind a gate, of this type of std.
pub(super) struct Acceptor<L: TokioListener> {
    pub(super) gate: Arc<Gate<L::Tokio>>,
    address: Address,
}

impl<L: TokioListener> Acceptor<L> {
    pub(super) fn new(socket: ListenerSocket<'_>) -> io::Result<Self> {
        let io = Arc::new(L::from(socket.duplicate()?).into_tokio()?);
        let address = socket.address().clone();
        Ok(Self { gate: gated(socket, io), address })
    }

    /// The next connection. Pending while the gate is closed, and `None` once it is retired.
    pub(super) async fn accept(&self) -> io::Result<Option<(L::TokioStream, L::Address, Counted)>> {
        loop {
            let Some(listener) = entered(&self.gate).await else { return Ok(None) };
            let accept = async {
                let (stream, peer) = L::accept(&listener).await.map_err(sockets::passed_over)?;
                // Counted inside the gate: a drain that begins next sees this connection.
                io::Result::Ok((stream, peer, self.gate.count()))
            };
            match inside(&self.gate, accept).await {
                None => {}
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) => {
                    tokio::time::sleep(self.gate.recover(None, &self.address, error)?).await;
                }
                Some(accepted) => return accepted.map(Some),
            }
        }
    }

    pub(super) fn resumed<S, K: Into<String>>(&self, kinds: impl IntoIterator<Item = K>) -> Resumed<S> {
        Resumed::new(Source::new(self.gate.shared(), self.gate.listener(), &self.address, kinds))
    }

    pub(super) fn socket(&self) -> io::Result<ListeningSocket> {
        self.gate.io().map(ListeningSocket::new).ok_or_else(gate::given_up)
    }

    pub(super) fn local_addr(&self) -> io::Result<L::Address> {
        L::local_addr(&*self.gate.io().ok_or_else(gate::given_up)?)
    }
}

/// The type of tokio for a datagram socket of std.
pub(super) trait TokioDatagram: StdDatagram {
    type Tokio: AsFd + Send + Sync + 'static;

    fn into_tokio(self) -> io::Result<Self::Tokio>;
    fn try_recv_from(socket: &Self::Tokio, buffer: &mut [u8]) -> io::Result<(usize, Self::Address)>;
    fn try_send_to(socket: &Self::Tokio, data: &[u8], target: &Self::Address) -> io::Result<usize>;
    fn readable(socket: &Self::Tokio) -> impl Future<Output = io::Result<()>> + Send;
    fn writable(socket: &Self::Tokio) -> impl Future<Output = io::Result<()>> + Send;
    fn local_addr(socket: &Self::Tokio) -> io::Result<Self::Address>;
}

macro_rules! tokio_datagram {
    ($std:ty, $tokio:ty, $address:ty, $target:expr) => {
        impl TokioDatagram for $std {
            type Tokio = $tokio;

            fn into_tokio(self) -> io::Result<$tokio> {
                <$tokio>::from_std(self)
            }

            fn try_recv_from(socket: &$tokio, buffer: &mut [u8]) -> io::Result<(usize, $address)> {
                socket.try_recv_from(buffer).map(|(length, sender)| (length, sender.into()))
            }

            fn try_send_to(socket: &$tokio, data: &[u8], target: &$address) -> io::Result<usize> {
                socket.try_send_to(data, $target(target)?)
            }

            fn readable(socket: &$tokio) -> impl Future<Output = io::Result<()>> + Send {
                socket.readable()
            }

            fn writable(socket: &$tokio) -> impl Future<Output = io::Result<()>> + Send {
                socket.writable()
            }

            fn local_addr(socket: &$tokio) -> io::Result<$address> {
                socket.local_addr().map(Into::into)
            }
        }
    };
}

tokio_datagram!(
    std::net::UdpSocket,
    tokio::net::UdpSocket,
    SocketAddr,
    |target: &SocketAddr| io::Result::Ok(*target)
);
#[cfg(unix)]
tokio_datagram!(std::os::unix::net::UnixDatagram, tokio::net::UnixDatagram, UnixSocketAddr, path);

/// tokio sends to a path alone.
#[cfg(unix)]
fn path(target: &UnixSocketAddr) -> io::Result<&std::path::Path> {
    let no_path = || io::Error::new(io::ErrorKind::InvalidInput, "the address is not a path");
    target.as_pathname().ok_or_else(no_path)
}

/// A datagram socket behind a gate, of this type of std.
pub(super) struct Datagrams<S: TokioDatagram> {
    gate: Arc<Gate<S::Tokio>>,
    /// For sending, which needs no gate.
    io: Arc<S::Tokio>,
}

impl<S: TokioDatagram> Datagrams<S> {
    pub(super) fn new(socket: ListenerSocket<'_>) -> io::Result<Self> {
        let io = Arc::new(S::from(socket.duplicate()?).into_tokio()?);
        Ok(Self { gate: gated(socket, io.clone()), io })
    }

    /// The next datagram. `None` if there is none, or the gate is not open.
    pub(super) fn try_recv_from(&self, buffer: &mut [u8]) -> Option<io::Result<(usize, S::Address)>> {
        self.gate.ask();
        let attempted = self.gate.pass(|socket| S::try_recv_from(socket, buffer))?;
        let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        Some(attempted).filter(|result| !result.as_ref().is_err_and(would_block))
    }

    /// Waits until the socket is readable and the gate open. Returns false once the gate is retired.
    pub(super) async fn readable(&self) -> io::Result<bool> {
        loop {
            let Some(socket) = entered(&self.gate).await else { return Ok(false) };
            if let Some(readable) = inside(&self.gate, S::readable(&socket)).await {
                return readable.map(|()| true);
            }
        }
    }

    pub(super) fn try_send_to(&self, data: &[u8], target: &S::Address) -> io::Result<usize> {
        S::try_send_to(&self.io, data, target)
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        S::writable(&self.io).await
    }

    pub(super) fn shared(&self) -> &Shared {
        self.gate.shared()
    }

    pub(super) fn socket(&self) -> &S::Tokio {
        &self.io
    }

    pub(super) fn local_addr(&self) -> io::Result<S::Address> {
        <S as TokioDatagram>::local_addr(&self.io)
    }
}

/// The socket of a gate, once it is open. Pending while it is closed, and `None` once it is retired.
async fn entered<T: Send + Sync>(gate: &Gate<T>) -> Option<Arc<T>> {
    gate.ask();
    loop {
        // Registered before the look at the gate, so that no change is missed in between.
        listener!(gate.changed() => changed);
        match gate.state() {
            GateState::Open(io) => return Some(io),
            GateState::Closed => changed.await,
            GateState::Retired => return None,
        }
    }
}

/// Does `attempt`, which must be cancel safe, while the gate is open; `None` once that has changed.
///
/// Each poll of it is inside the gate: a closed gate hands out no more connections.
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
