//! The managed listeners.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::sync::Arc;

use nix::sys::socket::SockFlag;
use socket2::{SockAddr, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{TcpStream, UnixStream, read_through};
use crate::base::address::{Address, Kind};
#[cfg(feature = "http")]
use crate::between::drain::Shutdown;
use crate::between::gate::Gate;
use crate::between::params::{FromListener, ListenerSocket};
use crate::between::shared::{Counted, Shared};
use crate::outside::sockets;

/// What the managed listeners share: a listening socket behind a gate.
#[derive(Clone)]
struct Acceptor {
    gate: Arc<Gate<AsyncFd<OwnedFd>>>,
    address: Arc<Address>,
}

/// Registers a socket with the runtime.
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one descriptor from here until it is dropped, which `AsyncFd` does after it has
    // deregistered it.
    #[allow(unsafe_code)]
    let io = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    Ok(io)
}

impl Acceptor {
    fn new(socket: ListenerSocket<'_>) -> io::Result<Self> {
        let io = register(socket.duplicate()?)?;
        let address = Arc::new(socket.address().clone());
        let gate = Arc::new(Gate::new(socket.name().to_owned(), socket.shared().clone(), Arc::new(io)));
        socket.register(gate.clone());
        Ok(Self { gate, address })
    }

    fn shared(&self) -> &Arc<Shared> {
        self.gate.shared()
    }

    /// The next connection. Pending while the gate is closed, and for ever once it is retired.
    async fn accept(&self) -> io::Result<(OwnedFd, SockAddr, Counted)> {
        loop {
            // Another descriptor of the same socket is registered anew.
            let renew = |io: &Arc<AsyncFd<OwnedFd>>| {
                self.gate.replace(io, Arc::new(register(io.get_ref().try_clone()?)?));
                Ok(())
            };
            let accepted = read_through(&self.gate, renew, |listener| {
                let (stream, peer) = sockets::accept(listener.as_fd(), SockFlag::SOCK_NONBLOCK)?;
                // Counted while the gate is held open: a drain that begins next sees this connection.
                Ok((stream, peer, self.shared().count()))
            });
            match accepted.await {
                Err(error) => self.wait_for_resources(error).await?,
                accepted => return accepted,
            }
        }
    }

    async fn wait_for_resources(&self, error: io::Error) -> io::Result<()> {
        let io = self.gate.io();
        let pause = self.gate.recover(io.as_ref().map(|io| io.get_ref().as_fd()), &self.address, error)?;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn local_addr(&self) -> io::Result<SockAddr> {
        match self.gate.io() {
            Some(io) => SockRef::from(io.get_ref()).local_addr(),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "the listener has been handed over")),
        }
    }
}

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $stream:ident, $std:ty, $addr:ty, $address:expr) => {
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
            /// descriptors or memory the queue waits. (Where the kernel has no memory for the registration of a connection
            /// that was accepted, epoll_ctl(2), that one is closed.) It is cancel safe, and any number of tasks may wait at once.
            ///
            /// # Errors
            ///
            /// Only what makes the listener useless, such as EBADF.
            pub async fn accept(&self) -> io::Result<($stream, $addr)> {
                loop {
                    let (fd, peer, counted) = self.acceptor.accept().await?;
                    let stream = <$std>::from(fd);
                    let peer = $address(&peer).map_or_else(|| stream.peer_addr(), Ok);
                    // A peer that is gone already may leave a stream without an address, and nothing to serve.
                    let Ok(peer) = peer else { continue };
                    match stream.try_into() {
                        Ok(stream) => return Ok(($stream::new(stream, counted), peer)),
                        // epoll_ctl(2) has no memory for it, and tokio has closed it.
                        Err(error) => self.acceptor.wait_for_resources(error).await?,
                    }
                }
            }

            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            /// `NotConnected` once the listener has been handed over for good.
            pub fn local_addr(&self) -> io::Result<$addr> {
                let address = self.acceptor.local_addr()?;
                $address(&address).ok_or_else(|| io::Error::other("it is not bound to an address of its kind"))
            }

            /// Says that it is useless, to whoever tries it all the same.
            #[cfg(feature = "axum")]
            pub(crate) fn complain(&self, error: &io::Error) {
                self.acceptor.gate.complain(error);
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
    SockAddr::as_socket
}

managed! {
    /// A managed listener for Unix stream sockets.
    UnixListener, Unix, UnixStream, std::os::unix::net::UnixStream, UnixSocketAddr,
    sockets::unix_address
}
