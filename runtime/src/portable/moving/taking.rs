//! Connections do not move on this platform: a consumer waits until this process drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_listener::Event;

use crate::moving::session::{State, StateError};
use crate::sys::fd::OwnedFd;

#[derive(Debug, Default)]
pub(crate) struct Taking {
    changed: Event,
    is_closed: AtomicBool,
}

/// There is no predecessor that offers a connection.
#[derive(Debug)]
pub(crate) enum Offered {}

#[derive(Debug)]
pub(crate) struct Consumer {
    taking: Arc<Taking>,
}

impl Taking {
    pub(crate) fn consumer(self: &Arc<Self>, _listener: &str, _kinds: Vec<String>) -> Consumer {
        Consumer { taking: self.clone() }
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.changed.notify(usize::MAX);
    }

    pub(crate) fn end(&self) {
        self.close();
    }
}

impl Consumer {
    #[expect(clippy::unused_self, reason = "its twin has offers")]
    pub(crate) fn try_next(&self) -> Option<Offered> {
        None
    }

    pub(crate) fn changed(&self) -> &Event {
        &self.taking.changed
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.taking.is_closed.load(Ordering::SeqCst)
    }
}

impl Offered {
    pub(crate) fn kind(&self) -> &str {
        match *self {}
    }

    pub(crate) fn state(&self) -> &[u8] {
        match *self {}
    }

    pub(crate) fn decode<T: State>(&self) -> Result<T, StateError> {
        match *self {}
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match *self {}
    }

    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        match *self {}
    }

    #[cfg(feature = "tokio")]
    #[expect(clippy::unused_async, reason = "its twin waits for the predecessor")]
    pub(crate) async fn take(self) -> Option<OwnedFd> {
        match self {}
    }

    pub(crate) fn take_blocking(self) -> Option<OwnedFd> {
        match self {}
    }
}
