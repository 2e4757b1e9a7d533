//! The managed listeners.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::sync::Arc;
use std::thread;

use nix::sys::socket::SockFlag;
use socket2::{SockAddr, SockRef};

use super::{PolledGate, TcpStream, UnixStream};
use crate::base::address::{Address, Kind};
use crate::between::params::{FromListener, ListenerSocket};
use crate::between::shared::Counted;
use crate::outside::sockets;

/// What the managed listeners share.
#[derive(Clone)]
struct Acceptor {
    gate: Arc<PolledGate<OwnedFd>>,
    address: Arc<Address>,
}

impl Acceptor {
    fn accept(&self) -> io::Result<Option<(OwnedFd, SockAddr, Counted)>> {
        let shared = self.gate.gate.shared();
        loop {
            let accepted = self.gate.read_through(|listener| {
                // The connection is a description of its own, which is to block.
                let (stream, peer) = sockets::accept(listener.as_fd(), SockFlag::empty())?;
                // Counted while the gate is held open: a drain that begins next sees this connection.
                Ok((stream, peer, shared.count()))
            });
            match accepted {
                Err(error) => {
                    let io = self.gate.gate.io();
                    let listener = io.as_ref().map(|io| io.as_fd());
                    thread::sleep(self.gate.gate.recover(listener, &self.address, error)?);
                }
                accepted => return accepted,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SockAddr> {
        match self.gate.gate.io() {
            Some(io) => SockRef::from(&*io).local_addr(),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "the listener has been handed over")),
        }
    }
}

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $stream:ident, $std:ty, $addr:ty, $address:expr) => {
        $(#[$doc])*
        ///
        /// The first call of [`accept`](Self::accept) tells that the service is ready to serve it. Accepting begins
        /// once the service is active, pauses while a successor is on probation, and ends when this process drains.
        #[derive(Clone)]
        pub struct $name {
            acceptor: Acceptor,
        }

        impl $name {
            /// accept4(2): waits for the next connection; `None` once this process is replaced or stopped.
            ///
            /// Connections that died in the queue are passed over, and while the process or the machine is out of
            /// descriptors or memory the queue waits. Any number of threads may wait at once.
            ///
            /// # Errors
            ///
            /// Only what makes the listener useless, such as EBADF.
            pub fn accept(&self) -> io::Result<Option<($stream, $addr)>> {
                while let Some((fd, peer, counted)) = self.acceptor.accept()? {
                    let stream = <$std>::from(fd);
                    // A peer that is gone already may leave a stream without an address, and nothing to serve.
                    if let Ok(peer) = $address(&peer).map_or_else(|| stream.peer_addr(), Ok) {
                        return Ok(Some(($stream::new(stream, counted), peer)));
                    }
                }
                Ok(None)
            }

            /// The connections, one after the other; it ends once this process is replaced or stopped.
            pub fn incoming(&self) -> Incoming<'_, $name> {
                Incoming { listener: self }
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
        }

        impl Iterator for Incoming<'_, $name> {
            type Item = io::Result<$stream>;

            fn next(&mut self) -> Option<Self::Item> {
                self.listener.accept().map(|accepted| accepted.map(|(stream, _peer)| stream)).transpose()
            }
        }

        impl FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                let io = Arc::new(socket.duplicate()?);
                let address = Arc::new(socket.address().clone());
                Ok(Self { acceptor: Acceptor { gate: PolledGate::new(socket, io)?, address } })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("local_addr", &self.local_addr().ok()).finish()
            }
        }
    };
}

/// The connections of a listener, made by its `incoming`.
#[derive(Debug)]
pub struct Incoming<'a, L> {
    listener: &'a L,
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
