//! One connection out of the accept queue, and the errors that pass.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockFlag;
use socket2::{SockAddr, SockAddrStorage};

use super::create::backlog;
use super::queue::{is_shut_down, listen_again};
use crate::base::address::Address;

/// accept4(2) of a connection whose calls block, with the address of the peer: to ask for it later costs another call.
///
/// For a connection that died in the queue the error is `Interrupted`: the caller tries again, as accept(2) says.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    accept_with(listener, SockFlag::empty())
}

/// accept4(2) with SOCK_NONBLOCK, else as [`accept`].
pub(crate) fn accept_nonblocking(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    accept_with(listener, SockFlag::SOCK_NONBLOCK)
}

fn accept_with(listener: BorrowedFd<'_>, flags: SockFlag) -> io::Result<(OwnedFd, SockAddr)> {
    let accept = |storage: *mut SockAddrStorage, length: *mut libc::socklen_t| {
        let flags = (SockFlag::SOCK_CLOEXEC | flags).bits();
        // SAFETY: `try_init` gives room for any address, and its length.
        let result = unsafe { libc::accept4(listener.as_raw_fd(), storage.cast(), length, flags) };
        match Errno::result(result) {
            // SAFETY: accept4 has just returned this descriptor; no other code knows its number.
            Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(
                Errno::EINTR
                | Errno::ECONNABORTED
                | Errno::ENETDOWN
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH,
            ) => Err(io::ErrorKind::Interrupted.into()),
            Err(errno) => Err(errno.into()),
        }
    };
    // SAFETY: where accept4 succeeds it has set the address and its length.
    unsafe { SockAddr::try_init(accept) }
}
/// Whether an accept failed because of a shortage that passes: descriptors, memory, or the watches of epoll (ENOSPC:
/// /proc/sys/fs/epoll/max_user_watches).
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let passing = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::ENOSPC];
    error.raw_os_error().is_some_and(|errno| passing.contains(&Errno::from_raw(errno)))
}

/// Makes a listener listen again, if this error of an accept shows that another process has shut it down, shutdown(2). Returns
/// whether this was the case.
pub(crate) fn listen_if_shut_down(
    listener: BorrowedFd<'_>,
    address: &Address,
    error: &io::Error,
) -> io::Result<bool> {
    let is_shut_down = error.raw_os_error() == Some(libc::EINVAL) && is_shut_down(listener);
    if is_shut_down {
        listen_again(listener, backlog(address))?;
    }
    Ok(is_shut_down)
}
