//! Takes a socket that was bound elsewhere: verifies that it is what an address asks for, and sets it up.

use std::io;
#[cfg(unix)]
use std::path::Path;

use socket2::{SockAddr, SockRef};

use super::bound::BoundSocket;
use super::create::{socket_type, try_live_options};
#[cfg(unix)]
use super::path::inode_of;
#[cfg(upgrades)]
use super::platform;
use crate::base::address::{Address, Host, Place};
use crate::base::error::StartError;
use crate::base::report::printable;
use crate::base::unadopted::Entry;
use crate::sys::fd::{self, BorrowedFd, OwnedFd};

/// Adopts the socket that arrived with `entry`.
pub(crate) fn adopt(address: &Address, entry: Entry, fd: OwnedFd) -> Result<BoundSocket, StartError> {
    let socket = adopt_socket(printable(&entry.name), address, fd, "inherited")?;
    Ok(BoundSocket {
        inode: entry.inode,
        created: false,
        #[cfg(upgrades)]
        activated: entry.activated,
        ..socket
    })
}

/// Takes a socket that the service itself has made and bound to `address`.
pub(crate) fn receive(name: &str, address: &Address, fd: OwnedFd) -> Result<BoundSocket, StartError> {
    let socket = adopt_socket(name.to_owned(), address, fd, "made")?;
    #[cfg(unix)]
    let socket = BoundSocket { inode: address.path().and_then(|path| inode_of(path).ok()), ..socket };
    Ok(socket)
}

pub(crate) fn adopt_socket(
    name: String,
    address: &Address,
    fd: OwnedFd,
    how: &str,
) -> Result<BoundSocket, StartError> {
    let problem = |problem: String| StartError::Listener { listener: name.clone(), problem };
    verify(address, fd::borrow(&fd))
        .map_err(|what| problem(format!("the socket that was {how} for {address} {what}")))?;
    let system = |error: io::Error| problem(format!("cannot set up the socket that was {how}: {error}"));
    let socket = SockRef::from(&fd);
    socket.set_nonblocking(true).map_err(system)?;
    try_live_options(address, socket).map_err(system)?;
    #[cfg_attr(upgrades, expect(unused_mut, reason = "the take-over sets the options"))]
    let mut socket = BoundSocket { tuned: false, ..BoundSocket::new(name.clone(), address, fd) };
    // No other process serves with it, and there is no take-over.
    #[cfg(not(upgrades))]
    socket.tune().map_err(system)?;
    Ok(socket)
}

/// Compares a socket with the address that it should be bound to. The error is the difference in words.
pub(crate) fn verify(address: &Address, fd: BorrowedFd<'_>) -> Result<(), String> {
    let socket = SockRef::from(&fd);
    let cannot = |error: io::Error| format!("cannot be looked at: {error}");
    let found = socket.r#type().map_err(cannot)?;
    if found != socket_type(address.kind()) {
        return Err(format!("is of another type (SO_TYPE {found:?})"));
    }
    #[cfg(upgrades)]
    {
        let listens = platform::listens(fd).map_err(cannot)?;
        if listens != address.kind().is_listening() {
            return Err(if listens { "listens" } else { "does not listen (SO_ACCEPTCONN)" }.to_owned());
        }
    }
    let bound = socket.local_addr().map_err(cannot)?;
    if is_at(&bound, address) {
        Ok(())
    } else {
        Err(format!("is bound elsewhere (getsockname {})", describe(&bound)))
    }
}

/// Whether a socket that is bound to `bound` serves `address`.
fn is_at(bound: &SockAddr, address: &Address) -> bool {
    match address.place() {
        Place::Ip { host, port } => bound.as_socket().is_some_and(|bound| {
            let same_host = match host {
                Host::V4(ip) => bound.ip() == *ip,
                Host::V6(ip) => bound.ip() == *ip,
                // The addresses of a name may have changed since the bind.
                Host::Name(_) => true,
            };
            same_host && (*port == 0 || bound.port() == *port)
        }),
        #[cfg(unix)]
        Place::Path(path) => bound.as_pathname() == Some(Path::new(path)),
        #[cfg(unix)]
        Place::Abstract(name) => bound.as_abstract_namespace() == Some(name.as_bytes()),
        #[cfg(not(unix))]
        _ => false,
    }
}

fn describe(bound: &SockAddr) -> String {
    if let Some(ip) = bound.as_socket() {
        return ip.to_string();
    }
    #[cfg(unix)]
    if let Some(path) = bound.as_pathname() {
        return printable(&path.display().to_string());
    }
    format!("{bound:?}")
}
