//! The managed datagram sockets.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags};

use super::PolledGate;
use crate::base::address::Kind;
use crate::between::params::{FromListener, ListenerSocket};
use crate::sys::poll;

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $std:ty, $addr:ty, $send:ident) => {
        $(#[$doc])*
        ///
        /// The first call of [`recv_from`](Self::recv_from) tells that the service is ready to serve it. Receiving
        /// begins once the service is active, pauses while a successor is on probation, and ends when this process
        /// drains. Sending works to the end, so that what was received is answered.
        #[derive(Clone)]
        pub struct $name {
            gate: Arc<PolledGate<$std>>,
            /// For sending, which needs no gate.
            io: Arc<$std>,
        }

        impl $name {
            /// recvfrom(2): waits for the next datagram and the address of its sender; `None` once this process is
            /// replaced or stopped. What does not fit in `buffer` is lost.
            ///
            /// # Errors
            ///
            /// What the system says, such as ECONNREFUSED for an earlier datagram that nobody received.
            pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, $addr)>> {
                self.gate.read_through(|socket| socket.recv_from(buffer))
            }

            /// sendto(2): sends a datagram, waiting while the socket is full.
            ///
            /// # Errors
            ///
            /// What the system says.
            pub fn send_to(&self, data: &[u8], target: &$addr) -> io::Result<usize> {
                loop {
                    match self.io.$send(data, target) {
                        // The description is shared with other processes, so it never blocks by itself.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            poll::until(&mut [PollFd::new(self.io.as_fd(), PollFlags::POLLOUT)], None)?;
                        }
                        result => return result,
                    }
                }
            }

            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            /// What the system says.
            pub fn local_addr(&self) -> io::Result<$addr> {
                self.io.local_addr()
            }
        }

        impl FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                let io = Arc::new(<$std>::from(socket.duplicate()?));
                Ok(Self { gate: PolledGate::new(socket, io.clone())?, io })
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
    UdpSocket, Udp, std::net::UdpSocket, SocketAddr, send_to
}

managed! {
    /// A managed Unix datagram socket.
    UnixDatagram, UnixDatagram, std::os::unix::net::UnixDatagram, UnixSocketAddr, send_to_addr
}
