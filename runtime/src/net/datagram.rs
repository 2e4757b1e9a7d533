//! The managed datagram sockets.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;

use super::gated::Datagrams;
use crate::between::managed::managed_type;

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $std:ty, $addr:ty) => {
        managed_type! {
            $(#[$doc])*
            ///
            /// The first call of [`recv_from`](Self::recv_from) tells that the service is ready to serve it. Receiving
            /// begins once the service is active, pauses while a successor is on probation, and ends when this process
            /// drains: from then on `recv_from` is pending for ever. Sending works to the end, so that every received
            /// datagram can be answered. A drain does not know of a datagram that the body works on; a
            /// [`Shutdown::guard`](crate::Shutdown::guard) makes it wait.
            $name, $kind, datagrams: Datagrams<$std>, $addr,
            /// Every error of the system.
        }

        impl $name {
            /// recvfrom(2): the next datagram and the address of its sender. The part of a datagram that does not fit in
            /// `buffer` is lost.
            ///
            /// It is cancel safe, and any number of tasks may wait at once: each datagram goes to one of them.
            ///
            /// # Errors
            ///
            /// Every error of the system, such as ECONNREFUSED for an earlier datagram that did not arrive.
            pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, $addr)> {
                self.datagrams.recv_from(buffer).await
            }

            /// sendto(2): sends a datagram.
            ///
            /// # Errors
            ///
            /// Every error of the system.
            pub async fn send_to(&self, data: &[u8], target: $addr) -> io::Result<usize> {
                self.datagrams.send_to(data, target).await
            }
        }
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
