//! What Linux has for sockets, and the other platforms do not.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname, sockopt};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, SockRef, Socket};

use super::sockopt::set_bytes;
use crate::base::address::Address;
use crate::sys::fd::BorrowedFd;

pub(super) use super::queue::accept_queue;

pub(super) fn set_reuse_port(socket: &Socket, on: bool) -> io::Result<()> {
    socket.set_reuse_port(on)
}

/// The options of an address that no other platform has.
pub(super) fn set_options_of_linux(socket: &Socket, address: &Address, at: &SockAddr) -> io::Result<()> {
    let options = address.options();
    if let Some(on) = options.freebind {
        if at.domain() == Domain::IPV6 { socket.set_freebind_v6(on)? } else { socket.set_freebind_v4(on)? }
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    Ok(())
}

/// The path gets this mode, less the umask, as it appears: a user whom the mode keeps out has no moment to connect.
pub(super) fn set_mode(socket: &Socket, address: &Address) -> io::Result<()> {
    match address.options().mode {
        Some(mode) => Ok(fchmod(socket, Mode::from_bits_truncate(mode))?),
        None => Ok(()),
    }
}

pub(super) fn set_fastopen(socket: &SockRef<'_>, pending: u32) -> io::Result<()> {
    let pending = libc::c_int::try_from(pending).unwrap_or(libc::c_int::MAX);
    set_bytes(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &pending.to_ne_bytes())
}

/// The address of a name in the abstract namespace, unix(7).
pub(super) fn abstract_address(name: &str) -> io::Result<SockAddr> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(name.as_bytes());
    SockAddr::unix(OsStr::from_bytes(&bytes))
}

/// SO_ACCEPTCONN.
pub(super) fn listens(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(nix::sys::socket::getsockopt(&fd, sockopt::AcceptConn)?)
}

/// The file of a Unix path, open with O_PATH. What is done to it is done to no other file: in a directory that other users may
/// write to, the path can be another file at any moment, or a link to one.
///
/// While it is open, a file system such as ext4 does not give its inode number to the next file.
pub(super) struct SocketFile(fs::File);

impl SocketFile {
    /// Of a symbolic link the link.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        Ok(Self(fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }

    pub(super) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.0.metadata()
    }

    pub(super) fn set_owner(&self, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
        std::os::unix::fs::chown(self.link(), user, group)
    }

    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(self.link(), fs::Permissions::from_mode(mode))
    }

    /// A descriptor with O_PATH is changed through this link, open(2).
    fn link(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// The peers of the connections of this process to one of its own `ports`, at most `limit` of them, without `except`.
///
/// This asks the system, so that the process keeps no list while connections come and go.
pub(crate) fn peers(ports: &[u16], limit: usize, except: &[SocketAddr]) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let peer = |number: i32| {
        // A number that is closed meanwhile, or no socket, has neither name.
        let local = to_ip(&getsockname::<SockaddrStorage>(number).ok()?)?;
        ports.contains(&local.port()).then_some(())?;
        let peer = to_ip(&getpeername::<SockaddrStorage>(number).ok()?)?;
        (!except.contains(&peer)).then_some(peer)
    };
    // A connection may have two descriptors, and its peer is one.
    let peers: BTreeSet<_> = numbers.filter_map(peer).collect();
    peers.iter().take(limit).map(ToString::to_string).collect()
}

fn to_ip(name: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = name.as_sockaddr_in().map(|name| SocketAddr::V4((*name).into()));
    v4.or_else(|| name.as_sockaddr_in6().map(|name| SocketAddr::V6((*name).into())))
}
