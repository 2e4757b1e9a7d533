//! One process, by its pidfd: a number that belongs to another process by now is never signalled.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, kill_process, kill_process_group, pidfd_open,
    pidfd_send_signal, set_child_subreaper, waitid,
};

use crate::wait::is_readable_within;

/// From now on a process whose parent is dead becomes a child of this one. So this process learns the exit status of every
/// generation, and none stays a zombie under an init that does not reap.
///
/// # Errors
///
/// Those of prctl(2).
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// The process that a pid file names.
///
/// # Errors
///
/// The file cannot be read, or has no number in it: that is [`ErrorKind::InvalidData`].
pub fn pidfile(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read the pid file {}: {error}", path.display()))
    })?;
    text.trim().parse().map_err(|_| {
        io::Error::new(ErrorKind::InvalidData, format!("the pid file says {text:?}, which is no PID"))
    })
}

/// Sends a signal to a process by its number: to a child that this process has not reaped, whose number is its own.
///
/// # Errors
///
/// Those of kill(2).
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(kill_process(number(pid)?, signal)?)
}

/// Sends a signal to every process of a group, by the number of its first process. A group without a process is no error.
///
/// # Errors
///
/// Those of kill(2), but for ESRCH.
pub fn signal_group(leader: u32, signal: Signal) -> io::Result<()> {
    match kill_process_group(number(leader)?, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn number(pid: u32) -> io::Result<Pid> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    number.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, format!("no PID: {pid}")))
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// A signal killed it.
    Signal(i32),
    /// Another process is its parent and has reaped it, or is about to.
    Reaped,
}

impl Exit {
    /// The end by this signal.
    pub fn by(signal: Signal) -> Self {
        Self::Signal(signal.as_raw())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::Reaped => f.write_str("ended in a way that nobody knows"),
        }
    }
}

/// A process, by its pidfd.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    ///
    /// Those of pidfd_open(2): ESRCH if no process has it.
    pub fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, pidfd: pidfd_open(number(pid)?, PidfdFlags::empty())? })
    }

    /// The same process once more.
    ///
    /// # Errors
    ///
    /// Those of dup(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { pid: self.pid, pidfd: self.pidfd.try_clone()? })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    ///
    /// Those of pidfd_send_signal(2): ESRCH if it is dead and reaped.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Sends a signal to it, or does nothing if it is dead and reaped.
    ///
    /// # Errors
    ///
    /// Those of pidfd_send_signal(2), but for ESRCH.
    pub fn signal_if_alive(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its death, and reaps nothing. `false` if it lives after `limit`.
    ///
    /// # Errors
    ///
    /// Those of poll(2).
    pub fn is_dead_within(&self, limit: Duration) -> io::Result<bool> {
        is_readable_within(limit, &self.pidfd)
    }

    /// Waits for its death and reaps it, if it is a child of this process. `None` if it lives after `limit`.
    ///
    /// # Errors
    ///
    /// Those of poll(2) and waitid(2).
    pub fn exit_within(&self, limit: Duration) -> io::Result<Option<Exit>> {
        if self.is_dead_within(limit)? { self.reap().map(Some) } else { Ok(None) }
    }

    fn reap(&self) -> io::Result<Exit> {
        loop {
            // It is dead, so this does not block for long: its tracer (strace) sees the death before its parent does.
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(end)) => match (end.exit_status(), end.terminating_signal()) {
                    (Some(status), _) => return Ok(Exit::Status(status)),
                    (None, Some(signal)) => return Ok(Exit::Signal(signal)),
                    (None, None) => return Err(io::Error::other(format!("waitid says {end:?}"))),
                },
                Ok(None) | Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(Exit::Reaped),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::DEADLINE;

    /// A process that ends when its standard input does.
    fn cat() -> Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().expect("start cat")
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "`Process` reaps them")]
    fn the_end_of_a_process_is_seen_and_explained() {
        let mut child = cat();
        let process = Process::open(child.id()).expect("open the process");
        assert_eq!(process.pid(), child.id());
        assert_eq!(process.exit_within(Duration::ZERO).expect("poll"), None);
        drop(child.stdin.take());
        assert_eq!(process.exit_within(DEADLINE).expect("poll"), Some(Exit::Status(0)));
        assert_eq!(process.exit_within(DEADLINE).expect("poll"), Some(Exit::Reaped));

        let child = cat();
        let process = Process::open(child.id()).expect("open the process");
        process.signal(Signal::KILL).expect("kill it");
        assert_eq!(process.exit_within(DEADLINE).expect("poll"), Some(Exit::by(Signal::KILL)));
        // It is reaped: no process has its number, or another one has.
        assert!(process.signal(Signal::TERM).is_err());
        process.signal_if_alive(Signal::TERM).expect("that it is gone is no error");
    }

    #[test]
    fn what_is_no_pid_is_refused() {
        assert!(Process::open(0).is_err());
        assert!(Process::open(u32::MAX).is_err());
        assert!(signal(0, Signal::TERM).is_err(), "0 is the group of this process");
    }

    #[test]
    fn a_pid_file_has_a_number() {
        assert_eq!(pidfile(Path::new("/nowhere/pid")).expect_err("none").kind(), ErrorKind::NotFound);
        assert_eq!(
            pidfile(Path::new("/proc/self/comm")).expect_err("no number").kind(),
            ErrorKind::InvalidData
        );
    }
}
