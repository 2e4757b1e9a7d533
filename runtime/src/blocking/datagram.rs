//! The managed datagram sockets.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::sync::Arc;

use super::polled_gate::{PolledGate, wait_until_writable};
use crate::between::managed::{as_descriptor, managed_type};
use crate::between::params::ListenerSocket;
use crate::outside::sockets::StdDatagram;
use crate::sys::fd;

/// A datagram socket of std behind a gate.
struct Datagrams<S> {
    gate: Arc<PolledGate<S>>,
    /// For sending, which needs no gate.
    io: Arc<S>,
}

impl<S: StdDatagram> Datagrams<S> {
    fn new(socket: ListenerSocket<'_>) -> io::Result<Self> {
        let io = Arc::new(S::from(socket.duplicate()?));
        Ok(Self { gate: PolledGate::new(socket, io.clone())?, io })
    }

    fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, S::Address)>> {
        self.gate.read_through(|socket| socket.recv_from(buffer))
    }

    fn send_to(&self, data: &[u8], target: &S::Address) -> io::Result<usize> {
        loop {
            match self.io.send_to(data, target) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_until_writable(&*self.io)?,
                result => return result,
            }
        }
    }

    fn local_addr(&self) -> io::Result<S::Address> {
        self.io.local_addr()
    }
}

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $std:ty, $addr:ty) => {
        managed_type! {
            $(#[$doc])*
            ///
            /// The first call of [`recv_from`](Self::recv_from) tells that the service is ready to serve it. Receiving
            /// begins once the service is active, pauses while a successor is on probation, and ends when this process
            /// drains. Sending works to the end, so that every received datagram can be answered.
            ///
            /// It is `AsFd`, on Windows `AsSocket`. A receive by way of the descriptor bypasses the pause and the drain.
            /// Socket options are safe: `socket2::SockRef::from(&socket)` has them.
            $name, $kind, datagrams: Datagrams<$std>, $addr,
            /// Every error of the system.
        }

        impl $name {
            /// recvfrom(2): waits for the next datagram and the address of its sender; `None` once this process is
            /// replaced or stopped. The part of a datagram that does not fit in `buffer` is lost.
            ///
            /// # Errors
            ///
            /// Every error of the system, such as ECONNREFUSED for an earlier datagram that did not arrive.
            pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, $addr)>> {
                self.datagrams.recv_from(buffer)
            }

            /// sendto(2): sends a datagram, waiting while the socket is full.
            ///
            /// # Errors
            ///
            /// Every error of the system.
            pub fn send_to(&self, data: &[u8], target: &$addr) -> io::Result<usize> {
                self.datagrams.send_to(data, target)
            }
        }

        as_descriptor! { [] $name, |this| fd::borrow(&*this.datagrams.io) }
    };
}

managed! {
    /// A managed UDP socket.
    UdpSocket, Udp, std::net::UdpSocket, SocketAddr
}

#[cfg(unix)]
managed! {
    /// A managed Unix datagram socket.
    UnixDatagram, UnixDatagram, std::os::unix::net::UnixDatagram, UnixSocketAddr
}
