//! A service without a control socket, known only by its pid file. The program sends it signals and reads proc(5).

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::outside::proof::{Proven, Unproven, Unsent, prove};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::output::Failure;

/// The time between two reads of the pid file, while a successor is expected in it.
const LOOK: Duration = Duration::from_millis(20);

/// The process of a pid file, which is proven to be the service.
pub(crate) struct Process {
    pidfile: PathBuf,
    /// The path of the control socket beside the pid file.
    control: PathBuf,
    proven: Proven,
}

impl Process {
    /// The process that a pid file names.
    pub(crate) fn named_by(pidfile: &Path, control: &Path) -> Result<Self, Failure> {
        let proven = prove(pidfile, Some(control)).map_err(|why| unproven(pidfile, &why))?;
        Ok(Self { pidfile: pidfile.to_owned(), control: control.to_owned(), proven })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.proven.pid()
    }

    /// Ends the process at once, if it is a service still.
    pub(crate) fn kill(&self) -> Result<(), Failure> {
        self.proven.kill().map_err(|why| self.unsent(why, Signal::SIGKILL))
    }

    /// Sends a signal, if the pid file still names this process. The operator's check may have run for minutes since the first
    /// look.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let (pid, pidfile) = (self.pid(), self.pidfile.display());
        let proven = Self::named_by(&self.pidfile, &self.control)?.proven;
        if proven.pid() != pid {
            let now = format!("{pidfile} now names process {}, and no longer process {pid}", proven.pid());
            return Err(Failure::no_answer(format!("{now}; no signal was sent")));
        }
        proven.signal(signal).map_err(|why| self.unsent(why, signal))
    }

    fn unsent(&self, why: Unsent, signal: Signal) -> Failure {
        let (pid, pidfile) = (self.pid(), self.pidfile.display());
        match why {
            Unsent::Unhandled => Failure::nothing_running(format!(
                "process {pid}, which {pidfile} names, does not handle {signal}; no signal was sent: name its upgrade signal with \
                 `--signal`"
            )),
            Unsent::System(error) if error.kind() == io::ErrorKind::PermissionDenied => Failure::refused(
                "denied",
                format!("process {pid} belongs to another user; only that user and root may signal it"),
            ),
            Unsent::System(_) => unproven(&self.pidfile, &Unproven::Dead(pid)),
        }
    }

    /// Waits until the pid file names another process, which then serves. `None` if this one ended and none is named.
    pub(crate) fn wait_for_successor(&self, deadline: Instant) -> Result<Option<Process>, Failure> {
        loop {
            // Before the look at the file: a process that is dead has left its file to its successor by then.
            let is_dead = is_dead(self.proven.as_fd(), PollTimeout::ZERO);
            match Self::named_by(&self.pidfile, &self.control) {
                Ok(other) if other.pid() != self.pid() => return Ok(Some(other)),
                Err(_) if is_dead => return Ok(None),
                _ => {}
            }
            if Instant::now() >= deadline {
                return Err(Failure::no_answer(format!(
                    "process {} still has the pid file; only its log says whether the upgrade was refused, failed or goes on, and why",
                    self.pid(),
                )));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The failure of a process that ended without a successor.
    pub(crate) fn has_ended(&self) -> Failure {
        Failure::nothing_running(format!("process {} has ended without a successor", self.pid()))
    }

    /// The same after an upgrade, whose release may have another pid file.
    pub(crate) fn has_ended_in_an_upgrade(&self) -> Failure {
        if self.pidfile.exists() {
            return self.has_ended();
        }
        Failure::no_answer(format!(
            "process {} has ended, and {} is gone; a release may have moved its pid file, and its log says whether it serves",
            self.pid(),
            self.pidfile.display(),
        ))
    }

    /// Waits until the process is dead.
    pub(crate) fn wait_for_the_end(&self, deadline: Instant) -> Result<(), Failure> {
        wait_for_the_end(self.proven.as_fd(), deadline).then_some(()).ok_or_else(|| {
            Failure::no_answer(format!("process {} still finishes its connections", self.pid()))
        })
    }

    /// What proc(5) shows of the process, for scripts.
    pub(crate) fn status(&self) -> Value {
        let executable = self.executable().ok();
        // A path has any bytes, and JSON only text.
        let executable = executable.as_deref().map(Path::to_string_lossy);
        json!({"reply": "process", "pid": self.pid(), "executable": executable, "uptime_ms": self.uptime().map(as_millis)})
    }

    /// The executable file, if this user may see it.
    pub(crate) fn executable(&self) -> io::Result<PathBuf> {
        fs::read_link(self.proven.proc("exe"))
    }

    /// What proc(5) shows of the process, in words.
    pub(crate) fn describe(&self) -> String {
        let executable = self.executable().map(|path| path.display().to_string());
        let uptime =
            self.uptime().map(|uptime| humantime::format_duration(Duration::from_secs(uptime.as_secs())));
        format!(
            "process {}, up for {}\nexecutable   {}\n",
            self.pid(),
            uptime.map_or_else(|| "?".to_owned(), |uptime| uptime.to_string()),
            executable.unwrap_or_else(|error| error.to_string()),
        )
    }

    /// The time since the start of the process: the kernel makes its directory in /proc then.
    fn uptime(&self) -> Option<Duration> {
        let began = fs::metadata(self.proven.proc("")).and_then(|metadata| metadata.modified()).ok()?;
        SystemTime::now().duration_since(began).ok()
    }
}

fn unproven(pidfile: &Path, why: &Unproven) -> Failure {
    let problem = why.describe(pidfile);
    match why {
        Unproven::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
            Failure::nothing_running(format!("nothing is running there: {problem}"))
        }
        Unproven::Unreadable(_) => Failure::refused("failed", problem),
        Unproven::NoNumber | Unproven::Dead(_) | Unproven::Stranger(..) => Failure::nothing_running(problem),
    }
}

/// Waits until a process is dead; false at the deadline.
pub(crate) fn wait_for_the_end(pidfd: BorrowedFd<'_>, deadline: Instant) -> bool {
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

fn is_dead(pidfd: BorrowedFd<'_>, timeout: PollTimeout) -> bool {
    poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}

fn as_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
