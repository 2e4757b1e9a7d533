//! The stream below a WebSocket, which keeps what tungstenite would lose when a socket is taken apart.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Inbound, Outbound};
use crate::between::managed::Unread;

/// The stream below a [`Socket`](super::Socket). It keeps what was read of a message that is not whole. It derefs to the stream
/// that was accepted.
#[derive(Debug)]
pub struct Tracked<S> {
    stream: S,
    mode: Mode,
    inbound: Inbound,
    outbound: Outbound,
    /// A read gives these bytes first.
    unread: Unread,
    /// A read after `unread` fails with this error.
    error: Option<io::Error>,
    /// These bytes are written first.
    unsent: Unread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The handshake of HTTP.
    Handshake,
    /// The frames.
    Open,
    /// The socket is being taken apart: a read waits, and what is written is put into `unsent`.
    Leaving,
}

impl<S> Tracked<S> {
    pub(super) fn new(stream: S, mode: Mode, unread: Vec<u8>) -> Self {
        let (inbound, outbound) = Default::default();
        Self {
            stream,
            mode,
            inbound,
            outbound,
            unread: unread.into(),
            error: None,
            unsent: Vec::new().into(),
        }
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Whether a Close was read or written.
    pub(super) fn is_closed(&self) -> bool {
        self.inbound.is_closed() || self.outbound.is_closed()
    }

    /// Whether no Close was read or written, every message that is written is whole, and what was read can be read again.
    pub(super) fn can_move(&self) -> bool {
        self.inbound.can_move() && self.outbound.can_move() && self.error.is_none()
    }

    /// The stream for a new socket. `whole` are messages that come before what was read of the next one.
    pub(super) fn renew(self, mut whole: Vec<u8>) -> Self {
        let kept = self.inbound.into_kept();
        let unread = match (whole.is_empty(), self.unread.rest()) {
            (true, []) => kept,
            (_, rest) => {
                whole.extend_from_slice(&kept);
                whole.extend_from_slice(rest);
                whole
            }
        };
        Self { unsent: self.unsent, ..Self::new(self.stream, Mode::Open, unread) }
    }

    /// The stream for a socket that gives these messages and then an error.
    pub(super) fn fail(self, whole: Vec<u8>, error: io::Error) -> Self {
        Self { error: Some(error), unsent: self.unsent, ..Self::new(self.stream, Mode::Open, whole) }
    }

    /// The stream and the bytes that it gives first, after [`renew`](Self::renew) and a flush.
    pub(super) fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.unread.into_rest())
    }
}

impl<S> Deref for Tracked<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tracked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.mode == Mode::Leaving {
            return Poll::Pending;
        }
        // tungstenite flushes the answer to a Ping while it reads, and takes what was put aside for sent.
        if let Poll::Ready(sent) = this.poll_unsent(cx) {
            sent?;
        }
        let before = buffer.filled().len();
        let unread = this.unread.rest();
        if unread.is_empty() {
            if let Some(error) = this.error.take() {
                return Poll::Ready(Err(error));
            }
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            let count = unread.len().min(buffer.remaining());
            buffer.put_slice(&unread[..count]);
            this.unread.advance(count);
        }
        if this.mode == Mode::Open {
            this.inbound.note(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Tracked<S> {
    /// Writes the bytes that were put aside.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let unsent @ [_, ..] = self.unsent.rest() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, unsent))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tracked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = if this.mode == Mode::Leaving {
            this.unsent.append(data);
            data.len()
        } else {
            ready!(this.poll_unsent(cx))?;
            ready!(Pin::new(&mut this.stream).poll_write(cx, data))?
        };
        if this.mode != Mode::Handshake {
            this.outbound.note(&data[..count]);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.mode == Mode::Leaving {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_unsent(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
