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

/// Whether a connection has failed, or has ended in both directions, without taking the error from it.
#[cfg(upgrades)]
pub(crate) fn is_broken(socket: &(impl AsFd + ?Sized)) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    // poll(2) reports POLLERR and POLLHUP unasked.
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    crate::sys::poll::is_ready(&mut fds, PollTimeout::ZERO).unwrap_or(true)
}

/// Nothing moves.
#[cfg(not(upgrades))]
pub(crate) fn is_broken(_socket: &(impl AsFd + ?Sized)) -> bool {
    true
}
