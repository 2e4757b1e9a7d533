//! The managed datagram sockets.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::gated::Datagrams;
use super::kept::Kept;
use super::within_budget;
use crate::between::drain::{never, poll_never};
use crate::between::managed::{as_descriptor, managed_type};
use crate::sys::fd;

/// The waits of the `poll_` methods of one handle. No gate ends them, because the socket stays open for what is sent.
#[derive(Clone, Default)]
struct Waits {
    readable: Kept<io::Result<bool>>,
    writable: Kept<io::Result<()>>,
}

/// The result of a `try_` or `poll_` attempt. `None` if the socket is full.
fn unless_full<R>(result: io::Result<R>) -> Option<io::Result<R>> {
    let is_full = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    Some(result).filter(|result| !result.as_ref().is_err_and(is_full))
}

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $std:ty, $addr:ty) => {
        managed_type! {
            $(#[$doc])*
            ///
            /// The first call that receives, such as [`recv_from`](Self::recv_from), tells that the service is ready to
            /// serve it. Receiving begins once the service is active, pauses while a successor is on probation, and ends
            /// when this process drains: from then on `recv_from` is pending for ever. Sending works to the end, so that
            /// every received datagram can be answered. A drain does not know of a datagram that the body works on; a
            /// [`Shutdown::guard`](crate::Shutdown::guard) makes it wait.
            ///
            /// It is `AsFd`, on Windows `AsSocket`. A receive by way of the descriptor bypasses the pause and the drain.
            /// Socket options are safe: `socket2::SockRef::from(&socket)` has them.
            $name, $kind, datagrams: Datagrams<$std>; waits: Waits, $addr,
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
                loop {
                    let attempt = |cx: &mut Context<'_>| {
                        within_budget(cx, || self.datagrams.try_recv_from(buffer))
                    };
                    if let Some(received) = poll_fn(attempt).await {
                        return received;
                    }
                    self.readable().await?;
                }
            }

            /// [`recv_from`](Self::recv_from) for a future of your own. Of several tasks that poll one handle only the last
            /// is woken; a clone of the handle has a place of its own.
            ///
            /// # Errors
            ///
            /// As for `recv_from`.
            pub fn poll_recv_from(
                &self,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<$addr>> {
                loop {
                    let space = buffer.initialize_unfilled();
                    if let Some(received) = ready!(within_budget(cx, || self.datagrams.try_recv_from(space))) {
                        let (length, sender) = received?;
                        buffer.advance(length);
                        return Poll::Ready(Ok(sender));
                    }
                    let datagrams = self.datagrams.clone();
                    if !ready!(self.waits.readable.poll(cx, drop, || async move { datagrams.readable().await }))? {
                        return poll_never(self.datagrams.shared());
                    }
                }
            }

            /// [`recv_from`](Self::recv_from) without a wait: combine it with [`readable`](Self::readable).
            ///
            /// # Errors
            ///
            /// `WouldBlock` if no datagram is there, and always while a successor is on probation or this process drains.
            /// Else as for `recv_from`.
            pub fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, $addr)> {
                self.datagrams.try_recv_from(buffer).unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
            }

            /// Waits until [`try_recv_from`](Self::try_recv_from) may find a datagram. Pending while a successor is on
            /// probation, and for ever once this process drains. Another task may take the datagram first.
            ///
            /// # Errors
            ///
            /// The runtime shuts down.
            pub async fn readable(&self) -> io::Result<()> {
                match self.datagrams.readable().await? {
                    true => Ok(()),
                    false => never(self.datagrams.shared()).await,
                }
            }

            /// sendto(2): sends a datagram, waiting while the socket is full.
            ///
            /// # Errors
            ///
            /// Every error of the system.
            pub async fn send_to(&self, data: &[u8], target: $addr) -> io::Result<usize> {
                loop {
                    let attempt = |cx: &mut Context<'_>| {
                        within_budget(cx, || unless_full(self.try_send_to(data, target.clone())))
                    };
                    if let Some(sent) = poll_fn(attempt).await {
                        return sent;
                    }
                    self.writable().await?;
                }
            }

            /// [`send_to`](Self::send_to) for a future of your own. Of several tasks that poll one handle only the last is
            /// woken; a clone of the handle has a place of its own.
            ///
            /// # Errors
            ///
            /// Every error of the system.
            pub fn poll_send_to(
                &self,
                cx: &mut Context<'_>,
                data: &[u8],
                target: $addr,
            ) -> Poll<io::Result<usize>> {
                loop {
                    let attempt = || unless_full(self.try_send_to(data, target.clone()));
                    if let Some(sent) = ready!(within_budget(cx, attempt)) {
                        return Poll::Ready(sent);
                    }
                    let datagrams = self.datagrams.clone();
                    ready!(self.waits.writable.poll(cx, drop, || async move { datagrams.writable().await }))?;
                }
            }

            /// [`send_to`](Self::send_to) without a wait: combine it with [`writable`](Self::writable).
            ///
            /// # Errors
            ///
            /// `WouldBlock` while the socket is full. Else every error of the system.
            pub fn try_send_to(&self, data: &[u8], target: $addr) -> io::Result<usize> {
                self.datagrams.try_send_to(data, &target)
            }

            /// Waits until [`try_send_to`](Self::try_send_to) may find room.
            ///
            /// # Errors
            ///
            /// The runtime shuts down.
            pub async fn writable(&self) -> io::Result<()> {
                self.datagrams.writable().await
            }
        }

        as_descriptor! { [] $name, |this| fd::borrow(this.datagrams.socket()) }
    };
}

managed! {
    /// A managed UDP socket.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tableflip::{Service, net::UdpSocket, testing};
    ///
    /// let service = testing::start(Service::new().listen("dns", "udp://127.0.0.1:0"), |start| {
    ///     let dns: UdpSocket = start.listener("dns")?;
    ///     Ok(async move {
    ///         socket2::SockRef::from(&dns).set_tos_v4(0x10)?;
    ///         let (length, peer) = dns.recv_from(&mut [0; 512]).await?;
    ///         dns.send_to(format!("{length} bytes").as_bytes(), peer).await
    ///     })
    /// })?;
    /// let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// client.send_to(b"hello", service.address("dns").unwrap())?;
    /// let mut answer = [0; 7];
    /// client.recv(&mut answer)?;
    /// assert_eq!(&answer, b"5 bytes");
    /// # service.wait().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    UdpSocket, Udp, std::net::UdpSocket, SocketAddr
}

#[cfg(unix)]
managed! {
    /// A managed Unix datagram socket.
    UnixDatagram, UnixDatagram, std::os::unix::net::UnixDatagram, UnixSocketAddr
}
