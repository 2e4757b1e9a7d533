//! What wakes the engine: a flag and a condition.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) struct Wake {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    #[expect(clippy::unnecessary_wraps, reason = "its twin makes a descriptor")]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { woken: Mutex::new(false), changed: Condvar::new() })
    }

    /// Makes the engine look.
    pub(crate) fn wake(&self) {
        *self.woken() = true;
        self.changed.notify_one();
    }

    /// Waits until somebody has called [`wake`](Self::wake) or the deadline has passed, and forgets the calls so far.
    /// What they announced must be looked at after this.
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        let mut woken = self.woken();
        while !*woken {
            woken = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(woken).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    self.changed.wait_timeout(woken, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *woken = false;
    }

    /// Forgets the wake-ups so far. What they announced must be looked at after this.
    pub(crate) fn clear(&self) {
        *self.woken() = false;
    }

    fn woken(&self) -> MutexGuard<'_, bool> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
