//! What this platform calls a descriptor of a socket: an `OwnedFd` on Unix, an `OwnedSocket` on Windows. The code that
//! is the same on both calls it an `OwnedFd`.

#[cfg(unix)]
pub(crate) use std::os::fd::{BorrowedFd, OwnedFd};
#[cfg(windows)]
pub(crate) use std::os::windows::io::{BorrowedSocket as BorrowedFd, OwnedSocket as OwnedFd};

pub(crate) fn borrow(fd: &OwnedFd) -> BorrowedFd<'_> {
    #[cfg(unix)]
    return std::os::fd::AsFd::as_fd(fd);
    #[cfg(windows)]
    return std::os::windows::io::AsSocket::as_socket(fd);
}
