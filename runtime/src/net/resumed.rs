//! The connections that come from the predecessor.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use event_listener::EventListener;

use super::stream::sealed::Moved;
use crate::between::drain::poll_never;
use crate::between::resumed::{Offer, Source, taken_back};
use crate::outside::sockets;

/// The pause between two attempts to register a connection with the runtime, while epoll has no memory for it.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// The connections of a managed listener that come from the predecessor, made by its `resumed`.
///
/// While the service has no predecessor, none come.
#[must_use = "it takes nothing until it is polled"]
pub struct Resumed<S> {
    source: Arc<Source>,
    waiting: Option<EventListener>,
    kind: PhantomData<fn() -> S>,
}

impl<S> Resumed<S> {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self { source, waiting: None, kind: PhantomData }
    }

    /// The next connection that the predecessor offers. Like `accept` it is pending for ever once this process drains. It is
    /// cancel safe.
    pub async fn next(&mut self) -> Offer<S> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`next`](Self::next) for a future of your own.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Offer<S>> {
        loop {
            if let Some(offer) = self.source.try_next() {
                self.waiting = None;
                return Poll::Ready(offer);
            }
            if self.source.consumer.is_closed() {
                self.waiting = None;
                return poll_never(&self.source.shared);
            }
            match &mut self.waiting {
                // Registered before the next look, so that no offer in between is missed.
                None => self.waiting = Some(self.source.consumer.changed().listen()),
                Some(waiting) => {
                    ready!(Pin::new(waiting).poll(cx));
                    self.waiting = None;
                }
            }
        }
    }
}

impl<S> fmt::Debug for Resumed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

macro_rules! take {
    ($stream:ty) => {
        impl Offer<$stream> {
            /// Takes the connection: from now on it is this process's. The stream gives the unread bytes first. It has the options of
            /// the listener's address, as an accepted one.
            ///
            /// It is not cancel safe: the connection may be lost with the future. Call it in a task of its own. There an error also ends
            /// only this connection.
            ///
            /// # Errors
            ///
            /// The predecessor has taken the connection back, `NotConnected`. Or the kernel has no memory for its registration with the
            /// runtime, in which case the connection is lost.
            pub async fn take(mut self) -> io::Result<$stream> {
                let unread = self.offered.take_unread();
                let source = self.source;
                let counted = || source.count();
                // Counted before the connection is this process's: a drain that begins next waits for it.
                let _meanwhile = counted();
                let fd = self.offered.take().await.ok_or_else(taken_back)?;
                source.set_options(&fd);
                // A registration that fails closes its descriptor. With a second one it is tried again.
                let Ok(mut spare) = fd.try_clone() else { return <$stream>::moved(fd, counted(), unread) };
                let mut next = fd;
                loop {
                    match <$stream>::moved(next, counted(), unread.clone()) {
                        Err(error) if sockets::is_shortage(&error) => {
                            tokio::time::sleep(SHORTAGE_PAUSE).await
                        }
                        moved => return moved,
                    }
                    next = spare;
                    spare = match next.try_clone() {
                        Ok(spare) => spare,
                        Err(_) => return <$stream>::moved(next, counted(), unread),
                    };
                }
            }
        }
    };
}

take!(super::TcpStream);
#[cfg(unix)]
take!(super::UnixStream);
