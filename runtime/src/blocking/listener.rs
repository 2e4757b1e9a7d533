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
use crate::base::address::Address;
use crate::between::gate;
use crate::between::managed::managed_type;
use crate::between::params::ListenerSocket;
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
            let accepted = self.gate.read_through(|listener| {
                let (stream, peer) = sockets::accept(fd::borrow(listener))?;
                // Counted inside the gate: a drain that begins next sees this connection.
                Ok((stream, peer, gate.shared().count()))
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
            pub fn incoming(&self) -> Incoming<'_, $name> {
                Incoming { listener: self }
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
