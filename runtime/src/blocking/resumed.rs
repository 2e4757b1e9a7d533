//! The connections that come from the predecessor.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use event_listener::{Listener, listener};

use super::stream::sealed::Moved;
use crate::between::resumed::{Offer, Source, taken_back};

/// The connections of a managed listener that come from the predecessor, made by its `resumed`: an iterator over
/// [offers](Offer), which ends once this process is replaced or stopped.
///
/// While the service has no predecessor, none come.
#[must_use = "it takes nothing until its offers are taken"]
pub struct Resumed<S> {
    source: Arc<Source>,
    kind: PhantomData<fn() -> S>,
}

impl<S> Resumed<S> {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self { source, kind: PhantomData }
    }
}

impl<S> Iterator for Resumed<S> {
    type Item = Offer<S>;

    /// Waits for the next connection that the predecessor offers.
    fn next(&mut self) -> Option<Offer<S>> {
        loop {
            // Registered before the look, so that no offer in between is missed.
            listener!(self.source.consumer.changed() => changed);
            if let Some(offer) = self.source.try_next() {
                return Some(offer);
            }
            if self.source.consumer.is_closed() {
                return None;
            }
            changed.wait();
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
            /// # Errors
            ///
            /// The predecessor has taken the connection back, `NotConnected`.
            pub fn take(mut self) -> io::Result<$stream> {
                let unread = self.offered.take_unread();
                // Counted before the connection is this process's: a drain that begins next waits for it.
                let counted = self.source.count();
                let fd = self.offered.take_blocking().ok_or_else(taken_back)?;
                self.source.set_options(&fd);
                <$stream>::moved(fd, counted, unread)
            }
        }
    };
}

take!(super::TcpStream);
#[cfg(unix)]
take!(super::UnixStream);
