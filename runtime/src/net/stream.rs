//! The streams that a drain waits for.

use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::between::drain::Guard;
use crate::between::shared::Counted;

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
        /// It is the stream of tokio, by `Deref` and as `AsyncRead` and `AsyncWrite`, and one thing more: a drain
        /// waits until it is dropped.
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
                    OwnedReadHalf { io: read, _counted: counted.clone() },
                    OwnedWriteHalf { io: write, _counted: counted },
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
    _counted: Arc<Counted>,
}

/// The half of a managed stream that is written. Dropping it shuts down the write direction, as in tokio.
#[derive(Debug)]
pub struct OwnedWriteHalf<T> {
    io: T,
    _counted: Arc<Counted>,
}

impl<T: AsyncRead + Unpin> AsyncRead for OwnedReadHalf<T> {
    forward_read!();
}

impl<T: AsyncWrite + Unpin> AsyncWrite for OwnedWriteHalf<T> {
    forward_write!();
}

impl<T> Deref for OwnedReadHalf<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.io
    }
}

impl<T> Deref for OwnedWriteHalf<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.io
    }
}
