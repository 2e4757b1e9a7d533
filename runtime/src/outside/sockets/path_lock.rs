//! Two services that start at once on one path.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::path::inode_of;

/// The right to bind the Unix paths of a directory, and to make the pid files there name another service. It is a name in the
/// abstract namespace: the kernel gives it to one socket at a time and frees it when the process ends.
///
/// Without it, two services that start at once on one path take each other for dead. A socket that is bound and does not listen yet
/// refuses a client as a stale file does. And between a look at the path and its removal the other service may bind it.
pub(crate) struct PathLock {
    _name: Option<UnixDatagram>,
}

/// How long another start may take to bind the path.
const PATH_LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts.
const PATH_LOCK_PAUSE: Duration = Duration::from_millis(1);

impl PathLock {
    /// Waits until no other process has it, for a limited time. Then the path is bound without the lock: any user can take a name,
    /// and a sandbox can refuse them all.
    pub(crate) fn take(path: &Path) -> Self {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let deadline = Instant::now() + PATH_LOCK_TIMEOUT;
        let name = inode_of(directory.unwrap_or(Path::new("."))).and_then(|(device, inode)| {
            SocketAddr::from_abstract_name(format!("tableflip-bind-{device:x}-{inode:x}"))
        });
        loop {
            match name.as_ref().map(UnixDatagram::bind_addr) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                    thread::sleep(PATH_LOCK_PAUSE);
                }
                result => return Self { _name: result.ok().and_then(Result::ok) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bind::try_bind;
    use super::*;
    use crate::base::address::Address;

    /// Any user can take the name for good, and so can a start that hangs.
    #[test]
    fn a12_a_path_is_bound_without_the_lock_that_nobody_gives_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let _taken = PathLock::take(&path);
        assert!(PathLock::take(&path)._name.is_none());
        let address: Address = format!("unix://{}", path.display()).parse().unwrap();
        assert!(try_bind("sock", &address).is_ok());
    }
}
