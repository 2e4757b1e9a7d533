//! What wakes the engine: a flag and a condition.
#![cfg_attr(unix, allow(unsafe_code))]

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) use of_signals::from_handler;

#[derive(Clone)]
pub(crate) struct Wake(Arc<State>);

struct State {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    #[expect(clippy::unnecessary_wraps, reason = "its twin makes a descriptor")]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(State { woken: Mutex::new(false), changed: Condvar::new() })))
    }

    /// Makes the engine look.
    pub(crate) fn wake(&self) {
        *self.woken() = true;
        self.0.changed.notify_one();
    }

    /// Waits for a call of [`wake`](Self::wake) or for the deadline, and forgets the calls so far. The caller looks
    /// afterwards at what they announced.
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        let mut woken = self.woken();
        while !*woken {
            woken = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.0.changed.wait(woken).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    self.0.changed.wait_timeout(woken, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *woken = false;
    }

    /// Forgets the wake-ups so far. The caller looks afterwards at what they announced.
    pub(crate) fn clear(&self) {
        *self.woken() = false;
    }

    /// From now on a signal wakes this engine. The engine looks at the counts of the signals before it first sleeps.
    pub(crate) fn on_signals(&self) -> io::Result<()> {
        of_signals::set(self.clone())
    }

    fn woken(&self) -> MutexGuard<'_, bool> {
        self.0.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A signal handler may take no lock. It writes a byte to a pair of sockets, and a thread at the other end wakes the engine.
#[cfg(unix)]
mod of_signals {
    use std::io::{self, Read};
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicI32, Ordering};
    use std::thread;

    use nix::errno::Errno;
    use nix::libc;

    /// The end of the pair that the handlers write to, never closed; -1 before the process has an engine.
    static WRITE_END: AtomicI32 = AtomicI32::new(-1);

    pub(super) fn set(engine: super::Wake) -> io::Result<()> {
        // std makes them close-on-exec. A handler must not block; a byte that does not fit is not needed.
        let (mut read_end, write_end) = UnixStream::pair()?;
        write_end.set_nonblocking(true)?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut bytes = [0; 64];
            loop {
                match read_end.read(&mut bytes) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // The other end is never closed.
                    Ok(0) | Err(_) => return,
                    Ok(_) => engine.wake(),
                }
            }
        })?;
        WRITE_END.store(write_end.into_raw_fd(), Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn from_handler() {
        let write_end = WRITE_END.load(Ordering::SeqCst);
        if write_end < 0 {
            return;
        }
        let before = Errno::last_raw();
        let byte = 0_u8;
        // SAFETY: the buffer is one byte long, and the descriptor is never closed. An error can only mean that the buffer of
        // the socket is full, and then the thread is awake already.
        let _: isize = unsafe { libc::write(write_end, (&raw const byte).cast(), 1) };
        Errno::set_raw(before);
    }
}

/// Windows calls the handler of Ctrl-C on a thread of its own, which may take a lock.
#[cfg(windows)]
mod of_signals {
    use std::io;
    use std::sync::{Mutex, PoisonError};

    static ENGINE: Mutex<Option<super::Wake>> = Mutex::new(None);

    #[expect(clippy::unnecessary_wraps, reason = "its twin starts a thread")]
    pub(super) fn set(engine: super::Wake) -> io::Result<()> {
        *ENGINE.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine);
        Ok(())
    }

    pub(crate) fn from_handler() {
        if let Some(engine) = &*ENGINE.lock().unwrap_or_else(PoisonError::into_inner) {
            engine.wake();
        }
    }
}
