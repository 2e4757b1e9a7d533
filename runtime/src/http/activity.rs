//! The state of one connection that decides when it may end.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::between::managed::as_descriptor;
use crate::between::shared::Shared;
use crate::sys::fd;

/// The kind of a connection of HTTP/1.1 that moves to the successor: every request is answered, and the rest is in the unread
/// bytes.
pub(super) const HTTP_1: &str = "http/1.1";

/// How many requests a client may send without a pause while its connection leaves. The answer to the next one has
/// `Connection: close`.
const MOST_IN_A_ROW: usize = 16;

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
    /// The listener of a connection that can move to the successor, by its name.
    listener: Option<Arc<str>>,
    /// The connection does not move: an answer says so, or the successor has refused it.
    stays: AtomicBool,
    /// The connection is to move at its next boundary.
    leaving: AtomicBool,
    /// The number of requests at which the connection stays after all.
    most_asked: AtomicUsize,
    /// A request has asked for another protocol. hyper does not give the stream of such a connection back.
    asked_upgrade: AtomicBool,
    /// Reads of a connection that leaves wake this. It is not the waker of the poll, see [`Watch`](super::moving::Watch).
    reader: Mutex<Option<Waker>>,
    /// hyper ends the connection so that it gives the stream back. Its shutdown does not reach the client.
    parting: AtomicBool,
    /// hyper has shut down the stream while it was parting.
    parted: AtomicBool,
}

impl Activity {
    /// A connection of a listener of this name, if it can move to the successor.
    pub(super) fn new(listener: Option<Arc<str>>) -> Self {
        Self { listener, ..Self::default() }
    }

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
            && !self.has_body()
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
        self.leaving.store(false, Ordering::Relaxed);
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

    /// Whether the connection can move, and the successor takes it. True from the beginning of the standby on.
    pub(super) fn can_move(&self, shared: &Shared) -> bool {
        let listener = self
            .listener
            .as_ref()
            .filter(|_| !self.stays.load(Ordering::Relaxed) && self.version() != Some(Version::Http2));
        listener.is_some_and(|listener| shared.moving.giving.will_take(listener, HTTP_1))
    }

    /// From now on the connection does not move.
    pub(super) fn stay(&self) {
        self.stays.store(true, Ordering::Relaxed);
        self.leaving.store(false, Ordering::Relaxed);
    }

    /// From now on the connection moves at its next boundary.
    pub(super) fn leave(&self) {
        let most = self.asked.load(Ordering::Relaxed) + MOST_IN_A_ROW;
        self.most_asked.store(most, Ordering::Relaxed);
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// The successor has refused the connection. It begins anew, and stays.
    pub(super) fn come_back(&self) {
        self.stay();
        self.asked.store(0, Ordering::Relaxed);
        for flag in [&self.begun, &self.has_body, &self.asked_upgrade, &self.parting, &self.parted] {
            flag.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn set_asked_upgrade(&self) {
        self.asked_upgrade.store(true, Ordering::Relaxed);
    }

    /// Whether a connection that leaves is between two requests, as far as is known here: only hyper knows whether the body
    /// of the last request is read to its end.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.is_leaving() && self.is_answered() && !(self.has_body() && self.is_upgrade_asked())
    }

    /// Whether the stream can be taken from hyper without its consent. Its consent is the end of a graceful shutdown, with
    /// which an idle connection ends at once. hyper does not do so before the first request, or when it would give the
    /// stream to a request that has asked for another protocol.
    pub(super) fn is_idle_without_hyper(&self) -> bool {
        !self.was_asked() || self.is_upgrade_asked()
    }

    fn is_upgrade_asked(&self) -> bool {
        self.asked_upgrade.load(Ordering::Relaxed)
    }

    fn has_body(&self) -> bool {
        self.has_body.load(Ordering::Relaxed)
    }

    /// Whether bytes that arrive now are for the successor. The body of a request is for this process.
    pub(super) fn reads_for_successor(&self) -> bool {
        self.is_leaving() && self.was_asked() && !self.has_body()
    }

    pub(super) fn set_reader(&self, reader: Option<Waker>) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = reader;
    }

    pub(super) fn reader(&self) -> Option<Waker> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn part(&self) {
        self.parting.store(true, Ordering::Relaxed);
    }

    /// Ends what [`part`](Self::part) began. Returns whether hyper has given the connection up.
    pub(super) fn end_parting(&self) -> bool {
        self.parting.store(false, Ordering::Relaxed);
        self.parted.swap(false, Ordering::Relaxed)
    }

    /// Notes a shutdown of the stream. Returns whether it does not reach the client.
    pub(super) fn keeps_shutdown(&self) -> bool {
        let is_parting = self.parting.load(Ordering::Relaxed);
        self.parted.store(is_parting, Ordering::Relaxed);
        is_parting
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
        let asked = activity.asked.fetch_add(1, Ordering::Relaxed);
        // Requests without a body have an end: while one is answered, nothing more is read for this process.
        if has_body && activity.is_leaving() && asked >= activity.most_asked.load(Ordering::Relaxed) {
            activity.stay();
        }
        activity.begun.store(false, Ordering::Relaxed);
        activity.has_body.store(has_body, Ordering::Relaxed);
        activity.unanswered.fetch_add(1, Ordering::AcqRel);
        Self { activity: activity.clone() }
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.activity
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

    pub(super) fn into_parts(self) -> (I, Arc<Activity>) {
        (self.stream, self.activity)
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
