//! A future that waits between two calls of a `poll_` method.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

/// The future of one `poll_` method of one handle. It must be cancel safe: it is dropped with the handle.
///
/// A method that has only a `Context` cannot keep a place in the queues of the gate and of tokio by itself. This keeps
/// it, and wakes the task of the last call.
pub(super) struct Kept<T> {
    future: Mutex<Option<Pin<Box<dyn Future<Output = T> + Send>>>>,
}

impl<T> Kept<T> {
    /// Polls the future that an earlier call has left pending, else the one that `make` makes.
    pub(super) fn poll<F>(&self, cx: &mut Context<'_>, make: impl FnOnce() -> F) -> Poll<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut kept = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        let done = ready!(kept.get_or_insert_with(|| Box::pin(make())).as_mut().poll(cx));
        *kept = None;
        Poll::Ready(done)
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { future: Mutex::new(None) }
    }
}

/// Another handle waits by itself.
impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}
