//! The accept queue of a listener: its length, and a listener that another process has shut down, shutdown(2).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt;
use socket2::SockRef;

/// TCP_INFO of a listener, whose `tcpi_unacked` is the length of its accept queue and `tcpi_sacked` the backlog.
pub(super) fn accept_queue(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    // SAFETY: `tcp_info` is a C struct of numbers, for which zeroes are values.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointers describe `info` and its length, which live through the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).ok()?;
    Some((info.tcpi_unacked, info.tcpi_sacked))
}

/// Whether a TCP listener has stopped listening. A Unix listener does not show it, and cannot listen again.
pub(super) fn is_shut_down(listener: BorrowedFd<'_>) -> bool {
    nix::sys::socket::getsockopt(&listener, sockopt::AcceptConn).is_ok_and(|listens| !listens)
}

/// listen(2) on a listener that was shut down. It is first disconnected, connect(2) with AF_UNSPEC: otherwise the connections that
/// it accepts would be shut down as well.
pub(super) fn listen_again(listener: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: `sockaddr` is a C struct of numbers, for which zeroes are values.
    let mut nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    nowhere.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let length = size_of_val(&nowhere) as libc::socklen_t;
    // SAFETY: the pointer describes `nowhere`, which lives through the call.
    Errno::result(unsafe { libc::connect(listener.as_raw_fd(), &raw const nowhere, length) })?;
    SockRef::from(&listener).listen(backlog)
}
