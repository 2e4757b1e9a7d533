//! The descriptor of a socket: an `OwnedFd` on Unix, an `OwnedSocket` on Windows. Code for both platforms calls it
//! `OwnedFd`.

#[cfg(unix)]
pub(crate) use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(windows)]
pub(crate) use std::os::windows::io::{
    AsSocket as AsFd, BorrowedSocket as BorrowedFd, OwnedSocket as OwnedFd,
};

pub(crate) fn borrow(socket: &(impl AsFd + ?Sized)) -> BorrowedFd<'_> {
    #[cfg(unix)]
    return socket.as_fd();
    #[cfg(windows)]
    return socket.as_socket();
}
