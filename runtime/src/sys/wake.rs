//! What wakes the engine from its poll: an eventfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sys::poll;

pub(crate) struct Wake(EventFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes the engine look.
    pub(crate) fn wake(&self) {
        // The one error there can be is a counter that is full, and then the engine is awake already.
        match self.0.write(1) {
            Ok(_) | Err(_) => {}
        }
    }

    /// Waits until somebody has called [`wake`](Self::wake) or the deadline has passed.
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        match poll::until(&mut fds, deadline) {
            Ok(()) | Err(_) => {}
        }
    }

    /// Forgets the wake-ups so far. What they announced must be looked at after this.
    pub(crate) fn clear(&self) {
        match self.0.read() {
            Ok(_) | Err(_) => {}
        }
    }
}

impl AsFd for Wake {
    /// Readable once somebody has called [`wake`](Self::wake). A signal handler writes to a duplicate of it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
