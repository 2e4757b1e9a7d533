//! The descriptor of a socket: an `OwnedFd` on Unix, an `OwnedSocket` on Windows. Code for both platforms calls it
//! `OwnedFd`.

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
