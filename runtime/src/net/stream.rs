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
use crate::between::managed::as_descriptor;
use crate::between::shared::Counted;
use crate::sys::fd;

macro_rules! forward_read {
    () => {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().io).poll_read(cx, buffer)
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

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
        }
    };
}

#[cfg(feature = "http")]
pub(crate) use forward_write;

macro_rules! counted_stream {
    ($(#[$doc:meta])* $name:ident, $tokio:ty, $read:ty, $write:ty) => {
        $(#[$doc])*
        ///
        /// It is the stream of tokio, by `Deref` and as `AsyncRead`, `AsyncWrite` and `AsFd` (on Windows `AsSocket`), and one
        /// thing more: a drain waits until it is dropped.
        #[derive(Debug)]
        pub struct $name {
            io: $tokio,
            counted: Counted,
        }

        impl $name {
            pub(super) fn new(io: $tokio, counted: Counted) -> Self {
                Self { io, counted }
            }

            /// Splits it into two halves that can go to two tasks; a drain waits until both are dropped.
            pub fn into_split(self) -> (OwnedReadHalf<$read>, OwnedWriteHalf<$write>) {
                let (read, write) = self.io.into_split();
                let counted = Arc::new(self.counted);
                (
                    OwnedReadHalf { io: read, counted: counted.clone() },
                    OwnedWriteHalf { io: write, counted },
                )
            }

            /// The stream of tokio, and the guard that a drain waits for.
            pub fn into_inner(self) -> ($tokio, Guard) {
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
                        Ok($name { io, counted })
                    }
                    Err(error) => Err(ReuniteError(
                        OwnedReadHalf { io: error.0, counted: self.counted },
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
        }
    };
}

counted_stream! {
    /// A TCP stream that was accepted by a managed listener.
    TcpStream, tokio::net::TcpStream,
    tokio::net::tcp::OwnedReadHalf, tokio::net::tcp::OwnedWriteHalf
}

#[cfg(unix)]
counted_stream! {
    /// A Unix stream that was accepted by a managed listener.
    UnixStream, tokio::net::UnixStream,
    tokio::net::unix::OwnedReadHalf, tokio::net::unix::OwnedWriteHalf
}

/// The half of a managed stream that is read.
#[derive(Debug)]
pub struct OwnedReadHalf<T> {
    io: T,
    counted: Arc<Counted>,
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
