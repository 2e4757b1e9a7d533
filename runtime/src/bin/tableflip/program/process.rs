//! A service that is known by its pid file alone: what signals can do, and what cannot be known then.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tableflip::__private::{handles, pidfd_open, pidfd_send_signal, pidfile_text};

use super::output::Failure;

/// How often a pid file is looked at while another process is to appear in it.
const LOOK: Duration = Duration::from_millis(20);

/// A process that lives, by pidfd: a number that has become another process's meanwhile is never signalled.
pub(crate) struct Process {
    pidfile: PathBuf,
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// The one that a pid file names.
    pub(crate) fn named_by(pidfile: &Path) -> Result<Self, Failure> {
        loop {
            let pid = read(pidfile)?;
            let Some(pidfd) = open(pid).filter(|pidfd| !is_dead(pidfd, PollTimeout::ZERO)) else {
                let problem = format!("{} names process {pid}, which is dead", pidfile.display());
                return Err(Failure::nothing_running(problem));
            };
            // Between the two it may have ended, and its number have gone to another.
            if read(pidfile)? == pid {
                return Ok(Self { pidfile: pidfile.to_owned(), pid, pidfd });
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal that a service of ours handles. To any other process, whose number is in a stale pid file, none is sent:
    /// it would end it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = self.pid;
        let number = i32::try_from(pid).map_or(Err(Errno::ESRCH), |pid| Ok(Pid::from_raw(pid)));
        // Whether it is dead, the pidfd tells.
        if number.and_then(|number| kill(number, None)) == Err(Errno::EPERM) {
            let problem = format!("process {pid} is of another user; its own user and root may signal it");
            return Err(Failure::refused("denied", problem));
        }
        if is_dead(&self.pidfd, PollTimeout::ZERO) {
            let problem = format!("{} names process {pid}, which is dead", self.pidfile.display());
            return Err(Failure::nothing_running(problem));
        }
        if ![signal, Signal::SIGTERM].into_iter().all(|signal| handles(pid, signal)) {
            let problem = format!(
                "process {pid}, which {} names, does not handle {signal}: it is another program, or upgrades on another \
                 signal; none was sent",
                self.pidfile.display(),
            );
            return Err(Failure::nothing_running(problem));
        }
        pidfd_send_signal(self.pidfd.as_fd(), signal as i32);
        Ok(())
    }

    /// Waits until the pid file names another process that lives, which is then the one that serves.
    pub(crate) fn wait_for_successor(&self, deadline: Instant) -> Result<Process, Failure> {
        loop {
            if let Ok(other) = Self::named_by(&self.pidfile) {
                if other.pid != self.pid {
                    return Ok(other);
                }
            } else if is_dead(&self.pidfd, PollTimeout::ZERO) {
                let problem = format!("process {} has ended, and left no other", self.pid);
                return Err(Failure::nothing_running(problem));
            }
            if Instant::now() >= deadline {
                return Err(Failure::no_answer(format!(
                    "process {} still has the pid file; whether it refused, failed or goes on, and why, only its log tells",
                    self.pid,
                )));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until it is dead.
    pub(crate) fn wait_for_the_end(&self, deadline: Instant) -> Result<(), Failure> {
        wait_for_the_end(&self.pidfd, deadline)
            .then_some(())
            .ok_or_else(|| Failure::no_answer(format!("process {} still finishes its connections", self.pid)))
    }

    /// What proc(5) knows of it, for programs.
    pub(crate) fn status(&self) -> Value {
        let executable = fs::read_link(self.proc("exe")).ok();
        json!({"reply": "process", "pid": self.pid, "executable": executable, "uptime_ms": self.uptime().map(as_millis)})
    }

    /// The same in words.
    pub(crate) fn describe(&self) -> String {
        let executable = fs::read_link(self.proc("exe")).map(|path| path.display().to_string());
        let uptime =
            self.uptime().map(|uptime| humantime::format_duration(Duration::from_secs(uptime.as_secs())));
        format!(
            "process {}, up for {}\nexecutable   {}\n",
            self.pid,
            uptime.map_or_else(|| "?".to_owned(), |uptime| uptime.to_string()),
            executable.unwrap_or_else(|error| error.to_string()),
        )
    }

    /// The time since the kernel made its directory in /proc, which is that of its start.
    fn uptime(&self) -> Option<Duration> {
        let began = fs::metadata(self.proc("")).and_then(|metadata| metadata.modified()).ok()?;
        SystemTime::now().duration_since(began).ok()
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// The process of this number, if it is one of this PID namespace: in a container a service has other numbers.
pub(crate) fn open_neighbour(pid: u32) -> Option<OwnedFd> {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/pid")).ok();
    let pidfd = open(pid)?;
    (namespace(&pid.to_string())? == namespace("self")?).then_some(pidfd)
}

/// Waits until a process is dead; false at the deadline.
pub(crate) fn wait_for_the_end(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if is_dead(pidfd, left.try_into().unwrap_or(PollTimeout::MAX)) {
            return true;
        }
        if left.is_zero() {
            return false;
        }
    }
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(pid).ok()
}

fn is_dead(pidfd: &OwnedFd, timeout: PollTimeout) -> bool {
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}

fn read(pidfile: &Path) -> Result<u32, Failure> {
    match pidfile_text(pidfile) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::nothing_running(format!("nothing is running there: {}: {error}", pidfile.display())))
        }
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            Err(Failure::refused("failed", format!("{}: {error}", pidfile.display())))
        }
        text => {
            let pid = text.ok().and_then(|text| text.trim().parse().ok());
            pid.filter(|pid| *pid > 0 && i32::try_from(*pid).is_ok()).ok_or_else(|| {
                Failure::nothing_running(format!(
                    "{} is neither a control socket nor a pid file",
                    pidfile.display()
                ))
            })
        }
    }
}

fn as_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
