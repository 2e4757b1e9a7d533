//! What the other platforms do not have of Linux. An address or an option that asks for it is an error and never ignored.

use std::io;
use std::net::SocketAddr;

use socket2::{SockAddr, SockRef, Socket};

use crate::base::address::Address;
use crate::sys::fd::BorrowedFd;

#[cfg(unix)]
pub(super) use file::SocketFile;

pub(super) fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{what} is not available on this platform"))
}

fn unsupported_option(option: &str) -> io::Error {
    unsupported(&format!("the option `{option}`"))
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
pub(super) fn set_reuse_port(socket: &Socket, on: bool) -> io::Result<()> {
    socket.set_reuse_port(on)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
pub(super) fn set_reuse_port(_socket: &Socket, _on: bool) -> io::Result<()> {
    Err(unsupported_option("reuse_port"))
}

/// Before the bind: an option that is missing leaves nothing behind.
pub(super) fn set_options_of_linux(_socket: &Socket, address: &Address, _at: &SockAddr) -> io::Result<()> {
    let options = address.options();
    let of_linux = [
        ("freebind", options.freebind.is_some()),
        ("device", options.device.is_some()),
        ("fastopen", options.fastopen.is_some()),
    ];
    match of_linux.iter().find(|(_, is_set)| *is_set) {
        Some((option, _)) => Err(unsupported_option(option)),
        None => Ok(()),
    }
}

/// A path gets its mode after the bind, before the socket listens.
#[expect(clippy::unnecessary_wraps, reason = "its twin sets the mode")]
pub(super) fn set_mode(_socket: &Socket, _address: &Address) -> io::Result<()> {
    Ok(())
}

pub(super) fn set_fastopen(_socket: &SockRef<'_>, _pending: u32) -> io::Result<()> {
    Err(unsupported_option("fastopen"))
}

pub(super) fn abstract_address(_name: &str) -> io::Result<SockAddr> {
    Err(unsupported("the abstract namespace"))
}

/// Only Linux is asked how many connections wait in the queue of a listener.
pub(super) fn accept_queue(_fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    None
}

/// Only Linux is asked for the peers of the connections.
pub(crate) fn peers(_ports: &[u16], _limit: usize, _except: &[SocketAddr]) -> Vec<String> {
    Vec::new()
}

#[cfg(unix)]
mod file {
    use std::fs;
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    use nix::fcntl::AT_FDCWD;
    use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};

    /// The file of a Unix path, by its name: only Linux can open a socket with O_PATH.
    pub(crate) struct SocketFile {
        path: PathBuf,
        inode: (u64, u64),
    }

    impl SocketFile {
        pub(crate) fn open(path: &Path) -> io::Result<Self> {
            let found = fs::symlink_metadata(path)?;
            Ok(Self { path: path.to_owned(), inode: (found.dev(), found.ino()) })
        }

        pub(crate) fn metadata(&self) -> io::Result<fs::Metadata> {
            fs::symlink_metadata(&self.path)
        }

        pub(crate) fn set_owner(&self, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
            self.check()?;
            std::os::unix::fs::lchown(&self.path, user, group)
        }

        /// No link is followed, even one that appears after the check.
        pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
            self.check()?;
            let mode = Mode::from_bits_truncate(mode.try_into().unwrap_or(Mode::all().bits()));
            Ok(fchmodat(AT_FDCWD, &self.path, mode, FchmodatFlags::NoFollowSymlink)?)
        }

        /// Fails if another file is at the path by now.
        fn check(&self) -> io::Result<()> {
            let now = self.metadata()?;
            if (now.dev(), now.ino()) == self.inode {
                return Ok(());
            }
            let problem = "another program has put another file there meanwhile";
            Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
        }
    }
}
