//! The descriptors that this process was started with, by the numbers that variables of the environment name.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

/// The numbers that are taken so far. A process has one of these, and each number is taken once: of two owners the first to close
/// the number would close the descriptor that the other has under it by then.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    taken: Vec<(RawFd, &'static str)>,
}

impl Numbers {
    /// Takes the descriptor of this number, which `variable` names, if it is open and `is_wanted` accepts it. Otherwise the error is
    /// the reason in words, and the descriptor stays as it was.
    ///
    /// Must be called before this process opens a descriptor, which could get the number.
    pub(crate) fn take(
        &mut self,
        variable: &'static str,
        number: RawFd,
        is_wanted: impl FnOnce(BorrowedFd<'_>) -> Result<(), String>,
    ) -> Result<OwnedFd, String> {
        if let Some((_, other)) = self.taken.iter().find(|(taken, _)| *taken == number) {
            return Err(format!(
                "descriptor {number} is that of `{other}`; each variable has one of its own"
            ));
        }
        let closed = |errno: Errno| format!("no such descriptor: {}", io::Error::from(errno));
        // The three standard streams have other owners in this process.
        if number <= libc::STDERR_FILENO {
            return Err(closed(Errno::EBADF));
        }
        // SAFETY: fcntl with F_GETFD takes any number, and says EBADF if it is not open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        Errno::result(flags).map_err(closed)?;
        // SAFETY: it is open, and nothing closes it while this function looks at it.
        is_wanted(unsafe { BorrowedFd::borrow_raw(number) })?;
        // SAFETY: fcntl with F_SETFD takes any number.
        let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        Errno::result(result).map_err(closed)?;
        self.taken.push((number, variable));
        // SAFETY: it is open, and this runs before any other code of the process could have opened it: it came
        // through exec, and this is the first time that the number is taken.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

/// Closes the descriptor of this number at an exec, if it is open.
pub(crate) fn close_on_exec(number: RawFd) {
    if number > libc::STDERR_FILENO {
        // SAFETY: fcntl with F_SETFD takes any number, and says EBADF if it is not open. The flag changes nothing for other code
        // of this process.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn a11_each_number_is_taken_once() {
        let number = File::open("/dev/null").unwrap().into_raw_fd();
        let mut numbers = Numbers::default();
        let refused = numbers.take("FIRST", number, |_| Err("of another kind".to_owned()));
        assert_eq!(refused.unwrap_err(), "of another kind");
        // The refusal leaves the descriptor open and without an owner.
        let taken = numbers.take("SECOND", number, |fd| {
            fd.try_clone_to_owned().map(drop).map_err(|error| error.to_string())
        });
        let taken = taken.unwrap();
        assert_eq!(taken.as_raw_fd(), number);
        let again = numbers.take("THIRD", number, |_| panic!("it is not looked at")).unwrap_err();
        assert!(again.contains(&format!("descriptor {number} is that of `SECOND`")), "{again}");
        for number in [-1, 0, 1, 2, 70_000, RawFd::MAX] {
            let error = numbers.take("FOURTH", number, |_| panic!("it is not looked at")).unwrap_err();
            assert!(error.starts_with("no such descriptor: "), "{number}: {error}");
        }
    }
}
