//! poll(2) with a deadline.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};

/// The longest timeout of one poll(2).
const LONGEST: Duration = Duration::from_secs(3600);

/// Waits until one of `fds` is ready or the deadline has passed. `None` is no deadline. A signal does not end the wait:
/// what a signal asks for wakes the engine by its eventfd.
pub(crate) fn until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ready = match poll(fds, left.map_or(PollTimeout::NONE, timeout)) {
            Err(Errno::EINTR) => 0,
            ready => ready?,
        };
        if ready > 0 || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(());
        }
    }
}

/// Rounded up: a wait that ends just before the deadline would make the last millisecond a spin.
fn timeout(left: Duration) -> PollTimeout {
    let millis = left.min(LONGEST).as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::os::fd::AsFd;

    use nix::libc;
    use nix::poll::PollFlags;

    use super::*;
    use crate::sys::fault;
    use crate::sys::wake::Wake;

    /// On x86_64 the poll of libc is this system call.
    #[test]
    fn b16_a_signal_does_not_cut_a_wait_short() {
        let wake = Wake::new().unwrap();
        let waited = |errno| {
            let (begin, time) = (Instant::now(), Duration::from_millis(100));
            let result = fault::failing(libc::SYS_poll, errno, || {
                let mut fds = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
                until(&mut fds, Some(begin + time))
            });
            (result.map_err(|error| error.raw_os_error()), begin.elapsed() >= time)
        };
        assert_eq!(waited(Errno::EINTR), (Ok(()), true));
        assert_eq!(waited(Errno::ENOMEM), (Err(Some(libc::ENOMEM)), false));
    }

    #[test]
    fn b16_a_wait_of_any_length_has_a_timeout() {
        for (left, millis) in [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2)] {
            assert_eq!(timeout(Duration::from_nanos(left)).as_millis(), Some(millis));
        }
        assert_eq!(timeout(Duration::MAX).as_millis(), Some(3_600_000));
    }
}
