//! A parent that stays: one process ID for whoever watches the service, through every upgrade of it.
//!
//! docker, Kubernetes, runit and supervisord take the process that they started for the service, and its end for the end of
//! it. So that process can be this one, which serves nothing: it starts the first generation, passes every signal on to the
//! generation that serves, reaps what is orphaned, and exits like the last one.
//!
//! Each generation has one end of a socket, which the first gets as it starts and every other from its predecessor, and
//! says on it that it serves; the kernel adds who it is (SCM_CREDENTIALS, unix(7)). Its end of file says that no process of
//! the service is left.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg, send,
    setsockopt, socketpair, sockopt,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::poll;
use crate::report::to_stderr;
use crate::signals;
use crate::spawn::{Child, Launch, Process, What, pidfd_open, pidfd_send_signal};
use crate::systemd::Passed;

/// The name under which its socket is passed on from generation to generation, among the files of a service. No service
/// would call one of its own like this.
pub(crate) const NAME: &str = "supervisor\0";

/// How many generations are remembered: those whose processes may still be there to be reaped, and many more.
const MAX_GENERATIONS: usize = 64;

/// Says on a generation's end of the socket that it serves.
pub(crate) fn tell(supervisor: &OwnedFd) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    // One that was killed has nobody to pass signals on to either; the service goes on without it.
    match send(supervisor.as_raw_fd(), b".", flags) {
        Ok(_) | Err(_) => {}
    }
}

/// Starts the service as a child of this process, and ends the process when the service has ended. It has one thread.
///
/// # Errors
///
/// The service could not be started.
pub(crate) fn run(launch: &Launch, upgrade: Signal, passed: Vec<Passed>) -> io::Result<Infallible> {
    set_child_subreaper(true)?;
    let passed_on = signals::block_all()?;
    let signals = SignalFd::with_flags(&passed_on, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    setsockopt(&ours, sockopt::PassCred, &true)?;
    let first = launch
        .start_supervised(What::Release, theirs.as_fd(), upgrade, &passed)
        .map_err(|error| io::Error::other(error.to_string()))?;
    drop((theirs, passed));
    let current = Current::Child(first);
    let mut supervisor = Supervisor {
        signals,
        service: ours,
        current,
        generations: VecDeque::new(),
        last: None,
        stops: Vec::new(),
    };
    supervisor.take_down_current();
    loop {
        let mut fds = [
            PollFd::new(supervisor.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(supervisor.service.as_fd(), PollFlags::POLLIN),
        ];
        poll::until(&mut fds, None)?;
        // Who serves is known before a signal is passed on.
        let is_over = supervisor.hear();
        supervisor.take_signals();
        supervisor.reap();
        if is_over {
            signals::exit_now(supervisor.last_status());
        }
    }
}

/// The generation that serves.
enum Current {
    /// The first, which was started here.
    Child(Process),
    Announced {
        pid: u32,
        pidfd: OwnedFd,
    },
}

impl Current {
    fn pid(&self) -> u32 {
        match self {
            Self::Child(process) => process.pid(),
            Self::Announced { pid, .. } => *pid,
        }
    }
}

impl AsFd for Current {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Child(process) => process.as_fd(),
            Self::Announced { pidfd, .. } => pidfd.as_fd(),
        }
    }
}

/// A process that serves, or has served.
struct Generation {
    pid: u32,
    /// How it has ended, if it was reaped here.
    status: Option<i32>,
    /// How many of the stops it was sent.
    stops: usize,
}

struct Supervisor {
    signals: SignalFd,
    service: OwnedFd,
    current: Current,
    /// Those that served last; the current one is the last of them.
    generations: VecDeque<Generation>,
    /// The status of the one that was reaped last.
    last: Option<i32>,
    /// The signals that stop the service, of those that have come. The process that one is passed on to may have handed the
    /// service over by the time that it reads it, and takes it for a stop of that process alone. So they go to each
    /// that serves from then on.
    stops: Vec<libc::c_int>,
}

impl Supervisor {
    /// Takes down who serves. Returns whether the service is over.
    fn hear(&mut self) -> bool {
        loop {
            let mut byte = [0];
            let mut data = [IoSliceMut::new(&mut byte)];
            let mut control = cmsg_space!(UnixCredentials);
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let received = recvmsg::<()>(self.service.as_raw_fd(), &mut data, Some(&mut control), flags);
            let message = match received {
                Ok(message) => message,
                Err(Errno::EINTR) => continue,
                // ECONNRESET: the last one has died with something unread.
                Err(errno) => return errno != Errno::EAGAIN,
            };
            if message.bytes == 0 {
                return true;
            }
            let sender = message.cmsgs().ok().into_iter().flatten().find_map(|control| match control {
                ControlMessageOwned::ScmCredentials(sender) => u32::try_from(sender.pid()).ok(),
                _ => None,
            });
            // One that is dead already has told it in vain; whoever takes its place tells it again.
            if let Some((pid, Ok(pidfd))) = sender.map(|pid| (pid, pidfd_open(pid))) {
                self.current = Current::Announced { pid, pidfd };
                self.take_down_current();
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let Ok(signal) = i32::try_from(info.ssi_signo) else { continue };
            match Signal::try_from(signal) {
                // It is enough that it has woken this process.
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGTERM | Signal::SIGINT) => {
                    self.stops.push(signal);
                    self.send_stops();
                }
                _ => pidfd_send_signal(self.current.as_fd(), signal),
            }
        }
    }

    /// Sends the process that serves those of the stops that it has not been sent.
    fn send_stops(&mut self) {
        let Some(current) = self.generations.back_mut() else { return };
        for signal in &self.stops[current.stops..] {
            pidfd_send_signal(self.current.as_fd(), *signal);
        }
        current.stops = self.stops.len();
    }

    /// Reaps every child that is dead. This process has none but the service's, so that nobody else waits for one of
    /// them: here, and here alone, any child may be waited for.
    fn reap(&mut self) {
        loop {
            let status = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                // There is no child.
                Err(_) => return,
            };
            match status {
                WaitStatus::StillAlive => return,
                status => self.take_down(status),
            }
        }
    }

    fn take_down_current(&mut self) {
        let pid = self.current.pid();
        // One whose successor has died serves again.
        let known = self.generations.iter().position(|it| it.pid == pid && it.status.is_none());
        let current = known.and_then(|at| self.generations.remove(at));
        if self.generations.len() == MAX_GENERATIONS {
            self.generations.pop_front();
        }
        self.generations.push_back(current.unwrap_or(Generation { pid, status: None, stops: 0 }));
        self.send_stops();
    }

    /// How a process has ended, as a shell says it.
    fn take_down(&mut self, status: WaitStatus) {
        let (pid, status) = match status {
            WaitStatus::Exited(pid, status) => (pid, status),
            WaitStatus::Signaled(pid, signal, _) => (pid, 128 + signal as i32),
            _ => return,
        };
        let pid = pid.as_raw().unsigned_abs();
        // Of an orphan that is none of them nobody asks.
        if let Some(generation) = self.generations.iter_mut().rfind(|it| it.pid == pid) {
            generation.status = Some(status);
            self.last = Some(status);
        }
    }

    fn status_of_current(&self) -> Option<i32> {
        self.generations.back().and_then(|it| it.status)
    }

    /// That of the generation that served last; if its predecessor has reaped it, that of the predecessor.
    fn last_status(&mut self) -> i32 {
        // A process closes its descriptors before it is dead, and leaves its children to this one after that. So the oldest
        // is waited for first: then the next is a child of this process, or was reaped by its predecessor.
        let unknown = self.generations.iter().filter(|it| it.status.is_none());
        let unknown: Vec<_> = unknown.filter_map(|it| Some(Pid::from_raw(it.pid.try_into().ok()?))).collect();
        for pid in unknown {
            if let Ok(status) = waitpid(pid, None) {
                self.take_down(status);
            }
        }
        self.status_of_current().or(self.last).unwrap_or_else(|| {
            to_stderr(format_args!("the supervisor does not know how the service ended"));
            1
        })
    }
}
