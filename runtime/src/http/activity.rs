//! The state of one connection that decides when it may end.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::between::managed::as_descriptor;
use crate::sys::fd;

/// The version of HTTP on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1 = 1,
    Http2 = 2,
}

/// The state that the stream, the service and the drain of one connection share.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// The number of answers that have not ended, and of pieces of answers that have not been written.
    unanswered: AtomicUsize,
    /// The number of requests.
    asked: AtomicUsize,
    /// Bytes of the client have been read since the last `take_heard`: of a request, of a handshake, or anything else.
    heard: AtomicBool,
    /// The last write waits until the client reads what was written before.
    unsent: AtomicBool,
    /// The handshake is complete.
    handshake_done: AtomicBool,
    /// Bytes have been read after the handshake, or since the last request.
    begun: AtomicBool,
    /// The last request has a body. Only hyper knows where that body ends.
    has_body: AtomicBool,
    /// The next read that finds nothing asks the socket itself, and stores the answer in `quiet`.
    probing: AtomicBool,
    quiet: AtomicBool,
    /// The version of HTTP, or 0 before it is known.
    version: AtomicU8,
    /// The client is due for the notice, a first GOAWAY.
    notice: AtomicBool,
    /// The connection is to end gracefully.
    closing: AtomicBool,
}

impl Activity {
    pub(super) fn end_handshake(&self) {
        self.handshake_done.store(true, Ordering::Relaxed);
    }

    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_version(&self, version: Version) {
        self.version.store(version as u8, Ordering::Relaxed);
    }

    pub(super) fn version(&self) -> Option<Version> {
        let version = self.version.load(Ordering::Relaxed);
        [Version::Http1, Version::Http2].into_iter().find(|known| *known as u8 == version)
    }

    /// Whether the connection is HTTP/2 and has had its first request. A client that has not sent its first request yet
    /// still gets an answer from this process.
    pub(super) fn can_have_notice(&self) -> bool {
        self.version() == Some(Version::Http2) && self.was_asked()
    }

    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// The handshake or the head of a request that the client has begun and not finished, as a number: each has another
    /// number.
    ///
    /// In two cases the client counts as idle, because a head looks like other bytes here. The last request has a body, and
    /// only hyper knows where it ends. Or the connection is HTTP/2, where a frame may belong to no request.
    pub(super) fn unfinished(&self) -> Option<usize> {
        let handshake_done = self.handshake_done.load(Ordering::Relaxed);
        let is_head = self.begun.load(Ordering::Relaxed)
            && self.version() != Some(Version::Http2)
            && !self.has_body.load(Ordering::Relaxed)
            && self.is_answered();
        (!handshake_done || is_head).then(|| usize::from(handshake_done) + self.asked.load(Ordering::Relaxed))
    }

    pub(super) fn give_notice(&self) {
        self.notice.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_notice_due(&self) -> bool {
        self.notice.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(super) fn probe(&self) {
        self.quiet.store(false, Ordering::Relaxed);
        self.probing.store(true, Ordering::Relaxed);
    }

    /// Whether bytes of the client have been read since the last call.
    pub(super) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Whether every request is answered, every answer is written, and the last probe found nothing to read.
    pub(super) fn is_idle(&self) -> bool {
        self.is_answered() && self.quiet.load(Ordering::Relaxed)
    }

    /// Whether all answers have ended and are written.
    fn is_answered(&self) -> bool {
        self.unanswered.load(Ordering::Acquire) == 0 && !self.unsent.load(Ordering::Relaxed)
    }
}

/// The mark of a request without a whole answer, until this and its clones are dropped. A service may drop it before it
/// answers.
#[derive(Debug)]
pub(super) struct Unanswered {
    activity: Arc<Activity>,
}

impl Unanswered {
    pub(super) fn new(activity: &Arc<Activity>, has_body: bool) -> Self {
        activity.asked.fetch_add(1, Ordering::Relaxed);
        activity.begun.store(false, Ordering::Relaxed);
        activity.has_body.store(has_body, Ordering::Relaxed);
        activity.unanswered.fetch_add(1, Ordering::AcqRel);
        Self { activity: activity.clone() }
    }
}

impl Clone for Unanswered {
    fn clone(&self) -> Self {
        self.activity.unanswered.fetch_add(1, Ordering::AcqRel);
        Self { activity: self.activity.clone() }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.activity.unanswered.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether the socket has nothing to read: no byte, and no end of the stream.
///
/// This asks the socket itself. tokio may not know yet of bytes that have arrived.
#[cfg(unix)]
pub(super) fn is_quiet(socket: &impl std::os::fd::AsFd) -> bool {
    would_block(socket2::SockRef::from(socket))
}

#[cfg(windows)]
pub(super) fn is_quiet(socket: &impl std::os::windows::io::AsSocket) -> bool {
    would_block(socket2::SockRef::from(socket))
}

fn would_block(socket: socket2::SockRef<'_>) -> bool {
    let peeked = socket.peek(&mut [std::mem::MaybeUninit::uninit()]);
    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A stream that a managed listener accepts. Only this crate has such types.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether the body has read every byte that has arrived, and the peer has not ended the stream.
    fn is_quiet(&self) -> bool;
}

/// A stream of a managed listener that [`with_handshake`](super::with_handshake) gives to its function.
///
/// It is `AsyncRead`, `AsyncWrite` and `AsFd` (on Windows `AsSocket`), and derefs to the stream. It notes reads, and writes
/// that wait, for the drain. So it has no `DerefMut`: read and write by `Connection` alone.
#[derive(Debug)]
pub struct Connection<I> {
    stream: I,
    activity: Arc<Activity>,
}

impl<I> Connection<I> {
    pub(super) fn new(stream: I, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<I> Deref for Connection<I> {
    type Target = I;

    fn deref(&self) -> &I {
        &self.stream
    }
}

as_descriptor! { [I: fd::AsFd] Connection<I>, |this| fd::borrow(&this.stream) }

impl<I: Stream> AsyncRead for Connection<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if polled.is_ready() {
            if buffer.filled().len() > before {
                this.activity.heard.store(true, Ordering::Relaxed);
            }
        } else if this.activity.probing.swap(false, Ordering::Relaxed) {
            this.activity.quiet.store(this.stream.is_quiet(), Ordering::Relaxed);
        }
        polled
    }
}

impl<I: Stream> AsyncWrite for Connection<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, data);
        this.activity.unsent.store(polled.is_pending(), Ordering::Relaxed);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, data);
        this.activity.unsent.store(polled.is_pending(), Ordering::Relaxed);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
