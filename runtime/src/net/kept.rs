//! A future that waits between two calls of a `poll_` method.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use crate::between::gate::Waiting;

/// The future of one `poll_` method of one handle. It must be cancel safe: it is dropped with the handle, and when the
/// gate is retired.
///
/// A method that has only a `Context` cannot keep a place in the queues of the gate and of tokio by itself. This keeps
/// it, and wakes the task of the last call.
pub(super) struct Kept<T> {
    wait: Arc<Wait<T>>,
}

struct Wait<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    waker: Option<Waker>,
    /// The gate ends this wait when it is retired.
    is_known: bool,
}

impl<T: 'static> Kept<T> {
    /// Polls the future that an earlier call has left pending, else the one that `make` makes. Before the first poll
    /// `tell` gets the wait, for a gate that is to end it.
    pub(super) fn poll<F>(
        &self,
        cx: &mut Context<'_>,
        tell: impl FnOnce(Weak<dyn Waiting>),
        make: impl FnOnce() -> F,
    ) -> Poll<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut inner = self.wait.lock();
        if !inner.is_known {
            inner.is_known = true;
            let wait: Weak<Wait<T>> = Arc::downgrade(&self.wait);
            tell(wait);
        }
        inner.waker = Some(cx.waker().clone());
        let done = ready!(inner.future.get_or_insert_with(|| Box::pin(make())).as_mut().poll(cx));
        inner.future = None;
        inner.waker = None;
        Poll::Ready(done)
    }
}

impl<T> Wait<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Waiting for Wait<T> {
    fn end(&self) {
        let mut inner = self.lock();
        let (future, waker) = (inner.future.take(), inner.waker.take());
        drop(inner);
        // Outside the lock: both are code of others.
        drop(future);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        let inner = Inner { future: None, waker: None, is_known: false };
        Self { wait: Arc::new(Wait { inner: Mutex::new(inner) }) }
    }
}

/// Another handle waits by itself.
impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}
