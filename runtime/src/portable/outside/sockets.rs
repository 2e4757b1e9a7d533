//! Listening and datagram sockets: bind, options, unlink. What an address asks for and this platform does not have is
//! an error and never ignored.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::base::address::{Address, Host, Kind, Place};
use crate::base::error::{StartError, UpgradeError};
use crate::base::report::{Who, complain};
use crate::base::unadopted::Entry;
use crate::sys::fd::OwnedFd;

/// Our default of the backlog, which each system caps.
const BACKLOG: i32 = 4096;

/// A socket that this process holds until it drains, apart from what its body takes.
#[derive(Clone, Debug)]
pub(crate) struct BoundSocket {
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) fd: Arc<OwnedFd>,
    /// It was bound here: always.
    pub(crate) created: bool,
    /// Device and inode of the Unix path, as it was bound.
    #[cfg(unix)]
    inode: Option<(u64, u64)>,
}

impl BoundSocket {
    fn new(name: &str, address: &Address, socket: impl Into<OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            address: address.clone(),
            fd: Arc::new(socket.into()),
            created: true,
            #[cfg(unix)]
            inode: address.path().map(path::inode_of).transpose()?,
        })
    }

    /// The port it is bound to, for an IP socket.
    pub(crate) fn port(&self) -> Option<u16> {
        Some(SockRef::from(&self.fd).local_addr().ok()?.as_socket()?.port())
    }

    /// No system but Linux is asked how many connections wait in its queue.
    #[expect(clippy::unused_self, reason = "its twin has a queue to look at")]
    pub(crate) fn queue(&self) -> Option<(u32, u32)> {
        None
    }

    /// A descriptor of its own for the body.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Removes its path, unless the file there is not the one that was bound.
    #[cfg(unix)]
    pub(crate) fn unlink(&self) -> io::Result<()> {
        match (self.address.path(), self.inode) {
            (Some(path), Some(inode)) => path::unlink(path, inode),
            _ => Ok(()),
        }
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "its twin has a path to remove")]
    pub(crate) fn unlink(&self) -> io::Result<()> {
        Ok(())
    }

    /// Removes its path as the service ends, or lets go of it.
    pub(crate) fn remove(&self, who: Who) {
        if let Err(error) = self.unlink() {
            complain!(who, "cannot remove {}: {error}", self.address.identity());
        }
    }
}

/// Binds `address`; its kind listens from now on, if it is of those that do.
pub(crate) fn bind(name: &str, address: &Address) -> Result<BoundSocket, StartError> {
    let failed = |action| failed(name, address, action);
    let socket = match address.place() {
        Place::Ip { host, port } => {
            let candidates = resolve(host, *port).map_err(failed("resolve"))?;
            bind_first(address, &candidates).map_err(failed("bind"))?
        }
        #[cfg(unix)]
        Place::Path(at) => path::bind(address, at.as_ref()).map_err(failed("bind"))?,
        place => return Err(failed("bind")(unsupported(place_of(place)))),
    };
    let held = BoundSocket::new(name, address, socket).map_err(failed("look at"))?;
    set_up(&held).map_err(|error| match held.unlink() {
        Ok(()) | Err(_) => failed("set up")(error),
    })?;
    Ok(held)
}

fn failed(
    name: &str,
    address: &Address,
    action: &'static str,
) -> impl FnOnce(io::Error) -> StartError + use<> {
    let (listener, address) = (name.to_owned(), Box::new(address.clone()));
    move |source| StartError::Bind { listener, address, action, source }
}

fn place_of(place: &Place) -> &'static str {
    match place {
        Place::Abstract(_) => "the abstract namespace",
        _ => "a Unix path",
    }
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{what} is not available on this platform"))
}

fn resolve(host: &Host, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(match host {
        Host::V4(ip) => vec![(*ip, port).into()],
        Host::V6(ip) => vec![(*ip, port).into()],
        Host::Name(name) => (name.as_str(), port).to_socket_addrs()?.collect(),
    })
}

/// The first of the addresses of a name that can be bound, as std and tokio do.
fn bind_first(address: &Address, candidates: &[SocketAddr]) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for candidate in candidates {
        match bind_one(address, &(*candidate).into()) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// socket(2) and bind(2), with the options that must be set before it.
fn bind_one(address: &Address, at: &SockAddr) -> io::Result<Socket> {
    // socket2 makes it close-on-exec.
    let socket = Socket::new(at.domain(), socket_type(address.kind()), None)?;
    socket.set_nonblocking(true)?;
    let options = address.options();
    // On Windows it would let two processes listen on one port.
    #[cfg(unix)]
    if address.kind() == Kind::Tcp {
        // Connections in TIME_WAIT would keep the port from a service that was stopped and is started again.
        socket.set_reuse_address(true)?;
    }
    if let Some(on) = options.reuse_port {
        set_reuse_port(&socket, on)?;
    }
    if let (Some(on), true) = (options.v6only, at.domain() == Domain::IPV6) {
        socket.set_only_v6(on)?;
    }
    let of_linux = [
        ("freebind", options.freebind.is_some()),
        ("device", options.device.is_some()),
        ("fastopen", options.fastopen.is_some()),
    ];
    if let Some((option, _)) = of_linux.iter().find(|(_, set)| *set) {
        return Err(unsupported(&format!("the option `{option}`")));
    }
    socket.bind(at)?;
    Ok(socket)
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
fn set_reuse_port(socket: &Socket, on: bool) -> io::Result<()> {
    socket.set_reuse_port(on)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
fn set_reuse_port(_socket: &Socket, _on: bool) -> io::Result<()> {
    Err(unsupported("the option `reuse_port`"))
}

/// What is done to a socket once it is bound; the permissions of a path come before anybody can connect.
fn set_up(held: &BoundSocket) -> io::Result<()> {
    let (address, socket) = (&held.address, SockRef::from(&*held.fd));
    let options = address.options();
    if let Some(bytes) = options.recv_buffer {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    if let Some(on) = options.nodelay {
        socket.set_tcp_nodelay(on)?;
    }
    if let Some(on) = options.keepalive {
        socket.set_keepalive(on)?;
    }
    #[cfg(unix)]
    if let Some(path) = address.path() {
        path::set_permissions(address, path)?;
    }
    if address.kind().is_listening() {
        let backlog = options.backlog.map_or(BACKLOG, |n| i32::try_from(n).unwrap_or(i32::MAX));
        socket.listen(backlog)?;
    }
    Ok(())
}

fn socket_type(kind: Kind) -> Type {
    match kind {
        Kind::Tcp | Kind::Unix => Type::STREAM,
        Kind::Udp | Kind::UnixDatagram => Type::DGRAM,
        Kind::UnixSeqpacket => Type::SEQPACKET,
    }
}

/// Takes a socket that the service itself has made and bound to `address`.
pub(crate) fn receive(name: &str, address: &Address, fd: OwnedFd) -> Result<BoundSocket, StartError> {
    let problem = |problem: String| StartError::Listener { listener: name.to_owned(), problem };
    let system = |error: io::Error| problem(format!("cannot set up the socket that was made: {error}"));
    let held = BoundSocket::new(name, address, fd).map_err(system)?;
    let socket = SockRef::from(&*held.fd);
    if socket.r#type().map_err(system)? != socket_type(address.kind()) {
        return Err(problem(format!("the socket that was made for {address} is of another type")));
    }
    let bound = socket.local_addr().map_err(system)?;
    let same = match address.place() {
        Place::Ip { port, .. } => bound.as_socket().is_some_and(|bound| *port == 0 || *port == bound.port()),
        #[cfg(unix)]
        Place::Path(path) => bound.as_pathname() == Some(path.as_ref()),
        _ => false,
    };
    if !same {
        return Err(problem(format!("the socket that was made for {address} is bound elsewhere")));
    }
    socket.set_nonblocking(true).map_err(system)?;
    set_up(&held).map_err(system)?;
    Ok(held)
}

/// There is no predecessor that offers a socket.
pub(crate) fn adopt(_address: &Address, entry: Entry, _fd: OwnedFd) -> Result<BoundSocket, StartError> {
    let problem = UpgradeError::Unsupported.to_string();
    Err(StartError::Listener { listener: entry.name, problem })
}

/// Removes the paths that a start which failed has created.
pub(crate) fn forget(held: &[BoundSocket], who: Who) {
    held.iter().for_each(|held| held.remove(who));
}

/// Whether an accept failed for a connection that died in the queue: it is passed over.
pub(crate) fn died_in_queue(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::Interrupted
            | K::ConnectionAborted
            | K::ConnectionReset
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
    )
}

/// EMFILE, ENFILE, ENOBUFS and ENOMEM; WSAEMFILE and WSAENOBUFS.
#[cfg(unix)]
const PASSING: [i32; 4] = [nix::libc::EMFILE, nix::libc::ENFILE, nix::libc::ENOBUFS, nix::libc::ENOMEM];
#[cfg(windows)]
const PASSING: [i32; 2] = [10024, 10055];

/// Whether an accept has failed for want of something that others may give back.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| PASSING.contains(&code))
}

/// No other system is asked for the peers of its connections.
pub(crate) fn peers(_ports: &[u16], _limit: usize) -> Vec<String> {
    Vec::new()
}

/// Unix paths.
#[cfg(unix)]
mod path {
    use std::fs;
    use std::io;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use std::path::Path;

    use nix::unistd::{Group, User};
    use socket2::{Domain, SockAddr, Socket};

    use super::{bind_one, socket_type};
    use crate::base::address::Address;

    pub(super) fn inode_of(path: &Path) -> io::Result<(u64, u64)> {
        let metadata = fs::symlink_metadata(path)?;
        Ok((metadata.dev(), metadata.ino()))
    }

    pub(super) fn unlink(path: &Path, inode: (u64, u64)) -> io::Result<()> {
        match inode_of(path) {
            Ok(now) if now == inode => fs::remove_file(path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Binds a path. One that a dead process left is replaced; one that somebody serves is never taken.
    pub(super) fn bind(address: &Address, path: &Path) -> io::Result<Socket> {
        let at = SockAddr::unix(path)?;
        match bind_one(address, &at) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
        let in_use = |what: &str| io::Error::new(io::ErrorKind::AddrInUse, what.to_owned());
        let stale = inode_of(path)?;
        if !fs::symlink_metadata(path)?.file_type().is_socket() {
            return Err(in_use("a file that is not a socket is there"));
        }
        let probe = Socket::new(Domain::UNIX, socket_type(address.kind()), None)?;
        probe.set_nonblocking(true)?;
        match probe.connect(&at) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            // A full backlog, or a socket of another type: somebody is behind it.
            Ok(()) | Err(_) => return Err(in_use("another process serves it")),
        }
        if inode_of(path)? == stale {
            fs::remove_file(path)?;
        }
        bind_one(address, &at)
    }

    pub(super) fn set_permissions(address: &Address, path: &Path) -> io::Result<()> {
        let options = address.options();
        let unknown =
            |what, name| io::Error::new(io::ErrorKind::NotFound, format!("there is no {what} `{name}`"));
        if options.user.is_some() || options.group.is_some() {
            let user = options.user.as_deref().map(|name| match name.parse() {
                Ok(uid) => Ok(uid),
                Err(_) => User::from_name(name)?.map(|u| u.uid.as_raw()).ok_or_else(|| unknown("user", name)),
            });
            let group = options.group.as_deref().map(|name| match name.parse() {
                Ok(gid) => Ok(gid),
                Err(_) => {
                    Group::from_name(name)?.map(|g| g.gid.as_raw()).ok_or_else(|| unknown("group", name))
                }
            });
            std::os::unix::fs::lchown(path, user.transpose()?, group.transpose()?)?;
        }
        if let Some(mode) = options.mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }
}
