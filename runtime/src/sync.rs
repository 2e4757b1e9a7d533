//! What threads and tasks wait for here: a value that is set once, and a question that is asked again and again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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

    /// The value, if it is set within this time.
    pub(crate) fn wait_for(&self, time: Duration) -> Option<&T> {
        listener!(self.changed => changed);
        if self.get().is_none() {
            changed.wait_timeout(time);
        }
        self.get()
    }

    /// What is notified when the value is set, for a future that keeps its place in the queue between polls.
    pub(crate) fn changed(&self) -> &Event {
        &self.changed
    }
}

/// A question that is asked again and again, of one who may be there to take it.
#[derive(Debug)]
pub(crate) struct Pulse {
    is_taken_by_somebody: AtomicBool,
    asked: AtomicBool,
    changed: Event,
}

impl Pulse {
    pub(crate) const fn new() -> Self {
        let [is_taken_by_somebody, asked] = [const { AtomicBool::new(false) }; 2];
        Self { is_taken_by_somebody, asked, changed: Event::new() }
    }

    /// Asks it. Returns whether there is somebody who takes it, sooner or later.
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no service manager"))]
    pub(crate) fn ask(&self) -> bool {
        self.asked.store(true, Ordering::SeqCst);
        self.changed.notify(usize::MAX);
        self.is_taken_by_somebody.load(Ordering::SeqCst)
    }

    /// Waits for it to be asked, and takes it.
    #[cfg(feature = "tokio")]
    pub(crate) async fn taken(&self) {
        self.is_taken_by_somebody.store(true, Ordering::SeqCst);
        loop {
            listener!(self.changed => changed);
            if self.asked.swap(false, Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }
}
