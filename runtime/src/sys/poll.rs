//! poll(2) with a deadline.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};

/// Waits until one of `fds` is ready, the deadline has passed or a signal came. `None` is no deadline.
pub(crate) fn until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let timeout = match deadline {
        None => PollTimeout::NONE,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: a wait that ends just before the deadline would make the last millisecond a spin.
            let millis = left.as_nanos().div_ceil(1_000_000);
            let longest = Duration::from_secs(3600).as_millis();
            PollTimeout::try_from(i32::try_from(millis.min(longest)).unwrap_or(i32::MAX))
                .unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether one of `fds` is ready, within this time. A signal does not end the wait.
pub(crate) fn is_ready(fds: &mut [PollFd<'_>], timeout: impl Into<PollTimeout>) -> nix::Result<bool> {
    let timeout = timeout.into();
    loop {
        match poll(fds, timeout) {
            Err(Errno::EINTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}
