//! The managed datagram sockets.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::read_through;
use crate::base::address::Kind;
use crate::between::gate::Gate;
use crate::between::params::{FromListener, ListenerSocket};

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $std:ty, $addr:ty, $target:ty, $send:ident) => {
        $(#[$doc])*
        ///
        /// The first call of [`recv_from`](Self::recv_from) tells that the service is ready to serve it. Receiving
        /// begins once the service is active, pauses while a successor is on probation, and ends when this process
        /// drains: from then on `recv_from` is pending for ever. Sending works to the end, so that what was received
        /// is answered. A drain does not know of a datagram that is being worked on; a
        /// [`Shutdown::guard`](crate::Shutdown::guard) makes it wait.
        #[derive(Clone)]
        pub struct $name {
            gate: Arc<Gate<AsyncFd<$std>>>,
            /// For sending, which needs no gate.
            io: Arc<AsyncFd<$std>>,
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
                read_through(&self.gate, |_| Ok(()), |socket| socket.recv_from(buffer)).await
            }

            /// sendto(2): sends a datagram.
            ///
            /// # Errors
            ///
            /// What the system says.
            pub async fn send_to(&self, data: &[u8], target: $target) -> io::Result<usize> {
                self.io.async_io(Interest::WRITABLE, |socket| socket.$send(data, &target)).await
            }

            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            /// What the system says.
            pub fn local_addr(&self) -> io::Result<$addr> {
                self.io.get_ref().local_addr()
            }
        }

        impl FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                let interest = Interest::READABLE | Interest::WRITABLE;
                let std = <$std>::from(socket.duplicate()?);
                // SAFETY: a socket of std is one descriptor from here until it is dropped, which `AsyncFd` does after
                // it has deregistered it.
                #[allow(unsafe_code)]
                let io = Arc::new(unsafe { AsyncFd::register_with_interest(std, interest) }?);
                let gate = Gate::new(socket.name().to_owned(), socket.shared().clone(), io.clone());
                let gate = Arc::new(gate);
                socket.register(gate.clone());
                Ok(Self { gate, io })
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
    /// A managed UDP socket.
    UdpSocket, Udp, std::net::UdpSocket, SocketAddr, SocketAddr, send_to
}

managed! {
    /// A managed Unix datagram socket.
    UnixDatagram, UnixDatagram, std::os::unix::net::UnixDatagram, UnixSocketAddr, UnixSocketAddr, send_to_addr
}
