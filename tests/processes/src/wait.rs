//! Waits, each with a deadline.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a test waits for an event. It is long, because only a test that fails waits for an event that does not happen.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Looks again and again until `look` finds something: for a change that causes no event. `None` after `limit`.
pub fn find_within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = look();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        thread::sleep(PAUSE);
    }
}

/// [`find_within`] the [`DEADLINE`].
///
/// # Panics
///
/// `look` finds nothing in that time.
#[track_caller]
pub fn find<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    match find_within(DEADLINE, look) {
        Some(found) => found,
        None => panic!("there was no {what} within {DEADLINE:?}"),
    }
}

/// Looks again and again until `is_so`.
///
/// # Panics
///
/// It is not so within the [`DEADLINE`].
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let is_so = find_within(DEADLINE, || is_so().then_some(()));
    assert!(is_so.is_some(), "not within {DEADLINE:?}: {what}");
}

/// Waits until a descriptor can be read, or its other side has ended. `false` after `limit`.
///
/// # Errors
///
/// Those of poll(2), but for EINTR.
pub fn is_readable_within(limit: Duration, fd: impl AsFd) -> io::Result<bool> {
    is_ready_within(limit, fd, PollFlags::IN)
}

/// The same for writing.
///
/// # Errors
///
/// Those of poll(2), but for EINTR.
pub fn is_writable_within(limit: Duration, fd: impl AsFd) -> io::Result<bool> {
    is_ready_within(limit, fd, PollFlags::OUT)
}

fn is_ready_within(limit: Duration, fd: impl AsFd, events: PollFlags) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&fd, events)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_look_that_finds_nothing_ends_at_the_limit() {
        let mut looks = 0;
        let found = find_within(Duration::ZERO, || {
            looks += 1;
            None::<()>
        });
        assert!(found.is_none() && looks > 0);
        assert_eq!(find_within(Duration::ZERO, || Some(7)), Some(7));
    }

    #[test]
    fn a_socket_is_readable_when_its_other_side_has_ended() {
        let (reader, writer) = UnixStream::pair().expect("two sockets");
        assert!(!is_readable_within(Duration::ZERO, &reader).expect("poll"));
        assert!(is_writable_within(Duration::ZERO, &writer).expect("poll"));
        drop(writer);
        assert!(is_readable_within(DEADLINE, &reader).expect("poll"), "the end is there to be read");
    }
}
