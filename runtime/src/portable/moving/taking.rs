//! Connections do not move on this platform: a consumer waits until this process drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_listener::Event;

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
    listener: String,
}

impl Taking {
    pub(crate) fn consumer(self: &Arc<Self>, listener: &str, _kinds: Vec<String>) -> Consumer {
        Consumer { taking: self.clone(), listener: listener.to_owned() }
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.changed.notify(usize::MAX);
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

    pub(crate) fn listener(&self) -> &str {
        &self.listener
    }
}

impl Offered {
    #[cfg(feature = "tokio")]
    pub(crate) async fn take(self) -> Option<OwnedFd> {
        match self {}
    }

    pub(crate) fn take_blocking(self) -> Option<OwnedFd> {
        match self {}
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match *self {}
    }
}
