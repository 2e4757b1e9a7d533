//! Other processes by descriptor, pidfd_open(2): the process at the other end of a socket, and the processes that have
//! a socket open. A number alone is no proof, because the number of a dead process is reused.
#![allow(unsafe_code)]

use std::fmt;
use std::fs;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};

use crate::sys::poll::is_ready;

/// A descriptor that is readable once the process is dead, pidfd_open(2).
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes any number. The descriptor that it makes is closed on exec.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let number = Errno::result(result).map_err(|errno| refused("pidfd_open", errno))? as RawFd;
    // SAFETY: the call has just made it, and no other code knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The error of a call, with its name if the system does not let this process make the call at all. The bare text,
/// `Operation not permitted`, would be taken for the error of something else.
pub(crate) fn refused(call: &str, errno: Errno) -> io::Error {
    let error = io::Error::from(errno);
    match errno {
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => {
            let text = format!(
                "{call}(2): {error}; a seccomp filter may refuse it: SystemCallFilter= of the unit, or the profile of the container"
            );
            io::Error::new(error.kind(), text)
        }
        _ => error,
    }
}

/// Fails with the name of the call, if the system does not let this process use pidfds.
pub(crate) fn check_allowed() -> io::Result<()> {
    let us = open(std::process::id())?;
    // Signal 0 only checks.
    try_signal(us.as_fd(), 0).map_err(|errno| refused("pidfd_send_signal", errno))
}

/// Whether the process of a pidfd is dead.
pub(crate) fn is_dead(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    is_ready(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    Exited(libc::c_int),
    /// The signal need not have a name.
    Killed {
        signal: libc::c_int,
        core: bool,
    },
}

impl ProcessEnd {
    /// The status in the form of a shell.
    pub(crate) fn status(self) -> i32 {
        match self {
            Self::Exited(status) => status,
            Self::Killed { signal, .. } => 128 + signal,
        }
    }
}

impl fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Killed { signal, core } => {
                let core = if core { " and dumped core" } else { "" };
                match Signal::try_from(signal) {
                    Ok(signal) => write!(f, "was killed by {signal}{core}"),
                    Err(_) => write!(f, "was killed by signal {signal}{core}"),
                }
            }
        }
    }
}

/// Whether the text of an end describes a [`ProcessEnd`] that is no success. An unknown status is not a failure.
pub(crate) fn is_failure(how: &str) -> bool {
    match how.strip_prefix("exited with status ") {
        Some(status) => status != "0",
        None => how.starts_with("was killed by "),
    }
}

/// Waits for the end of a child, waitid(2). Returns its number and how it ended, or `None` if WNOHANG finds no end. The
/// `waitid` of nix fails for a signal without a name, after it has reaped the child.
pub(crate) fn wait(
    kind: libc::idtype_t,
    id: libc::id_t,
    flags: libc::c_int,
) -> nix::Result<Option<(u32, ProcessEnd)>> {
    // SAFETY: it is a C struct of numbers and pointers, for which zeroes are valid.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    loop {
        // SAFETY: waitid takes any number, and stores its result in `info`.
        let result = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | flags) };
        match Errno::result(result) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // SAFETY: waitid has stored it, or left the zeroes where no child has ended.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let ended = match info.si_code {
        libc::CLD_EXITED => ProcessEnd::Exited(status),
        code => ProcessEnd::Killed { signal: status, core: code == libc::CLD_DUMPED },
    };
    Ok((pid != 0).then(|| (pid.unsigned_abs(), ended)))
}

/// Sends a signal, pidfd_send_signal(2). It fails only for a process that is dead or of another user.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) {
    match try_signal(pidfd, signal) {
        Ok(()) | Err(_) => {}
    }
}

/// Sends a signal, and returns the error.
pub(crate) fn try_signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> nix::Result<()> {
    // SAFETY: the descriptor is a pidfd, and a null siginfo asks for the default one.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Whether the error of `open` means that a child is dead and reaped. The kernel reaps it where SIGCHLD is ignored, and
/// so does other code here that calls waitpid(-1). Its number may be reused, so that process must not be killed.
pub(crate) fn is_reaped(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// The end of a child that was reaped so early.
pub(crate) const EXITED_AT_ONCE: &str =
    "it exited at once; its status was taken by another wait in this process";

/// A descriptor that is readable once the maker of this socket pair is dead, unix(7). `None` if the maker is dead
/// already.
///
/// It comes from SO_PEERPIDFD where the kernel has that (6.5), and otherwise from the number in SO_PEERCRED.
///
/// # Errors
///
/// The process has no number here because it is outside this PID namespace, or the system refuses a descriptor for it.
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
    match open(pid) {
        // If the other end of the pair is closed, the number may have been reused.
        Ok(pidfd) => Ok((!is_hung_up(socket)?).then_some(pidfd)),
        Err(error) if is_reaped(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_hung_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    // poll(2) reports POLLHUP unasked.
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
    // SAFETY: the kernel has just made the descriptor, closed on exec, and no other code knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The inode of a socket, which names it in /proc.
pub(crate) fn inode(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(fs::File::from(socket.try_clone_to_owned()?).metadata()?.ino())
}

/// A process that has a socket open.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

impl Holder {
    /// The process of this number, if it has the socket of this inode open. The pidfd is opened before the look, so
    /// both are of the same process.
    pub(crate) fn of(pid: u32, inode: u64) -> Option<Self> {
        let pidfd = open(pid).ok()?;
        holds(pid, inode).then_some(Self { pid, pidfd })
    }

    /// Sends SIGKILL. A dead process gets no signal.
    pub(crate) fn kill(&self) {
        signal(self.as_fd(), libc::SIGKILL);
    }
}

impl AsFd for Holder {
    /// Readable once the process is dead.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The other processes that have the socket of this inode open, as far as this user may see them.
pub(crate) fn holders(inode: u64) -> Vec<Holder> {
    let us = std::process::id();
    let numbers = fs::read_dir("/proc").into_iter().flatten();
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(|pid| *pid != us && holds(*pid, inode)).filter_map(|pid| Holder::of(pid, inode)).collect()
}

/// The inodes of the sockets that a process has open, as far as this user may see its descriptors.
#[cfg(feature = "cli")]
pub(crate) fn sockets_of(pid: u32) -> Vec<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|fd| fs::read_link(fd.path()).ok());
    let inode = |target: std::path::PathBuf| {
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    targets.filter_map(inode).collect()
}

/// Whether a process has this socket open.
pub(crate) fn holds(pid: u32, inode: u64) -> bool {
    holds_any(pid, &[inode])
}

/// Whether a process has one of these sockets open, proc_pid_fd(5), as far as this user may see its descriptors.
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

    #[test]
    fn the_maker_of_a_pair_is_watched_and_a_holder_is_found() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let maker = of_maker(ours.as_fd()).unwrap().unwrap();
        assert!(!is_dead(maker.as_fd()), "it is this process");
        let (ours, theirs) = (inode(ours.as_fd()).unwrap(), (inode(theirs.as_fd()).unwrap(), theirs));
        assert!(holds(std::process::id(), ours) && holds(std::process::id(), theirs.0));
        assert!(holders(ours).is_empty(), "no other process has it");
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
