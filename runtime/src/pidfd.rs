//! Other processes of the service, by descriptor, pidfd_open(2): the one at the other end of a socket, and those that hold a
//! socket open. A number alone is no proof: a process that is dead may have given it to another.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{getsockopt, sockopt};

use crate::poll::is_ready;
use crate::spawn::{is_reaped, pidfd_open, pidfd_send_signal};

/// A descriptor that is readable once the process is dead that has made this socket pair, unix(7); `None` if it is dead already.
///
/// By SO_PEERPIDFD where the kernel has it (6.5), and by the number in SO_PEERCRED elsewhere.
///
/// # Errors
///
/// The process has no number here, as one outside of this PID namespace, or the system refuses a descriptor for it.
pub(crate) fn of_maker(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match peer_pidfd(socket) {
        Ok(pidfd) => return Ok(Some(pidfd)),
        Err(Errno::ESRCH) => return Ok(None),
        Err(_) => {}
    }
    let pid = getsockopt(&socket, sockopt::PeerCredentials)?.pid();
    let Some(pid) = u32::try_from(pid).ok().filter(|pid| *pid != 0) else {
        return Err(io::Error::other("it has no number in this PID namespace"));
    };
    match pidfd_open(pid) {
        // The number may be another process's by now, if the end of the pair is closed.
        Ok(pidfd) => Ok((!is_hung_up(socket)?).then_some(pidfd)),
        Err(error) if is_reaped(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_hung_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    // POLLHUP is said unasked.
    Ok(is_ready(&mut [PollFd::new(socket, PollFlags::empty())], PollTimeout::ZERO)?)
}

fn peer_pidfd(socket: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let mut number: MaybeUninit<RawFd> = MaybeUninit::uninit();
    let mut length = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: the kernel stores at most `length` bytes at the pointer, and how many it stored in `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            number.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    // SAFETY: the call succeeded, and stored a number.
    let number = unsafe { number.assume_init() };
    // SAFETY: the kernel has just made the descriptor, closed on exec; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The inode of a socket, by which /proc names it.
pub(crate) fn inode(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(fs::File::from(socket.try_clone_to_owned()?).metadata()?.ino())
}

/// A process that holds a socket open.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

impl Holder {
    /// The process of this number, if it holds the socket of this inode. The descriptor is taken before the look, so that
    /// what was seen is true of the process that it stands for.
    pub(crate) fn of(pid: u32, inode: u64) -> Option<Self> {
        let pidfd = pidfd_open(pid).ok()?;
        holds(pid, inode).then_some(Self { pid, pidfd })
    }

    /// SIGKILL. To a process that is dead already it does nothing.
    pub(crate) fn kill(&self) {
        pidfd_send_signal(self.as_fd(), libc::SIGKILL);
    }
}

impl AsFd for Holder {
    /// Readable once the process is dead.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The other processes that hold the socket of this inode open, as far as this user may see them.
pub(crate) fn holders(inode: u64) -> Vec<Holder> {
    let us = std::process::id();
    let numbers = fs::read_dir("/proc").into_iter().flatten();
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(|pid| *pid != us && holds(*pid, inode)).filter_map(|pid| Holder::of(pid, inode)).collect()
}

/// Whether a process has this socket among its descriptors.
pub(crate) fn holds(pid: u32, inode: u64) -> bool {
    holds_any(pid, &[inode])
}

/// Whether a process has one of these sockets among its descriptors, proc_pid_fd(5), as far as this user may see them.
pub(crate) fn holds_any(pid: u32, inodes: &[u64]) -> bool {
    let links: Vec<_> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = descriptors.filter_map(|fd| fs::read_link(fd.path()).ok());
    targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::spawn::is_dead;

    #[test]
    fn the_maker_of_a_pair_is_watched_and_a_holder_is_found() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let maker = of_maker(ours.as_fd()).unwrap().unwrap();
        assert!(!is_dead(maker.as_fd()), "it is this process");
        let (ours, theirs) = (inode(ours.as_fd()).unwrap(), (inode(theirs.as_fd()).unwrap(), theirs));
        assert!(holds(std::process::id(), ours) && holds(std::process::id(), theirs.0));
        assert!(holders(ours).is_empty(), "nobody else has it");
        let mut other =
            Command::new("sleep").arg("1000").stdin(Stdio::from(OwnedFd::from(theirs.1))).spawn().unwrap();
        let found: Vec<_> = holders(theirs.0);
        assert_eq!(found.iter().map(|it| it.pid).collect::<Vec<_>>(), [other.id()]);
        assert!(Holder::of(other.id(), ours).is_none(), "it holds one end alone");
        found[0].kill();
        other.wait().unwrap();
        assert!(holders(theirs.0).is_empty() && Holder::of(other.id(), theirs.0).is_none());
    }
}
