//! One connection out of the accept queue, and the errors that pass.

use std::io;

use socket2::{SockAddr, SockRef};

use crate::base::address::Address;
use crate::sys::fd::{BorrowedFd, OwnedFd};

/// accept(2) of a connection whose calls block.
///
/// For a connection that died in the queue the error is `Interrupted`: the caller tries again.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    // socket2 makes it close-on-exec.
    let (stream, peer) = SockRef::from(&listener).accept().map_err(passed_over)?;
    // Some systems make it like the listener.
    stream.set_nonblocking(false)?;
    Ok((stream.into(), peer))
}

/// An error of an accept; `Interrupted` for a connection that died in the queue.
pub(crate) fn passed_over(error: io::Error) -> io::Error {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionAborted
        | K::ConnectionReset
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown => K::Interrupted.into(),
        _ => error,
    }
}

/// EMFILE, ENFILE, ENOBUFS and ENOMEM; WSAEMFILE and WSAENOBUFS.
#[cfg(unix)]
const PASSING: [i32; 4] = [nix::libc::EMFILE, nix::libc::ENFILE, nix::libc::ENOBUFS, nix::libc::ENOMEM];
#[cfg(windows)]
const PASSING: [i32; 2] = [10024, 10055];

/// Whether an accept failed because of a shortage that passes.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| PASSING.contains(&code))
}

/// No other process has the listener, so none shuts it down.
#[expect(clippy::unnecessary_wraps, reason = "its twin may fail to listen again")]
pub(crate) fn listen_if_shut_down(
    _listener: BorrowedFd<'_>,
    _address: &Address,
    _error: &io::Error,
) -> io::Result<bool> {
    Ok(false)
}
