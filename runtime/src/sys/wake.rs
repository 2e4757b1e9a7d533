//! What wakes the engine from its poll: an eventfd.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sys::poll;

/// The eventfd that a signal handler writes to; -1 before the process has an engine.
static OF_SIGNALS: AtomicI32 = AtomicI32::new(-1);

pub(crate) struct Wake(EventFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes the engine look.
    pub(crate) fn wake(&self) {
        // The one possible error is a full counter, and then the engine is awake already.
        match self.0.write(1) {
            Ok(_) | Err(_) => {}
        }
    }

    /// Waits for a call of [`wake`](Self::wake) or for the deadline.
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        match poll::until(&mut fds, deadline) {
            Ok(()) | Err(_) => {}
        }
    }

    /// Forgets the wake-ups so far. The caller looks afterwards at what they announced.
    pub(crate) fn clear(&self) {
        match self.0.read() {
            Ok(_) | Err(_) => {}
        }
    }

    /// From now on a signal wakes this engine. A signal that came before has been counted: the engine looks at the counts before
    /// it first sleeps.
    pub(crate) fn on_signals(&self) -> io::Result<()> {
        // A duplicate that is never closed: a handler may run until the last instruction.
        let of_signals = self.as_fd().try_clone_to_owned()?.into_raw_fd();
        OF_SIGNALS.store(of_signals, Ordering::SeqCst);
        Ok(())
    }
}

impl AsFd for Wake {
    /// Readable after a call of [`wake`](Self::wake).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Wakes the engine from a signal handler, in which signal-safety(7) allows atomics, errno and write(2).
pub(crate) fn from_handler() {
    let of_signals = OF_SIGNALS.load(Ordering::SeqCst);
    if of_signals < 0 {
        return;
    }
    let before = Errno::last_raw();
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the buffer is eight bytes long, as an eventfd wants it, and the descriptor is never closed. An error
    // can only mean that the counter is full, which wakes as well.
    let _: isize = unsafe { libc::write(of_signals, one.as_ptr().cast(), one.len()) };
    Errno::set_raw(before);
}
