//! The managed listeners.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::task::{Context, Poll, ready};

use super::gated::Acceptor;
use super::kept::Kept;
use super::resumed::Resumed;
use super::stream::TcpStream;
#[cfg(unix)]
use super::stream::UnixStream;
#[cfg(feature = "http")]
use crate::between::drain::Shutdown;
use crate::between::drain::{never, note_end_awaited, poll_never};
use crate::between::managed::{ListeningSocket, managed_type};

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $stream:ident, $std:ty, $addr:ty) => {
        managed_type! {
            $(#[$doc])*
            ///
            /// The first call of [`accept`](Self::accept) tells that the service is ready to serve it. Accepting begins
            /// once the service is active, pauses while a successor is on probation, and ends when this process drains:
            /// from then on `accept` is pending for ever, and the process exits when its connections are finished. The
            /// connections of [`incoming`](Self::incoming) end then.
            $name, $kind, acceptor: Acceptor<$std>; next: Kept<io::Result<Option<($stream, $addr)>>>, $addr,
            /// `NotConnected` once this process has given the listener up for good.
        }

        impl $name {
            /// accept(2): the next connection and the address of its peer.
            ///
            /// Connections that died in the queue are passed over. While the process or the machine is out of
            /// descriptors or memory the queue waits. An accepted connection is closed if the kernel has no memory
            /// for its registration, epoll_ctl(2). It is cancel safe, and any number of tasks may wait at once.
            ///
            /// # Errors
            ///
            /// Only an error that makes the listener useless, such as EBADF.
            pub async fn accept(&self) -> io::Result<($stream, $addr)> {
                match Self::next_of(&self.acceptor).await? {
                    Some(accepted) => Ok(accepted),
                    None => never(self.acceptor.gate.shared()).await,
                }
            }

            /// [`accept`](Self::accept) for a future of your own. Of several tasks that poll one handle only the last is
            /// woken; a clone of the handle has a place of its own.
            ///
            /// # Errors
            ///
            /// As for `accept`.
            pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<($stream, $addr)>> {
                match ready!(self.poll_next_of(cx))? {
                    Some(accepted) => Poll::Ready(Ok(accepted)),
                    None => poll_never(self.acceptor.gate.shared()),
                }
            }

            /// The connections, one after the other, as a stream that ends when this process drains.
            ///
            /// It does not end at the beginning of a probation: this process accepts again if the successor fails.
            pub fn incoming(&self) -> Incoming<$name> {
                Incoming { listener: self.clone() }
            }

            /// The connections of these kinds that come from the predecessor: those of a stream's `hand_over`.
            ///
            /// From this call on, until the value is dropped, this process takes such connections. Call it before the service is ready: the
            /// predecessor learns then what is taken. Several values share what comes. `tableflip::http::serve` has a kind of its own.
            ///
            /// # Panics
            ///
            /// If a kind is empty or longer than 64 bytes.
            pub fn resumed<K: Into<String>>(&self, kinds: impl IntoIterator<Item = K>) -> Resumed<$stream> {
                self.acceptor.resumed(kinds)
            }

            /// The listening socket, for socket options.
            ///
            /// # Errors
            ///
            /// `NotConnected` once this process has given the listener up for good.
            pub fn socket(&self) -> io::Result<ListeningSocket> {
                self.acceptor.socket()
            }

            /// The next connection. `None` once this process drains.
            async fn next_of(acceptor: &Acceptor<$std>) -> io::Result<Option<($stream, $addr)>> {
                let accepted = acceptor.accept().await?;
                Ok(accepted.map(|(stream, peer, counted)| ($stream::new(stream, counted), peer)))
            }

            fn poll_next_of(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<($stream, $addr)>>> {
                let acceptor = self.acceptor.clone();
                let tell = |wait| self.acceptor.gate.add_waiting(wait);
                self.next.poll(cx, tell, || async move { Self::next_of(&acceptor).await })
            }

            /// Reports an accept that failed, of a caller that tries again.
            #[cfg(feature = "axum-08")]
            pub(crate) fn complain(&self, error: &io::Error) {
                self.acceptor.gate.complain(error);
            }

            #[cfg(feature = "http")]
            pub(crate) fn name(&self) -> &str {
                self.acceptor.gate.listener()
            }

            #[cfg(feature = "http")]
            pub(crate) fn shutdown(&self) -> Shutdown {
                Shutdown::new(self.acceptor.gate.shared().clone())
            }
        }

        impl Incoming<$name> {
            /// The next connection. `None` when this process drains. It is cancel safe.
            ///
            /// A drain waits for the body to return if the body itself waits here. A task that waits here does not delay a
            /// drain. [`Shutdown`](crate::Shutdown#when-a-drain-waits-for-the-body) has the whole rule.
            ///
            /// # Errors
            ///
            /// As for `accept` of the listener.
            pub async fn next(&mut self) -> Option<io::Result<$stream>> {
                poll_fn(|cx| self.poll_next(cx)).await
            }

            /// [`next`](Self::next) for a future of your own.
            ///
            /// # Errors
            ///
            /// As for `next`.
            pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<$stream>>> {
                note_end_awaited(self.listener.acceptor.gate.shared());
                let accepted = ready!(self.listener.poll_next_of(cx));
                Poll::Ready(accepted.map(|accepted| accepted.map(|(stream, _peer)| stream)).transpose())
            }
        }

        #[cfg(feature = "futures-03")]
        impl futures_core::Stream for Incoming<$name> {
            type Item = io::Result<$stream>;

            fn poll_next(
                self: std::pin::Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<io::Result<$stream>>> {
                self.get_mut().poll_next(cx)
            }
        }
    };
}

/// The connections of a managed listener, made by its `incoming`. With the feature `futures-03` it is a
/// `futures_core::Stream`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io::Read;
/// use tableflip::{Service, net::TcpListener, testing};
/// use tokio::io::AsyncWriteExt;
///
/// let service = testing::start(Service::new().listen("greet", "tcp://127.0.0.1:0"), |start| {
///     let greet: TcpListener = start.listener("greet")?;
///     Ok(async move {
///         let (mut incoming, mut greeted) = (greet.incoming(), 0);
///         while let Some(stream) = incoming.next().await {
///             stream?.write_all(b"hello").await?;
///             greeted += 1;
///         }
///         // The service is replaced or stopped.
///         std::io::Result::Ok(greeted)
///     })
/// })?;
/// let mut greeting = String::new();
/// std::net::TcpStream::connect(service.address("greet").unwrap())?.read_to_string(&mut greeting)?;
/// assert_eq!(greeting, "hello");
/// assert_eq!(service.stop().unwrap()?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it accepts nothing until it is polled"]
pub struct Incoming<L> {
    listener: L,
}

managed! {
    /// A managed TCP listener.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use socket2::{SockRef, TcpKeepalive};
    /// use tableflip::{Service, net::TcpListener, testing};
    ///
    /// # use std::time::Duration;
    /// let service = testing::start(Service::new().listen("echo", "tcp://127.0.0.1:0"), |start| {
    ///     let echo: TcpListener = start.listener("echo")?;
    ///     Ok(async move {
    ///         // An option of the listener, and one of a connection.
    ///         SockRef::from(&echo.socket()?).set_send_buffer_size(1 << 16)?;
    ///         let (stream, _peer) = echo.accept().await?;
    ///         SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))
    ///     })
    /// })?;
    /// # std::net::TcpStream::connect(service.address("echo").unwrap())?;
    /// # service.wait().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    TcpListener, Tcp, TcpStream, std::net::TcpListener, SocketAddr
}

#[cfg(unix)]
managed! {
    /// A managed listener for Unix stream sockets.
    UnixListener, Unix, UnixStream, std::os::unix::net::UnixListener, UnixSocketAddr
}
