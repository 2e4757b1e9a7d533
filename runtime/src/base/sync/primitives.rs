//! The primitives of [`sync`](super), of the gate and of the count in [`Shared`](crate::between::shared::Shared). They
//! are std's. For `models.rs` they are loom's, which tries every order of their steps.

#[cfg(not(all(test, loom)))]
mod of {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize};
    pub(crate) use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub(crate) use std::thread::sleep;
    use std::time::Instant;

    pub(crate) fn now() -> Instant {
        Instant::now()
    }
}

#[cfg(all(test, loom))]
mod of {
    use std::cell::Cell;
    use std::ops::{Deref, DerefMut};
    use std::sync::atomic::Ordering;
    use std::sync::{LazyLock, LockResult, TryLockError, TryLockResult};
    use std::time::{Duration, Instant};

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize};
    use loom::sync::{Condvar, Mutex};

    /// The `OnceLock` of std. A thread sees the value only after it has seen that the value is set.
    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        value: std::sync::OnceLock<T>,
        is_set: AtomicBool,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self { value: std::sync::OnceLock::new(), is_set: AtomicBool::new(false) }
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            self.value.set(value)?;
            self.is_set.store(true, Ordering::Release);
            Ok(())
        }

        pub(crate) fn get(&self) -> Option<&T> {
            self.value.get().filter(|_| self.is_set.load(Ordering::Acquire))
        }
    }

    /// The `RwLock` of std. The `try_write` of loom's own would wait for readers.
    pub(crate) struct RwLock<T> {
        value: std::sync::RwLock<T>,
        /// The number of readers inside, or [`WRITER`].
        inside: Mutex<usize>,
        left: Condvar,
    }

    const WRITER: usize = usize::MAX;

    pub(crate) struct RwLockReadGuard<'a, T>(Option<std::sync::RwLockReadGuard<'a, T>>, &'a RwLock<T>);
    pub(crate) struct RwLockWriteGuard<'a, T>(Option<std::sync::RwLockWriteGuard<'a, T>>, &'a RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self { value: std::sync::RwLock::new(value), inside: Mutex::new(0), left: Condvar::new() }
        }

        pub(crate) fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
            let mut inside = self.inside.lock().unwrap();
            while *inside == WRITER {
                inside = self.left.wait(inside).unwrap();
            }
            *inside += 1;
            Ok(RwLockReadGuard(Some(self.value.try_read().unwrap()), self))
        }

        pub(crate) fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
            let mut inside = self.inside.lock().unwrap();
            while *inside > 0 {
                inside = self.left.wait(inside).unwrap();
            }
            *inside = WRITER;
            Ok(RwLockWriteGuard(Some(self.value.try_write().unwrap()), self))
        }

        pub(crate) fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
            let mut inside = self.inside.lock().unwrap();
            if *inside > 0 {
                return Err(TryLockError::WouldBlock);
            }
            *inside = WRITER;
            Ok(RwLockWriteGuard(Some(self.value.try_write().unwrap()), self))
        }
    }

    impl<T> Drop for RwLockReadGuard<'_, T> {
        fn drop(&mut self) {
            let mut inside = self.1.inside.lock().unwrap();
            self.0.take();
            *inside -= 1;
            self.1.left.notify_all();
        }
    }

    impl<T> Drop for RwLockWriteGuard<'_, T> {
        fn drop(&mut self) {
            let mut inside = self.1.inside.lock().unwrap();
            self.0.take();
            *inside = 0;
            self.1.left.notify_all();
        }
    }

    impl<T> Deref for RwLockReadGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> Deref for RwLockWriteGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for RwLockWriteGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    /// A model has no time. Each sleep of a thread advances the clock of that thread alone.
    const SLEEP: Duration = Duration::from_millis(5);

    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

    loom::thread_local! {
        static SLEPT: Cell<Duration> = Cell::new(Duration::ZERO);
    }

    pub(crate) fn now() -> Instant {
        *BEGINNING + SLEPT.with(Cell::get)
    }

    pub(crate) fn sleep(_: Duration) {
        SLEPT.with(|slept| slept.set(slept.get() + SLEEP));
        loom::thread::yield_now();
    }
}

pub(crate) use of::*;
