//! The one thing that threads and tasks wait for here: a value that is set once.

use std::sync::OnceLock;

use event_listener::{Event, Listener, listener};

/// A value that is set once and can be waited for by any number of tasks and threads.
#[derive(Debug)]
pub(crate) struct Latch<T> {
    value: OnceLock<T>,
    changed: Event,
}

impl<T> Latch<T> {
    pub(crate) const fn new() -> Self {
        Self { value: OnceLock::new(), changed: Event::new() }
    }

    /// Sets the value and wakes everybody; a latch that is set stays as it is.
    pub(crate) fn set(&self, value: T) {
        if self.value.set(value).is_ok() {
            self.changed.notify(usize::MAX);
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get()
    }

    pub(crate) async fn wait(&self) -> &T {
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            // Registered before the second look, so that a value set in between is not missed.
            listener!(self.changed => changed);
            if let Some(value) = self.get() {
                return value;
            }
            changed.await;
        }
    }

    pub(crate) fn wait_blocking(&self) -> &T {
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            listener!(self.changed => changed);
            if let Some(value) = self.get() {
                return value;
            }
            changed.wait();
        }
    }

    /// What is notified when the value is set, for a future that keeps its place in the queue between polls.
    pub(crate) fn changed(&self) -> &Event {
        &self.changed
    }
}
