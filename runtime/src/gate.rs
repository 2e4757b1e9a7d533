//! What stands between a managed listener and its body: it opens, closes and gives up the descriptor, from the
//! engine's thread, whatever the body's runtime is doing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::thread;
use std::time::Instant;

use event_listener::Event;

use crate::shared::Shared;

/// The side of a [`Gate`] that the engine sees.
pub(crate) trait Door: Send + Sync {
    /// The name of the listener.
    fn name(&self) -> &str;
    /// Hands out connections.
    fn open(&self);
    /// Stops handing out connections. Returns true once no thread is inside an accept, and false if one still is
    /// at the deadline: somebody has cleared O_NONBLOCK on the shared description.
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "only an upgrade pauses"))]
    fn close(&self, deadline: Instant) -> bool;
    /// Closes for good and lets go of the body's descriptor, unless a thread is inside until the deadline.
    fn retire(&self, deadline: Instant);
    /// Whether the body has asked for its first connection.
    fn asked(&self) -> bool;
}

/// The body's descriptor of a listener, of type `T`, behind a gate.
///
/// Every accept holds the lock for reading; it lasts as long as one system call that does not block. Closing takes
/// it for writing and therefore returns only when nobody is inside.
pub(crate) struct Gate<T> {
    name: String,
    shared: Arc<Shared>,
    inner: RwLock<Inner<T>>,
    /// Notified at every change.
    changed: Event,
    asked: AtomicBool,
}

struct Inner<T> {
    open: bool,
    /// `None` once it is retired.
    io: Option<Arc<T>>,
}

/// How a gate stands.
pub(crate) enum Passage<T> {
    Open(Arc<T>),
    Closed,
    Retired,
}

impl<T: Send + Sync> Gate<T> {
    /// A new gate is closed.
    pub(crate) fn new(name: String, shared: Arc<Shared>, io: Arc<T>) -> Self {
        let inner = RwLock::new(Inner { open: false, io: Some(io) });
        Self { name, shared, inner, changed: Event::new(), asked: AtomicBool::new(false) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn changed(&self) -> &Event {
        &self.changed
    }

    /// Notes that the body asks for a connection; the first time it may make the service ready.
    pub(crate) fn ask(&self) {
        if !self.asked.load(Ordering::Relaxed) && !self.asked.swap(true, Ordering::AcqRel) {
            self.shared.wake();
        }
    }

    pub(crate) fn passage(&self) -> Passage<T> {
        let inner = self.read();
        match &inner.io {
            Some(io) if inner.open => Passage::Open(io.clone()),
            Some(_) => Passage::Closed,
            None => Passage::Retired,
        }
    }

    /// The body's descriptor, open or not.
    pub(crate) fn io(&self) -> Option<Arc<T>> {
        self.read().io.clone()
    }

    /// Runs `f`, which must not block, on the descriptor if the gate is open, and keeps it open meanwhile.
    pub(crate) fn pass<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        let inner = self.read();
        inner.io.as_ref().filter(|_| inner.open).map(|io| f(io))
    }

    // A panic inside leaves nothing half done, so a poisoned lock is as good as any.
    fn read(&self) -> RwLockReadGuard<'_, Inner<T>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<T>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_by(&self, deadline: Instant) -> Option<RwLockWriteGuard<'_, Inner<T>>> {
        loop {
            match self.inner.try_write() {
                Ok(inner) => return Some(inner),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                // One system call that does not block is all there is to wait for.
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
    }
}

impl<T: Send + Sync> Door for Gate<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&self) {
        self.write().open = true;
        self.changed.notify(usize::MAX);
    }

    fn close(&self, deadline: Instant) -> bool {
        let Some(mut inner) = self.write_by(deadline) else { return false };
        inner.open = false;
        drop(inner);
        self.changed.notify(usize::MAX);
        true
    }

    fn retire(&self, deadline: Instant) {
        let Some(mut inner) = self.write_by(deadline) else { return };
        inner.open = false;
        let io = inner.io.take();
        drop(inner);
        // Outside the lock: letting go of it may deregister it from epoll and close it.
        drop(io);
        self.changed.notify(usize::MAX);
    }

    fn asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}
