//! A process that can be signalled and awaited although it is nobody's child here.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, set_child_subreaper,
        waitid,
    },
};
use tokio::task;

/// Makes this process the parent of every successor whose own parent has ended, so that it learns the exit status
/// of each of them and leaves no zombie to an init that may not reap.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Status(i32),
    Signal(i32),
    /// Somebody else reaped it.
    Unknown,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::Unknown => f.write_str("ended in a way that nobody knows"),
        }
    }
}

/// A process, held by a descriptor: its number may be given to another one when it is gone, the descriptor may not.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = raw.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no PID: {pid}")))?;
        Ok(Self { pid, descriptor: pidfd_open(pid, PidfdFlags::empty())? })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.descriptor, signal)?)
    }

    /// Waits until the process has ended, for at most as long as `limit`, and says how. `None` if it has not.
    pub(crate) async fn gone_within(&self, limit: Duration) -> io::Result<Option<End>> {
        // On a thread, because tokio takes a bare descriptor by an unsafe function only. Where this future is dropped
        // the thread ends when the process does, and whoever drops it kills that.
        let process = Self { pid: self.pid, descriptor: self.descriptor.try_clone()? };
        task::spawn_blocking(move || process.ended_within(limit)).await?
    }

    /// The same for a thread.
    pub(crate) fn ended_within(&self, limit: Duration) -> io::Result<Option<End>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()));
            let left = left.map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(self.reap())),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How it ended, if this process is its parent.
    fn reap(&self) -> End {
        // Never of whichever child comes next: only of this one.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(Some(end)) => match (end.exit_status(), end.terminating_signal()) {
                (Some(status), _) => End::Status(status),
                (None, Some(signal)) => End::Signal(signal),
                (None, None) => End::Unknown,
            },
            Ok(None) | Err(_) => End::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A process that ends when its standard input does.
    fn cat() -> std::process::Child {
        Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("start cat")
    }

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "it is `Process` that reaps them here")]
    async fn the_end_of_a_process_is_seen_and_explained() {
        let mut child = cat();
        let process = Process::open(child.id()).expect("open the process");
        assert_eq!(process.pid(), child.id());
        assert_eq!(process.gone_within(Duration::ZERO).await.expect("poll"), None);
        drop(child.stdin.take());
        let end = process.gone_within(Duration::from_secs(10)).await.expect("poll");
        assert_eq!(end, Some(End::Status(0)));

        let child = cat();
        let process = Process::open(child.id()).expect("open the process");
        process.signal(Signal::KILL).expect("kill it");
        assert_eq!(process.ended_within(Duration::from_secs(10)).expect("poll"), Some(End::Signal(9)));
        // It is reaped, so its number names nobody, or somebody else.
        assert!(process.signal(Signal::TERM).is_err());
    }

    #[test]
    fn what_is_no_pid_is_refused() {
        assert!(Process::open(0).is_err());
        assert!(Process::open(u32::MAX).is_err());
    }
}
