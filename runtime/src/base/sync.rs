//! Two ways to wait, for threads and for tasks: a value that is set once, and a question that is asked repeatedly.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::{Event, Listener, listener};

pub(crate) mod primitives;

use primitives::{AtomicBool, OnceLock};

/// Locks a mutex, also after the panic of a thread that had it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that is set once. Any number of tasks and threads can wait for it.
#[derive(Debug)]
pub(crate) struct Latch<T> {
    value: OnceLock<T>,
    changed: Event,
}

impl<T> Latch<T> {
    pub(crate) fn new() -> Self {
        Self { value: OnceLock::new(), changed: Event::new() }
    }

    /// Sets the value and wakes every waiter. A value that is set stays.
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
            // The listener is registered before the second look, so it misses no value set in between.
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

    /// The event of the change, for a future that keeps its place in the queue between polls.
    pub(crate) fn changed(&self) -> &Event {
        &self.changed
    }
}

/// A question that is asked repeatedly. There may be a task that takes it.
#[derive(Debug)]
pub(crate) struct Pulse {
    has_taker: AtomicBool,
    asked: AtomicBool,
    changed: Event,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let [has_taker, asked] = [(); 2].map(|()| AtomicBool::new(false));
        Self { has_taker, asked, changed: Event::new() }
    }

    /// Asks the question. Returns whether a task takes it, now or later.
    pub(crate) fn ask(&self) -> bool {
        // A swap and not a store: loom cannot order a store after the last swap in `taken`.
        self.asked.swap(true, Ordering::SeqCst);
        self.changed.notify(usize::MAX);
        self.has_taker.load(Ordering::SeqCst)
    }

    /// From now on a task will take the question.
    #[cfg(feature = "tokio")]
    pub(crate) fn expect_taker(&self) {
        self.has_taker.store(true, Ordering::SeqCst);
    }

    /// Waits for the question and takes it.
    #[cfg(any(feature = "tokio", test))]
    pub(crate) async fn taken(&self) {
        self.has_taker.store(true, Ordering::SeqCst);
        loop {
            listener!(self.changed => changed);
            if self.asked.swap(false, Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::{Arc, mpsc};
    use std::task::{Context, Poll, Waker};
    use std::thread;

    use super::*;

    #[test]
    fn a_latch_keeps_the_first_value() {
        let latch = Latch::new();
        assert_eq!((latch.get(), latch.wait_for(Duration::ZERO)), (None, None));
        latch.set(7);
        latch.set(8);
        assert_eq!((latch.get(), latch.wait_for(Duration::ZERO)), (Some(&7), Some(&7)));
        assert_eq!(latch.wait_blocking(), &7);
    }

    /// A wait with a limit of one hour ends as soon as the value is set.
    #[test]
    fn a_wait_with_a_limit_ends_when_the_latch_is_set() {
        let latch = Arc::new(Latch::new());
        let (say, said) = mpsc::channel();
        let waiter = latch.clone();
        thread::spawn(move || say.send(waiter.wait_for(Duration::from_secs(3600)).copied()));
        latch.set(7);
        assert_eq!(said.recv_timeout(Duration::from_secs(60)), Ok(Some(7)));
        // The value is set by now: this wait does not sleep.
        let begun = std::time::Instant::now();
        assert_eq!(latch.wait_for(Duration::from_secs(3600)), Some(&7));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_pulse_knows_whether_it_is_taken() {
        let pulse = Pulse::new();
        let mut context = Context::from_waker(Waker::noop());
        assert!(!pulse.ask());
        assert_eq!(pin!(pulse.taken()).poll(&mut context), Poll::Ready(()));
        let mut taken = pin!(pulse.taken());
        assert_eq!(taken.as_mut().poll(&mut context), Poll::Pending);
        assert!(pulse.ask());
        assert_eq!(taken.as_mut().poll(&mut context), Poll::Ready(()));
    }
}
