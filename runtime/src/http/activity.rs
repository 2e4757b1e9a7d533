//! What is going on on one connection, as far as its end depends on it.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::sealed;

/// Which version of HTTP a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1 = 1,
    Http2 = 2,
}

/// What the stream, the service and the drain of one connection tell each other.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests whose answers have not ended, and pieces of answers that have not been written.
    unanswered: AtomicUsize,
    /// How many requests there were.
    asked: AtomicUsize,
    /// Something has been read since the last look: of a request, of a handshake, or of whatever the client sends.
    heard: AtomicBool,
    /// The last write waits until the client has read what was written before.
    unsent: AtomicBool,
    /// The handshake is over.
    shaken: AtomicBool,
    /// What HTTP is spoken on has been read since the last request.
    begun: AtomicBool,
    /// That request has a body, and nobody here knows where it ends.
    has_body: AtomicBool,
    /// The next read that finds nothing is to ask the socket itself, and to note the answer in `quiet`.
    probing: AtomicBool,
    quiet: AtomicBool,
    /// The version of HTTP, or 0 before it is known.
    version: AtomicU8,
    /// The client is to be told that the connection is about to end, and then it is to end, as its version of HTTP says.
    told: AtomicBool,
    closing: AtomicBool,
}

impl Activity {
    pub(super) fn shook_hands(&self) {
        self.shaken.store(true, Ordering::Relaxed);
    }

    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn speaks(&self, version: Version) {
        self.version.store(version as u8, Ordering::Relaxed);
    }

    pub(super) fn version(&self) -> Option<Version> {
        let version = self.version.load(Ordering::Relaxed);
        [Version::Http1, Version::Http2].into_iter().find(|known| *known as u8 == version)
    }

    /// Whether it is HTTP/2, and has had its first request: a client that has yet to send that one is to have it answered
    /// here.
    pub(super) fn can_be_told(&self) -> bool {
        self.version() == Some(Version::Http2) && self.was_asked()
    }

    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// What the client has begun and not finished, by a number of its own: the handshake, or the head of a request.
    ///
    /// Where that cannot be told from what an idle client sends, it is taken for idle: behind a request with a body, and
    /// over HTTP/2, whose frames are about more than requests.
    pub(super) fn unfinished(&self) -> Option<usize> {
        let shaken = self.shaken.load(Ordering::Relaxed);
        let is_head = self.begun.load(Ordering::Relaxed)
            && self.version() != Some(Version::Http2)
            && !self.has_body.load(Ordering::Relaxed)
            && self.is_answered();
        (!shaken || is_head).then(|| usize::from(shaken) + self.asked.load(Ordering::Relaxed))
    }

    pub(super) fn tell(&self) {
        self.told.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
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

    /// Whether something has been read since the last look, which this is.
    pub(super) fn look(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Whether no request is there, no answer is left to be sent, and the last probe found nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.is_answered() && self.quiet.load(Ordering::Relaxed)
    }

    /// Whether the answers have ended and been written.
    fn is_answered(&self) -> bool {
        self.unanswered.load(Ordering::Acquire) == 0 && !self.unsent.load(Ordering::Relaxed)
    }
}

/// A request that is being answered, until this and its clones are dropped; which may be before there is an answer.
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

/// Whether the socket has nothing to be read: no byte of a request, and no end by the client.
///
/// The socket is asked, not tokio, which may not have heard of it yet.
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

/// A stream of a managed listener, as [`with_handshake`](super::with_handshake) hands it out. It notes what is read, and what
/// cannot be written.
///
/// It is that stream by `Deref`, and as `AsyncRead` and `AsyncWrite`.
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

impl<I: sealed::Stream> AsyncRead for Connection<I> {
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

impl<I: sealed::Stream> AsyncWrite for Connection<I> {
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
