//! The streams that a drain waits for.

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::between::drain::Guard;
use crate::between::managed::{self, Ending, Unread, as_descriptor};
use crate::between::shared::Counted;
use crate::moving::session::Session;
use crate::sys::fd::{self, OwnedFd};

pub(super) mod sealed {
    use super::{Counted, OwnedFd, io};

    /// A stream that can come from another process.
    pub(crate) trait Moved: Sized {
        fn moved(fd: OwnedFd, counted: Counted, unread: Vec<u8>) -> io::Result<Self>;
    }

    pub trait Sealed {}
}

/// What the streams have in common, for code that serves both. Only this crate has such types.
pub trait HandOver: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static + sealed::Sealed {
    /// Hands the connection over to the successor: see [`TcpStream::hand_over`].
    ///
    /// # Errors
    ///
    /// The stream, which this process keeps.
    fn hand_over(self, session: Session) -> impl Future<Output = Result<(), Self>> + Send;
}

macro_rules! forward_read {
    () => {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            let rest = this.unread.rest();
            if !rest.is_empty() {
                let count = rest.len().min(buffer.remaining());
                buffer.put_slice(&rest[..count]);
                this.unread.advance(count);
                return Poll::Ready(Ok(()));
            }
            Pin::new(&mut this.io).poll_read(cx, buffer)
        }
    };
}

/// Writes to the field `io`.
macro_rules! forward_write {
    () => {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.get_mut().io).poll_write(cx, data)
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, data)
        }

        fn is_write_vectored(&self) -> bool {
            self.io.is_write_vectored()
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().io).poll_flush(cx)
        }
    };
}

#[cfg(feature = "http")]
pub(crate) use forward_write;

/// Shuts down the field `io`.
macro_rules! forward_shutdown {
    () => {
        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
        }
    };
}

macro_rules! counted_stream {
    ($(#[$doc:meta])* $name:ident, $tokio:ty, $read:ty, $write:ty, $std:ty, $peer:expr) => {
        $(#[$doc])*
        ///
        /// It is the stream of tokio, by `Deref` and as `AsyncRead`, `AsyncWrite` and `AsFd` (on Windows `AsSocket`), and one
        /// thing more: a drain waits until it is dropped.
        #[derive(Debug)]
        pub struct $name {
            // Before the stream: it ends a connection that is open.
            ending: Ending,
            io: $tokio,
            counted: Counted,
            unread: Unread,
        }

        impl $name {
            pub(super) fn new(io: $tokio, counted: Counted) -> Self {
                Self { ending: Ending::NONE, io, counted, unread: Unread::default() }
            }

            #[cfg(feature = "websocket")]
            pub(crate) fn counted(&self) -> &Counted {
                &self.counted
            }

            /// Hands the connection over to the successor, which goes on where this process stops. Its client notices nothing.
            ///
            /// Call it at a boundary of the protocol, once [`Shutdown`](crate::Shutdown) has resolved. `Ok` means that the successor
            /// has the connection. `Err` gives the stream back, with every byte that was unread: this process goes on with it, and
            /// says goodbye as its protocol does. The stream comes back at once if nothing is to move: this process is not replaced,
            /// or the service stops, or the successor does not take this kind of connection at this listener. It comes back within
            /// about a second if the successor does not answer.
            ///
            /// Everything that was written is to be flushed before. If the future is dropped, the successor may have the
            /// connection; if it has not, the connection is closed.
            ///
            /// # Errors
            ///
            /// The stream, which this process keeps.
            pub async fn hand_over(mut self, mut session: Session) -> Result<(), Self> {
                session.unread.extend_from_slice(self.unread.rest());
                self.unread = Unread::from(session.unread.clone());
                std::mem::replace(&mut self.ending, Ending::NONE).forget();
                let peer = ($peer)(&self.io);
                let io = Arc::new(self);
                let Some(verdict) = managed::offer(&io.counted, io.clone(), session, peer) else {
                    return Err(Arc::into_inner(io).expect("nobody else has it"));
                };
                if *verdict.wait().await {
                    return Ok(());
                }
                let mut stream = Arc::into_inner(io).expect("the link has let go of it before its verdict");
                stream.ending = Ending::of(&stream.io);
                Err(stream)
            }

            /// The bytes that another process has read of the connection and that this one has not read yet. As `AsyncRead` the stream
            /// gives them first. The methods of tokio's stream, such as `try_read`, do not know them: take them before.
            pub fn take_unread(&mut self) -> Vec<u8> {
                let unread = std::mem::take(&mut self.unread);
                unread.rest().to_vec()
            }

            /// Splits it into two halves that can go to two tasks; a drain waits until both are dropped.
            pub fn into_split(self) -> (OwnedReadHalf<$read>, OwnedWriteHalf<$write>) {
                // The half that is written ends the connection with its drop.
                self.ending.forget();
                let (read, write) = self.io.into_split();
                let counted = Arc::new(self.counted);
                (
                    OwnedReadHalf { io: read, counted: counted.clone(), unread: self.unread },
                    OwnedWriteHalf { io: write, counted },
                )
            }

            /// The stream of tokio, and the guard that a drain waits for. Of a stream that moved here, [take the unread
            /// bytes](Self::take_unread) before.
            pub fn into_inner(self) -> ($tokio, Guard) {
                self.ending.forget();
                (self.io, Guard::of(Arc::new(self.counted)))
            }
        }

        impl Deref for $name {
            type Target = $tokio;

            fn deref(&self) -> &$tokio {
                &self.io
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut $tokio {
                &mut self.io
            }
        }

        as_descriptor! { [] $name, |this| fd::borrow(&this.io) }

        impl sealed::Moved for $name {
            fn moved(fd: OwnedFd, counted: Counted, unread: Vec<u8>) -> io::Result<Self> {
                let stream = <$std>::from(fd);
                // The flag belongs to the connection, and a stream of threads has none.
                stream.set_nonblocking(true)?;
                let io = <$tokio>::from_std(stream)?;
                Ok(Self { ending: Ending::NONE, io, counted, unread: Unread::from(unread) })
            }
        }

        impl sealed::Sealed for $name {}

        impl HandOver for $name {
            fn hand_over(self, session: Session) -> impl Future<Output = Result<(), Self>> + Send {
                Self::hand_over(self, session)
            }
        }

        impl OwnedReadHalf<$read> {
            /// Puts the two halves of one stream together again.
            ///
            /// # Errors
            ///
            /// The halves, if they are of two streams.
            pub fn reunite(
                self,
                write: OwnedWriteHalf<$write>,
            ) -> Result<$name, ReuniteError<$read, $write>> {
                match self.io.reunite(write.io) {
                    Ok(io) => {
                        // The other half had the other reference.
                        drop(write.counted);
                        let counted = Arc::into_inner(self.counted).expect("a stream has two halves");
                        Ok($name { ending: Ending::NONE, io, counted, unread: self.unread })
                    }
                    Err(error) => Err(ReuniteError(
                        OwnedReadHalf { io: error.0, counted: self.counted, unread: self.unread },
                        OwnedWriteHalf { io: error.1, counted: write.counted },
                    )),
                }
            }
        }

        impl OwnedWriteHalf<$write> {
            /// Puts the two halves of one stream together again.
            ///
            /// # Errors
            ///
            /// The halves, if they are of two streams.
            pub fn reunite(
                self,
                read: OwnedReadHalf<$read>,
            ) -> Result<$name, ReuniteError<$read, $write>> {
                read.reunite(self)
            }
        }

        impl AsyncRead for $name {
            forward_read!();
        }

        impl AsyncWrite for $name {
            forward_write!();
            forward_shutdown!();
        }
    };
}

counted_stream! {
    /// A TCP stream that was accepted by a managed listener.
    TcpStream, tokio::net::TcpStream,
    tokio::net::tcp::OwnedReadHalf, tokio::net::tcp::OwnedWriteHalf,
    std::net::TcpStream, |stream: &tokio::net::TcpStream| stream.peer_addr().ok()
}

#[cfg(unix)]
counted_stream! {
    /// A Unix stream that was accepted by a managed listener.
    UnixStream, tokio::net::UnixStream,
    tokio::net::unix::OwnedReadHalf, tokio::net::unix::OwnedWriteHalf,
    std::os::unix::net::UnixStream, |_: &tokio::net::UnixStream| None
}

/// The half of a managed stream that is read.
#[derive(Debug)]
pub struct OwnedReadHalf<T> {
    io: T,
    counted: Arc<Counted>,
    unread: Unread,
}

/// The half of a managed stream that is written. Dropping it shuts down the write direction, as in tokio.
#[derive(Debug)]
pub struct OwnedWriteHalf<T> {
    io: T,
    counted: Arc<Counted>,
}

/// Two halves that are not of one stream, returned by `reunite`.
#[derive(Debug)]
pub struct ReuniteError<R, W>(pub OwnedReadHalf<R>, pub OwnedWriteHalf<W>);

impl<R, W> fmt::Display for ReuniteError<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the two halves are not of one stream")
    }
}

impl<R: fmt::Debug, W: fmt::Debug> Error for ReuniteError<R, W> {}

impl<T: AsyncRead + Unpin> AsyncRead for OwnedReadHalf<T> {
    forward_read!();
}

impl<T: AsyncWrite + Unpin> AsyncWrite for OwnedWriteHalf<T> {
    forward_write!();
    forward_shutdown!();
}

macro_rules! half {
    ($($half:ident)*) => {$(
        impl<T> $half<T> {
            /// The half of tokio, and the guard that a drain waits for.
            pub fn into_inner(self) -> (T, Guard) {
                (self.io, Guard::of(self.counted))
            }
        }

        impl<T> Deref for $half<T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.io
            }
        }

        impl<T> DerefMut for $half<T> {
            fn deref_mut(&mut self) -> &mut T {
                &mut self.io
            }
        }
    )*};
}

half!(OwnedReadHalf OwnedWriteHalf);
