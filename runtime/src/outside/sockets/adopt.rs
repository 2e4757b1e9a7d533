//! Takes a socket that was bound elsewhere: verifies that it is what an address asks for, and sets it up.

#[cfg(upgrades)]
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
#[cfg(upgrades)]
use std::os::fd::AsFd;
#[cfg(unix)]
use std::path::Path;

#[cfg(upgrades)]
use socket2::Type;
use socket2::{SockAddr, SockRef};

#[cfg(upgrades)]
use super::bind::resolve;
use super::bind::scope_id;
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
#[cfg(upgrades)]
use crate::base::unadopted::Unadopted;
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

/// The sockets of one address, which can be written in several ways: `localhost:80` and `127.0.0.1:80`, `/var/run/x` and
/// `/run/x`, port 0 and the port that the kernel has chosen for it.
#[cfg(upgrades)]
pub(crate) struct SameAddress<'a> {
    address: &'a Address,
    /// The addresses of a name.
    resolved: Vec<SocketAddr>,
}

#[cfg(upgrades)]
impl<'a> SameAddress<'a> {
    /// This may resolve a name, which can take long.
    pub(crate) fn of(address: &'a Address) -> Self {
        let resolved = match address.place() {
            // A name that does not resolve is an error of the bind.
            Place::Ip { host: host @ Host::Name(_), port } => resolve(host, *port).unwrap_or_default(),
            _ => Vec::new(),
        };
        Self { address, resolved }
    }

    /// The place of the socket that has this address in another spelling.
    ///
    /// Any number of sockets may have a port that the kernel chose, so for port 0 the name must match, and the port was
    /// chosen.
    pub(crate) fn find(&self, unadopted: &VecDeque<Unadopted>, name: &str) -> Option<usize> {
        let is_any = matches!(self.address.place(), Place::Ip { port: 0, .. });
        // What the predecessor says of a socket must fit too, not only what the socket is.
        let says_kind = |it: &Unadopted| {
            it.entry.address.parse::<Address>().is_ok_and(|said| said.kind() == self.address.kind())
        };
        let fits = |it: &&Unadopted| {
            says_kind(it) && (!is_any || it.entry.name == name && it.entry.address.ends_with(":0"))
        };
        let is_one = |it: &Unadopted| {
            Some(it).filter(fits).is_some_and(|it| it.source.place().is_some() && self.is_of(it.fd.as_fd()))
        };
        // The name decides where several addresses of a host have a socket.
        let named = unadopted.iter().position(|it| it.entry.name == name && is_one(it));
        named.or_else(|| unadopted.iter().position(is_one))
    }

    fn is_of(&self, fd: BorrowedFd<'_>) -> bool {
        if verify(self.address, fd).is_err() {
            return false;
        }
        match self.address.place() {
            Place::Ip { host: Host::Name(_), .. } => {
                let bound = SockRef::from(&fd).local_addr().ok().and_then(|bound| bound.as_socket());
                bound.is_some_and(|bound| {
                    self.resolved.iter().any(|at| at.ip().to_canonical() == bound.ip().to_canonical())
                })
            }
            _ => true,
        }
    }
}

/// Whether a socket that is bound to `bound` serves `address`.
fn is_at(bound: &SockAddr, address: &Address) -> bool {
    match address.place() {
        Place::Ip { host, port } => bound.as_socket().is_some_and(|bound| {
            let same_host = match host {
                // `::ffff:127.0.0.1` is 127.0.0.1 on the network.
                Host::V4(ip) => bound.ip().to_canonical() == *ip,
                Host::V6(ip) => bound.ip().to_canonical() == ip.to_canonical(),
                Host::V6Scoped { ip, scope } => {
                    let scope = scope_id(scope).ok();
                    matches!(bound, SocketAddr::V6(at) if at.ip() == ip && scope == Some(at.scope_id()))
                }
                // The addresses of a name may have changed since the bind.
                Host::Name(_) => true,
            };
            same_host && (*port == 0 || bound.port() == *port)
        }),
        #[cfg(unix)]
        Place::Path(path) => bound.as_pathname().is_some_and(|bound| is_same_path(bound, Path::new(path))),
        #[cfg(unix)]
        Place::Abstract(name) => bound.as_abstract_namespace() == Some(name.as_bytes()),
        #[cfg(not(unix))]
        _ => false,
    }
}

/// Whether two paths are one, or lead to one file: `/var/run` is a link to `/run`.
#[cfg(unix)]
fn is_same_path(bound: &Path, path: &Path) -> bool {
    let inode = |path: &Path| inode_of(path).ok();
    bound == path || inode(bound).is_some_and(|bound| inode(path) == Some(bound))
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

/// The identity of a bound socket, as in an offer. `None` if it has no address of that form.
#[cfg(upgrades)]
pub(crate) fn describe_socket(socket: SockRef<'_>) -> Option<String> {
    let bound = socket.local_addr().ok()?;
    let (ip, unix) = match socket.r#type().ok()? {
        Type::STREAM => ("tcp", "unix"),
        Type::DGRAM => ("udp", "unix-dgram"),
        Type::SEQPACKET => ("", "unix-seqpacket"),
        _ => return None,
    };
    let text = match (bound.as_socket(), bound.as_pathname(), bound.as_abstract_namespace()) {
        (Some(at), ..) => format!("{ip}://{at}"),
        (_, Some(path), _) => format!("{unix}://{}", path.to_str()?),
        (_, _, Some(name)) => format!("{unix}:@{}", std::str::from_utf8(name).ok()?),
        _ => return None,
    };
    Some(text.parse::<Address>().ok()?.identity())
}
