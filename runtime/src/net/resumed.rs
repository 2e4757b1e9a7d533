//! The connections that come from the predecessor.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use event_listener::EventListener;
use socket2::SockRef;

use super::stream::sealed::Moved;
use crate::base::address::Address;
use crate::between::drain::poll_never;
use crate::between::shared::Shared;
use crate::moving::session::checked;
use crate::moving::taking::{Consumer, Offered};
use crate::outside::sockets;

/// The pause between two attempts to register a connection with the runtime, while epoll has no memory for it.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// The connections of a managed listener that come from the predecessor, made by its `resumed`.
///
/// While the service has no predecessor, none come.
#[must_use = "it takes nothing until it is polled"]
pub struct Resumed<S> {
    consumer: Arc<Source>,
    waiting: Option<EventListener>,
    kind: PhantomData<fn() -> S>,
}

/// What the offers of one `Resumed` need.
struct Source {
    consumer: Consumer,
    address: Address,
    shared: Arc<Shared>,
    name: Arc<str>,
}

impl<S> Resumed<S> {
    pub(super) fn new<K: Into<String>>(
        shared: &Arc<Shared>,
        name: &Arc<str>,
        address: &Address,
        kinds: impl IntoIterator<Item = K>,
    ) -> Self {
        let kinds = kinds.into_iter().map(|kind| checked(kind.into())).collect();
        let source = Source {
            consumer: shared.moving.taking.consumer(name, kinds),
            address: address.clone(),
            shared: shared.clone(),
            name: name.clone(),
        };
        Self { consumer: Arc::new(source), waiting: None, kind: PhantomData }
    }

    /// The next connection that the predecessor offers. Like `accept` it is pending for ever once this process drains. It is
    /// cancel safe.
    pub async fn next(&mut self) -> Offer<S> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`next`](Self::next) for a future of your own.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Offer<S>> {
        loop {
            let Source { consumer, shared, .. } = &*self.consumer;
            if let Some(offered) = consumer.try_next() {
                self.waiting = None;
                return Poll::Ready(Offer { offered, source: self.consumer.clone(), kind: PhantomData });
            }
            if consumer.is_closed() {
                self.waiting = None;
                return poll_never(shared);
            }
            match &mut self.waiting {
                // Registered before the next look, so that no offer in between is missed.
                None => self.waiting = Some(consumer.changed().listen()),
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
        f.debug_struct("Resumed").field("listener", &self.consumer.name).finish_non_exhaustive()
    }
}

/// A connection that the predecessor offers. Look at its state, and take it. The drop of an offer refuses it: the predecessor
/// keeps the connection, and says goodbye to the client.
#[must_use = "an offer that is dropped is refused"]
pub struct Offer<S> {
    offered: Offered,
    source: Arc<Source>,
    kind: PhantomData<fn() -> S>,
}

impl<S> Offer<S> {
    /// Its kind, which is one of those that were given to `resumed`.
    pub fn kind(&self) -> &str {
        self.offered.kind()
    }

    /// The state that the predecessor gave to [`Session::state`](crate::Session::state).
    pub fn state(&self) -> &[u8] {
        self.offered.state()
    }

    /// The typed state that the predecessor gave to [`Session::of`](crate::Session::of).
    ///
    /// # Errors
    ///
    /// The state is no `T`.
    pub fn decode<T: crate::State>(&self) -> Result<T, crate::StateError> {
        self.offered.decode()
    }

    /// The address of the client of a TCP connection.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.offered.peer()
    }
}

#[allow(private_bounds, reason = "the streams of this crate have it")]
impl<S: Moved> Offer<S> {
    /// Takes the connection: from now on it is this process's. The stream gives the unread bytes first. It has the options of
    /// the listener's address, as an accepted one.
    ///
    /// # Errors
    ///
    /// The predecessor has taken the connection back, `NotConnected`. Or the kernel has no memory for its registration with the
    /// runtime, in which case the connection is lost.
    pub async fn take(mut self) -> io::Result<S> {
        let unread = self.offered.take_unread();
        let Source { address, shared, name, .. } = &*self.source;
        let counted = || shared.count_stream(name);
        // Counted before the connection is this process's: a drain that begins next waits for it.
        let _meanwhile = counted();
        let fd = self.offered.take().await.ok_or_else(taken_back)?;
        // As for a connection that was accepted, an option that the kernel refuses is no reason to close it.
        match sockets::set_stream_options(address, SockRef::from(&fd)) {
            Ok(()) | Err(_) => {}
        }
        // A registration that fails closes its descriptor. With a second one it is tried again.
        let Ok(mut spare) = fd.try_clone() else { return S::moved(fd, counted(), unread) };
        let mut next = fd;
        loop {
            match S::moved(next, counted(), unread.clone()) {
                Err(error) if sockets::is_shortage(&error) => tokio::time::sleep(SHORTAGE_PAUSE).await,
                moved => return moved,
            }
            next = spare;
            spare = match next.try_clone() {
                Ok(spare) => spare,
                Err(_) => return S::moved(next, counted(), unread),
            };
        }
    }
}

pub(crate) fn taken_back() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the predecessor has taken the connection back")
}

impl<S> fmt::Debug for Offer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Offer").field(&self.offered).finish()
    }
}
