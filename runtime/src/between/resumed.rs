//! The connections that the predecessor offers, for `net` and for `blocking`.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockRef;

use crate::base::address::Address;
use crate::between::shared::{Counted, Shared};
use crate::moving::session::{State, StateError, checked};
use crate::moving::taking::{Consumer, Offered};
use crate::outside::sockets;
use crate::sys::fd::OwnedFd;

/// Where the offers of some kinds of one listener come from.
pub(crate) struct Source {
    pub(crate) consumer: Consumer,
    pub(crate) shared: Arc<Shared>,
    name: Arc<str>,
    address: Address,
}

impl Source {
    pub(crate) fn new<K: Into<String>>(
        shared: &Arc<Shared>,
        name: &Arc<str>,
        address: &Address,
        kinds: impl IntoIterator<Item = K>,
    ) -> Arc<Self> {
        let kinds = kinds.into_iter().map(|kind| checked(kind.into())).collect();
        let consumer = shared.moving.taking.consumer(name, kinds);
        Arc::new(Self { consumer, shared: shared.clone(), name: name.clone(), address: address.clone() })
    }

    /// The next offer. It does not wait.
    pub(crate) fn try_next<S>(self: &Arc<Self>) -> Option<Offer<S>> {
        let offered = self.consumer.try_next()?;
        Some(Offer { offered, source: self.clone(), kind: PhantomData })
    }

    /// Counts a connection of the listener.
    pub(crate) fn count(&self) -> Counted {
        self.shared.count_stream(&self.name)
    }

    /// Sets the options of the listener's address, which an accepted connection would have.
    pub(crate) fn set_options(&self, fd: &OwnedFd) {
        // An accept closes no connection for an option that the kernel refuses, and neither does this.
        match sockets::set_live_options(&self.address, SockRef::from(fd)) {
            Ok(()) | Err(_) => {}
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumed").field("listener", &self.name).finish_non_exhaustive()
    }
}

/// A connection that the predecessor offers. Look at its state, and take it. The drop of an offer refuses it: the predecessor
/// keeps the connection, and says goodbye to the client.
#[must_use = "an offer that is dropped is refused"]
pub struct Offer<S> {
    pub(crate) offered: Offered,
    pub(crate) source: Arc<Source>,
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
    pub fn decode<T: State>(&self) -> Result<T, StateError> {
        self.offered.decode()
    }

    /// The address of the client of a TCP connection.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.offered.peer()
    }
}

/// The error of a `take`.
pub(crate) fn taken_back() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the predecessor has taken the connection back")
}

impl<S> fmt::Debug for Offer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Offer").field(&self.offered).finish()
    }
}
