//! The notice: the first GOAWAY of an HTTP/2 connection.
//!
//! hyper can send both GOAWAYs. It sends the first with a PING. When the PING is answered, it sends the second, which names
//! the last stream that is served. RFC 9113 section 6.8 asks for time for what is in flight, "at least one round-trip time".
//! But a client may answer the PING before it sends a request that it made earlier. The client of the h2 crate does: its
//! answers to PING overtake queued HEADERS. Their stream is then above the last one, and the request is lost. So this file
//! writes the notice between two frames, and hyper begins its own shutdown a second later.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;

/// The frame: 8 bytes, GOAWAY, stream 0, the highest stream identifier, NO_ERROR.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// A stream that writes the notice once it is due by the [`Activity`].
pub(super) struct Noticing<I> {
    io: I,
    activity: Arc<Activity>,
    frames: Frames,
    /// The number of bytes of the notice that are written.
    written: usize,
}

impl<I: AsyncWrite + Unpin> Noticing<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>) -> Self {
        Self { io, activity, frames: Frames::default(), written: 0 }
    }

    /// Writes the rest of the notice, if it is due and the stream is between two frames.
    fn poll_notice(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_place = self.written > 0 || self.frames.is_between();
        while self.written < GOAWAY.len() && is_place && self.activity.is_notice_due() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &GOAWAY[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The position of a stream in its frames, RFC 9113 section 4.1.
#[derive(Debug, Default)]
struct Frames {
    /// The length of the frame: the first bytes of its head.
    head: [u8; 3],
    /// The number of bytes of the head that have passed.
    passed: usize,
    /// The number of bytes of the payload that are left.
    payload: usize,
    /// A frame has begun. The notice cannot come before that, because the first frame must be SETTINGS.
    begun: bool,
}

impl Frames {
    const HEAD: usize = 9;

    fn is_between(&self) -> bool {
        self.begun && self.passed == 0 && self.payload == 0
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            self.begun = true;
            if self.payload > 0 {
                let count = self.payload.min(bytes.len());
                self.payload -= count;
                bytes = &bytes[count..];
                continue;
            }
            if let Some(byte) = self.head.get_mut(self.passed) {
                *byte = first;
            }
            self.passed += 1;
            if self.passed == Self::HEAD {
                let [a, b, c] = self.head.map(usize::from);
                (self.passed, self.payload) = (0, a << 16 | b << 8 | c);
            }
            bytes = rest;
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Noticing<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Noticing<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_notice(cx))?;
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, data))?;
        this.frames.pass(&data[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_notice(cx))?;
        let count = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, data))?;
        let mut left = count;
        for slice in data {
            let written = left.min(slice.len());
            this.frames.pass(&slice[..written]);
            left -= written;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes at the end of every turn of a connection. So an idle connection gets the notice here.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_notice(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Two frames: one with 300 bytes, one with none.
    fn frames() -> Vec<u8> {
        [&[0, 1, 44, 0, 0, 0, 0, 0, 1][..], &[7; 300], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()
    }

    #[tokio::test]
    async fn the_notice_stands_between_two_frames_however_they_are_written() {
        for piece in [1, 4, 9, 100, 400] {
            let (client, mut server) = tokio::io::duplex(1024);
            let activity = Arc::new(Activity::default());
            let mut noticing = Noticing::new(client, activity.clone());
            // The notice does not come before the first frame.
            activity.give_notice();
            noticing.flush().await.unwrap();
            for piece in frames().chunks(piece) {
                let (a, b) = piece.split_at(piece.len() / 2);
                noticing.write_all(a).await.unwrap();
                let mut left = [IoSlice::new(b), IoSlice::new(&[])];
                let mut left = &mut left[..];
                while left.iter().any(|slice| !slice.is_empty()) {
                    let count = noticing.write_vectored(left).await.unwrap();
                    IoSlice::advance_slices(&mut left, count);
                }
            }
            noticing.flush().await.unwrap();
            drop(noticing);
            let mut read = Vec::new();
            server.read_to_end(&mut read).await.unwrap();
            let whole = frames();
            let (first, second) = whole.split_at(309);
            let between = [first, &GOAWAY, second].concat();
            let after = [first, second, &GOAWAY].concat();
            assert!(read == between || read == after, "{piece}: {read:?}");
        }
    }
}
