//! Draining, as the body sees it: [`Shutdown`] and the guards that are waited for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use event_listener::EventListener;

use crate::shared::{Counted, Shared};

/// A future that resolves when this process is to finish: a successor serves and has passed its probation, or the
/// service was told to stop.
///
/// It is `Clone`, so every task can have one, and it is what `axum::serve(..).with_graceful_shutdown(..)` and its
/// kind take. [`wait`](Self::wait) is for threads.
///
/// Whoever awaits it is taken to be written for it: from then on a drain waits for the body to return, up to
/// `drain_timeout`. A body that never awaits it is dropped as soon as no stream and no [guard](Self::guard) is left;
/// and the streams and guards that a body leaves behind when it returns are waited for all the same.
#[derive(Debug)]
pub struct Shutdown {
    shared: Arc<Shared>,
    place: Option<EventListener>,
}

impl Shutdown {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, place: None }
    }

    /// Whether it has been raised.
    pub fn is_raised(&self) -> bool {
        self.shared.shutdown.get().is_some()
    }

    /// Blocks the thread until it is raised.
    pub fn wait(&self) {
        self.shared.awaited.store(true, Ordering::Release);
        self.shared.shutdown.wait_blocking();
    }

    /// Makes a drain wait, up to `drain_timeout`, until the guard is dropped.
    ///
    /// A managed stream has one of its own; this is for work that outlives its stream or has none.
    #[must_use = "a guard that is dropped at once guards nothing"]
    pub fn guard(&self) -> Guard {
        Guard { counted: Arc::new(self.shared.count()) }
    }

    #[cfg(feature = "http")]
    pub(crate) fn handed_over(&self) -> bool {
        self.shared.handed_over()
    }

    #[cfg(feature = "http")]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// How long a drain may take.
    pub fn drain_timeout(&self) -> Duration {
        self.shared.drain_timeout
    }
}

impl Clone for Shutdown {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shared.awaited.store(true, Ordering::Release);
        loop {
            if this.is_raised() {
                this.place = None;
                return Poll::Ready(());
            }
            match &mut this.place {
                // Registered before the next look, so that nothing is missed in between.
                None => this.place = Some(this.shared.shutdown.changed().listen()),
                Some(place) => {
                    ready!(Pin::new(place).poll(cx));
                    this.place = None;
                }
            }
        }
    }
}

/// Something that a drain waits for until it, and every clone of it, is dropped; made by [`Shutdown::guard`].
#[derive(Clone, Debug)]
pub struct Guard {
    #[expect(dead_code, reason = "it is held to be dropped")]
    counted: Arc<Counted>,
}

impl Guard {
    pub(crate) fn of(counted: Arc<Counted>) -> Self {
        Self { counted }
    }
}
