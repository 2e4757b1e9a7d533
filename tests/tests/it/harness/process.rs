//! One process of a service: its signals, its end, and its descriptors.

use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use processes::proc::{Listening, field};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::{DEADLINE, Exit, Signal, wait_until};
use crate::look;

/// For how long after a SIGTERM another SIGTERM is the same request to stop.
const SAME_STOP: Duration = Duration::from_secs(1);

/// A process; a clone is the same one.
#[derive(Clone)]
pub(crate) struct Process {
    pid: u32,
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` if it was dead and reaped before the test could look.
    process: Option<processes::Process>,
    exit: Mutex<Option<Exit>>,
}

impl Process {
    pub(super) fn open(pid: u32) -> Self {
        let process = match processes::Process::open(pid) {
            Ok(process) => Some(process),
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => None,
            Err(error) => panic!("pidfd_open of {pid}: {error}"),
        };
        Self { pid, inner: Arc::new(Inner { process, exit: Mutex::new(None) }) }
    }

    /// Sends a signal to the process group that it leads, in which all of its descendants are.
    pub(crate) fn signal_group(&self, signal: Signal) {
        processes::signal_group(self.pid, signal)
            .unwrap_or_else(|error| panic!("{signal:?} to the group of {self:?}: {error}"));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to a process that lives.
    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.inner.process.as_ref().expect("the process lives");
        process.signal(signal).unwrap_or_else(|error| panic!("{signal:?} to {self:?}: {error}"));
    }

    /// Sends a further SIGTERM to a process that has dealt with one: so much later that it is a second request to stop.
    pub(crate) fn terminate_again(&self) {
        thread::sleep(SAME_STOP);
        self.signal(Signal::TERM);
    }

    /// Sends a signal to a process that may be dead by now.
    pub(crate) fn signal_if_alive(&self, signal: Signal) {
        if let Some(process) = &self.inner.process {
            process.signal_if_alive(signal).unwrap_or_else(|error| panic!("{signal:?} to {self:?}: {error}"));
        }
    }

    /// SIGKILL, whether it lives or not.
    pub(crate) fn kill(&self) {
        self.signal_if_alive(Signal::KILL);
    }

    /// Stops it by SIGSTOP, and waits until it is stopped. SIGCONT continues it.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        self.wait_until("it is stopped", || look::status(self, "State").starts_with('T'));
    }

    /// Waits until a signal is pending that was sent to it while it is stopped.
    pub(crate) fn wait_for_pending(&self, signal: Signal) {
        self.wait_until("the signal is pending", || self.is_pending(signal));
    }

    /// Sends a signal, and waits until a thread of it runs the handler.
    pub(crate) fn deliver(&self, signal: Signal) {
        self.signal(signal);
        self.wait_until("the signal is delivered", || !self.is_pending(signal));
    }

    fn is_pending(&self, signal: Signal) -> bool {
        let pending = u64::from_str_radix(&look::status(self, "ShdPnd"), 16).expect("a mask");
        pending & (1 << (signal.as_raw() - 1)) != 0
    }

    /// Looks again and again at /proc: a change there causes no event.
    fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        wait_until(&format!("{self:?}, {what}"), is_so);
    }

    /// Waits until it is dead, and says how it ended.
    pub(crate) fn exit(&self) -> Exit {
        let Some(process) = &self.inner.process else { return Exit::Reaped };
        assert!(process.is_dead_within(DEADLINE).expect("poll"), "{self:?} lives:\n{}", self.stacks());
        let mut exit = self.inner.exit.lock().expect("no wait panics");
        *exit.get_or_insert_with(|| {
            let exit = process.exit_within(DEADLINE).unwrap_or_else(|error| panic!("{self:?}: {error}"));
            exit.expect("it is dead")
        })
    }

    /// Whether it is dead already.
    pub(crate) fn has_exited(&self) -> bool {
        self.inner.process.as_ref().is_none_or(|it| it.is_dead_within(Duration::ZERO).expect("poll"))
    }

    /// Whether it is dead and reaped: /proc has nothing of it.
    pub(crate) fn is_gone(&self) -> bool {
        self.has_exited() && !self.proc("").exists()
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

    /// A duplicate of each socket that it has, pidfd_getfd(2), for questions to the kernel. The sockets stay open while the duplicates
    /// live.
    pub(crate) fn sockets(&self) -> Vec<OwnedFd> {
        let process = self.inner.process.as_ref().expect("the process lives");
        let mut sockets = Vec::new();
        for entry in fs::read_dir(self.proc("fd")).expect("the process lives").flatten() {
            let is_socket = fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("a number");
            if !is_socket {
                continue;
            }
            match pidfd_getfd(process, number, PidfdGetfdFlags::empty()) {
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
        let listening = Listening::in_network_of(self.pid);
        let mut flags = Vec::new();
        for entry in fs::read_dir(self.proc("fd")).expect("the process lives").flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if listening.iter().any(|socket| target.as_os_str() == socket.link().as_str()) {
                let info =
                    fs::read_to_string(self.proc("fdinfo").join(entry.file_name())).unwrap_or_default();
                let octal = field(&info, "flags").unwrap_or_default();
                flags.extend(u32::from_str_radix(octal, 8));
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
