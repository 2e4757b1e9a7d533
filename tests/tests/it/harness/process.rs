//! One process of a service, by pidfd: a number that has become another process's is never signalled.

use std::fmt;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, getpid, kill_process_group, pidfd_getfd,
    pidfd_open, pidfd_send_signal, set_child_subreaper, waitid,
};

use super::DEADLINE;
use crate::look;

/// For how long after a SIGTERM others are the same request to stop.
const SAME_STOP: Duration = Duration::from_secs(1);

/// A process; a clone is the same one.
#[derive(Clone)]
pub(crate) struct Process {
    pid: u32,
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` if it was dead and reaped before the test could look.
    pidfd: Option<OwnedFd>,
    exit: Mutex<Option<Exit>>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Status(i32),
    Signal(i32),
    /// The process that started it has reaped it, as it should.
    Reaped,
}

impl Exit {
    /// It was killed by this signal.
    pub(crate) fn by(signal: Signal) -> Self {
        Self::Signal(signal.as_raw())
    }
}

/// From now on a process whose parent is dead becomes a child of this one, which can then learn its exit status.
pub(super) fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| set_child_subreaper(Some(getpid())).expect("PR_SET_CHILD_SUBREAPER"));
}

impl Process {
    pub(super) fn open(pid: u32) -> Self {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process ID");
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(fd) => Some(fd),
            Err(Errno::SRCH) => None,
            Err(error) => panic!("pidfd_open of {pid}: {error}"),
        };
        Self { pid, inner: Arc::new(Inner { pidfd, exit: Mutex::new(None) }) }
    }

    /// Sends a signal to the process group that it leads, in which all of its descendants are, and of which one lives.
    pub(crate) fn signal_group(&self, signal: Signal) {
        let group = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process ID");
        match kill_process_group(group, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => panic!("{signal:?} to the group of {self:?}: {error}"),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to a process that lives.
    pub(crate) fn signal(&self, signal: Signal) {
        let pidfd = self.inner.pidfd.as_ref().expect("the process lives");
        pidfd_send_signal(pidfd, signal).unwrap_or_else(|error| panic!("{signal:?} to {self:?}: {error}"));
    }

    /// Sends SIGTERM to a process that has dealt with one: so much later that it is a second request to stop.
    pub(crate) fn terminate_again(&self) {
        thread::sleep(SAME_STOP);
        self.signal(Signal::TERM);
    }

    /// Sends a signal to a process that may be dead by now.
    pub(crate) fn signal_if_alive(&self, signal: Signal) {
        if let Some(pidfd) = &self.inner.pidfd {
            match pidfd_send_signal(pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => panic!("{signal:?} to {self:?}: {error}"),
            }
        }
    }

    /// SIGKILL, whether it lives or not.
    pub(crate) fn kill(&self) {
        self.signal_if_alive(Signal::KILL);
    }

    /// Stops it and waits until it stands still; SIGCONT has it go on.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        self.wait_until("it stands still", || look::status(self, "State").starts_with('T'));
    }

    /// Waits until a signal has been sent to it, which stands still.
    pub(crate) fn wait_for_pending(&self, signal: Signal) {
        self.wait_until("the signal is pending", || {
            let pending = u64::from_str_radix(&look::status(self, "ShdPnd"), 16).expect("a mask");
            pending & (1 << (signal.as_raw() - 1)) != 0
        });
    }

    /// Sends a signal, and waits until a thread of it runs the handler.
    pub(crate) fn deliver(&self, signal: Signal) {
        self.signal(signal);
        self.wait_until("the signal is delivered", || {
            let pending = u64::from_str_radix(&look::status(self, "ShdPnd"), 16).expect("a mask");
            pending & (1 << (signal.as_raw() - 1)) == 0
        });
    }

    /// Looks again and again at what /proc says of it, of which no event tells.
    fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{self:?}, {what}: not within {DEADLINE:?}");
            thread::yield_now();
        }
    }

    /// Waits until it is dead, and says how it ended.
    pub(crate) fn exit(&self) -> Exit {
        let Some(pidfd) = &self.inner.pidfd else { return Exit::Reaped };
        let deadline = Instant::now() + DEADLINE;
        while !self.is_dead(deadline) {
            assert!(Instant::now() < deadline, "{self:?} lives:\n{}", self.stacks());
        }
        let mut exit = self.inner.exit.lock().expect("no wait panics");
        *exit.get_or_insert_with(|| {
            // It is dead, so this does not wait for long: a tracer that it has (strace) sees the end ahead of its parent.
            match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                    (Some(status), _) => Exit::Status(status),
                    (_, Some(signal)) => Exit::Signal(signal),
                    _ => panic!("{self:?} ended in no way that is known: {status:?}"),
                },
                // Its parent is alive and has reaped it, or is about to.
                Err(Errno::CHILD) => Exit::Reaped,
                none => panic!("waitid of {self:?}: {none:?}"),
            }
        })
    }

    /// Whether it is dead already.
    pub(crate) fn has_exited(&self) -> bool {
        self.is_dead(Instant::now())
    }

    /// Whether it is dead and reaped: /proc has nothing of it.
    pub(crate) fn is_gone(&self) -> bool {
        self.has_exited() && !self.proc("").exists()
    }

    fn is_dead(&self, deadline: Instant) -> bool {
        let Some(pidfd) = &self.inner.pidfd else { return true };
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("a deadline is near");
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => ready > 0,
            Err(Errno::INTR) => false,
            Err(error) => panic!("poll: {error}"),
        }
    }

    /// Reaps it if it is dead and a child of this process.
    pub(super) fn reap(&self) {
        if self.has_exited() {
            self.exit();
        }
    }

    /// A file of it in /proc.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// What its descriptors are, as readlink(2) of /proc/PID/fd says: `socket:[INODE]`, `pipe:[INODE]`, a path.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let entries = fs::read_dir(self.proc("fd")).expect("the process lives");
        // The rest of the two calls may find it closed.
        let target = |entry: fs::DirEntry| Some(fs::read_link(entry.path()).ok()?.display().to_string());
        entries.filter_map(|entry| target(entry.ok()?)).collect()
    }

    /// A duplicate of each socket that it has, pidfd_getfd(2): what one says of itself is what the kernel knows. While they are
    /// held, the sockets stay open.
    pub(crate) fn sockets(&self) -> Vec<OwnedFd> {
        let pidfd = self.inner.pidfd.as_ref().expect("the process lives");
        let mut sockets = Vec::new();
        for entry in fs::read_dir(self.proc("fd")).expect("the process lives").flatten() {
            let is_socket = fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("a number");
            if !is_socket {
                continue;
            }
            match pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()) {
                Ok(socket) => sockets.push(socket),
                // Closed meanwhile.
                Err(Errno::BADF) => {}
                Err(error) => panic!("pidfd_getfd of {number} of {self:?}: {error}"),
            }
        }
        sockets
    }

    /// Whether each of its listening TCP sockets has O_NONBLOCK, proc_pid_fdinfo(5).
    pub(crate) fn listeners_are_nonblocking(&self) -> bool {
        let table = fs::read_to_string(self.proc("net/tcp")).expect("the process lives");
        // The fourth column is the state, 0A is TCP_LISTEN; the tenth is the inode.
        let listening: Vec<_> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|line| line.get(3) == Some(&"0A"))
            .map(|line| format!("socket:[{}]", line[9]))
            .collect();
        let mut flags = Vec::new();
        for entry in fs::read_dir(self.proc("fd")).expect("the process lives").flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if listening.iter().any(|socket| target.as_os_str() == socket.as_str()) {
                let info =
                    fs::read_to_string(self.proc("fdinfo").join(entry.file_name())).unwrap_or_default();
                let octal = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
                flags.extend(u32::from_str_radix(octal.trim(), 8));
            }
        }
        assert!(!flags.is_empty(), "{self:?} has no listener");
        flags.iter().all(|flags| OFlags::from_bits_retain(*flags).contains(OFlags::NONBLOCK))
    }

    /// Where each thread of it is, for the message of a test that fails.
    fn stacks(&self) -> String {
        let tasks = fs::read_dir(self.proc("task")).into_iter().flatten().flatten();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        tasks
            .map(|task| {
                let path = task.path();
                format!(
                    "{} {} {}\n",
                    read(path.join("comm")),
                    read(path.join("wchan")),
                    read(path.join("syscall"))
                )
            })
            .collect()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}
