//! The supervisor: a parent that stays, with one process ID through every upgrade of the service.
//!
//! docker, Kubernetes, runit and supervisord take the process that they started for the service, and its end for the
//! service's end. That process can be the supervisor. It serves nothing: it starts the first generation, passes signals
//! on to the generation that serves, and reaps orphans. It exits with the status of the last generation.
//!
//! Each generation has one end of a socket. The first gets it at its start, every other from its predecessor. A
//! generation reports on it that it serves, and the kernel adds the process ID (SCM_CREDENTIALS, unix(7)). At end of
//! file no process of the service is left.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg, send,
    setsockopt, socketpair, sockopt,
};

use crate::base::report::{RateLimit, complain_as_supervisor};
use crate::sys::hangup::{self, Sender};
use crate::sys::pidfd;
use crate::sys::poll;
use crate::sys::proc;
use crate::sys::{signal_mask, signals};

/// The name of the socket among the files that a generation passes on. No file of the service has a name with a NUL,
/// `limits::OWN_FILE`.
pub(crate) const NAME: &str = "supervisor\0";

/// How many generations are remembered. Fewer can still wait to be reaped.
const MAX_GENERATIONS: usize = 16;
/// The pause after a shortage of memory or descriptors, before the next try.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Reports to the supervisor that this generation serves.
pub(crate) fn tell(supervisor: &OwnedFd) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    // The supervisor may have been killed. The service goes on without it.
    match send(supervisor.as_raw_fd(), b".", flags) {
        Ok(_) | Err(_) => {}
    }
}

/// Supervises the service, and ends the process when the service has ended. `start` starts the first generation with
/// its end of the socket, and returns its process ID and pidfd. `say_ready` is called when a generation serves, until it returns that
/// the service manager was told: with `NotifyAccess=main` the manager takes that of this process alone.
///
/// # Errors
///
/// The first generation could not be started.
pub(crate) fn run(
    upgrade: Signal,
    mut say_ready: impl FnMut() -> bool,
    start: impl FnOnce(BorrowedFd<'_>) -> io::Result<(u32, OwnedFd)>,
) -> io::Result<Infallible> {
    set_child_subreaper(true)?;
    let passed_on = signal_mask::block_all()?;
    let signals = SignalFd::with_flags(&passed_on, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    setsockopt(&ours, sockopt::PassCred, &true)?;
    let first = start(theirs.as_fd())?;
    drop(theirs);
    let mut supervisor = Supervisor::new(upgrade, signals, ours, GenerationProcess::new(first));
    let mut is_told = false;
    loop {
        let mut fds = [
            PollFd::new(supervisor.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(supervisor.service.as_fd(), PollFlags::POLLIN),
        ];
        let is_due = supervisor.has_heard && !is_told;
        is_told = is_told || is_due && say_ready();
        let waits = supervisor.announced.is_some() || supervisor.has_heard && !is_told;
        let deadline = waits.then(|| Instant::now() + SHORTAGE_PAUSE);
        if let Err(error) = poll::until(&mut fds, deadline) {
            // poll(2) fails for want of memory only.
            complain(&supervisor.cannot_wait, format_args!("cannot wait: {error}"));
            thread::sleep(SHORTAGE_PAUSE);
        }
        // Read the signals first and pass them on last. A client that sees a new process serve and then sends a signal
        // means that process. In the reverse order the report and the signal could both arrive in between, and the
        // signal would go to the predecessor.
        let asked = supervisor.read_signals();
        supervisor.follow();
        let is_over = supervisor.hear();
        supervisor.pass_on(asked);
        supervisor.reap();
        if is_over {
            signals::exit_now(supervisor.last_status());
        }
    }
}

/// Complains about a shortage. The call is tried again.
fn complain(complaint: &RateLimit, what: fmt::Arguments<'_>) {
    if complaint.is_due() {
        complain_as_supervisor(format_args!("the supervisor {what}"));
    }
}

/// A process that serves or has served.
struct GenerationProcess {
    pid: u32,
    /// The number may belong to another process once the predecessor has reaped this one.
    pidfd: OwnedFd,
    /// The exit status, if this process has reaped it.
    status: Option<i32>,
    /// How many of the supervisor's stops this process was sent.
    stops: usize,
}

impl GenerationProcess {
    fn new((pid, pidfd): (u32, OwnedFd)) -> Self {
        Self { pid, pidfd, status: None, stops: 0 }
    }
}

struct Supervisor {
    /// The upgrade signal of the service.
    upgrade: Signal,
    signals: SignalFd,
    service: OwnedFd,
    /// The terminal has hung up.
    has_hung_up: bool,
    /// A generation has reported that it serves.
    has_heard: bool,
    /// The generations that are not reaped, in the order in which they served. The last one serves.
    generations: VecDeque<GenerationProcess>,
    /// The process that reported that it serves, until the supervisor follows it.
    announced: Option<(u32, SystemTime)>,
    /// The status of the process that was reaped last.
    last: Option<i32>,
    /// The stop signals so far. The process that receives one may hand over before it reads it, and would then stop
    /// only itself. So each later generation gets them as well.
    stops: Vec<libc::c_int>,
    cannot_wait: RateLimit,
    cannot_hear: RateLimit,
    cannot_follow: RateLimit,
}

impl Supervisor {
    fn new(upgrade: Signal, signals: SignalFd, service: OwnedFd, first: GenerationProcess) -> Self {
        let generations = VecDeque::from([first]);
        Self {
            upgrade,
            signals,
            service,
            has_hung_up: false,
            has_heard: false,
            generations,
            announced: None,
            last: None,
            stops: Vec::new(),
            cannot_wait: RateLimit::default(),
            cannot_hear: RateLimit::default(),
            cannot_follow: RateLimit::default(),
        }
    }

    /// Reads which processes serve. Returns whether the service has ended.
    fn hear(&mut self) -> bool {
        loop {
            let mut byte = [0];
            let mut data = [IoSliceMut::new(&mut byte)];
            let mut control = cmsg_space!(UnixCredentials);
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let received = recvmsg::<()>(self.service.as_raw_fd(), &mut data, Some(&mut control), flags);
            let message = match received {
                Ok(message) => message,
                // ECONNRESET: a process died with something unread. The kernel reports it once, ahead of the end.
                Err(Errno::EINTR | Errno::ECONNRESET) => continue,
                Err(Errno::EAGAIN) => return false,
                // The report stays in the queue, and poll(2) returns at once.
                Err(errno @ (Errno::ENOMEM | Errno::ENOBUFS)) => {
                    complain(&self.cannot_hear, format_args!("cannot hear who serves: {}", errno.desc()));
                    thread::sleep(SHORTAGE_PAUSE);
                    return false;
                }
                Err(_) => return true,
            };
            if message.bytes == 0 {
                return true;
            }
            let sender = message.cmsgs().ok().into_iter().flatten().find_map(|control| match control {
                ControlMessageOwned::ScmCredentials(sender) => u32::try_from(sender.pid()).ok(),
                _ => None,
            });
            self.has_heard = true;
            self.announced = sender.map(|pid| (pid, SystemTime::now())).or(self.announced);
            self.follow();
        }
    }

    /// Follows the process that reported that it serves.
    fn follow(&mut self) {
        let Some((pid, heard)) = self.announced else { return };
        let cannot_follow =
            |why: &dyn fmt::Display| format!("cannot follow process {pid}, which serves: {why}");
        match pidfd::open(pid) {
            // After a shortage the process may be gone, and its number may belong to a stranger, which must not get the
            // service's signals.
            Ok(pidfd) => match proc::began_before(pidfd.as_fd(), heard) {
                Ok(true) => self.set_current(pid, pidfd),
                Ok(false) => {}
                Err(why) => {
                    complain(&self.cannot_follow, format_args!("{}", cannot_follow(&why)));
                    return;
                }
            },
            // The process is dead already. The process that takes its place reports in turn.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => {
                complain(&self.cannot_follow, format_args!("{}", cannot_follow(&error)));
                return;
            }
        }
        self.announced = None;
    }

    fn read_signals(&mut self) -> Vec<libc::c_int> {
        let mut asked = Vec::new();
        while let Ok(Some(info)) = self.signals.read_signal() {
            let Ok(signal) = i32::try_from(info.ssi_signo) else { continue };
            match signal == self.upgrade as i32 && self.is_hangup(&info) {
                // For a generation it would be the SIGHUP of an operator. The shell and the kernel both send one.
                true if hangup::is_nothing() || std::mem::replace(&mut self.has_hung_up, true) => {}
                true => asked.push(libc::SIGTERM),
                false => asked.push(signal),
            }
        }
        asked
    }

    fn is_hangup(&self, info: &siginfo) -> bool {
        let pid = libc::pid_t::try_from(info.ssi_pid).unwrap_or_default();
        // Another thread of this process may have sent it on.
        let code = if info.ssi_code == libc::SI_QUEUE { info.ssi_errno } else { info.ssi_code };
        self.upgrade == Signal::SIGHUP
            && match hangup::sender(code, pid) {
                Sender::Kernel => true,
                Sender::Leader => hangup::is_terminal_gone(),
                Sender::Operator => false,
            }
    }

    fn pass_on(&mut self, asked: Vec<libc::c_int>) {
        for signal in asked {
            match Signal::try_from(signal) {
                // It has woken this process, which reaps below.
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGTERM | Signal::SIGINT) => {
                    self.stops.push(signal);
                    self.send_stops();
                }
                _ => {
                    if let Some(current) = self.current() {
                        pidfd::signal(current.pidfd.as_fd(), signal);
                    }
                }
            }
        }
    }

    /// Sends the serving process the stops that it has not been sent.
    fn send_stops(&mut self) {
        let Some(current) = self.generations.back_mut() else { return };
        for signal in &self.stops[current.stops..] {
            pidfd::signal(current.pidfd.as_fd(), *signal);
        }
        current.stops = self.stops.len();
    }

    /// Reaps every dead child. This process has no children but the service's, and no other code here waits for them.
    /// So here, and only here, it may wait for any child.
    fn reap(&mut self) {
        // Look before reaping: a number alone does not show whether the process is one of the generations.
        while let Ok(Some((pid, _))) = pidfd::wait(libc::P_ALL, 0, libc::WNOHANG | libc::WNOWAIT) {
            let known = self.generations.iter().rposition(|it| it.pid == pid && it.status.is_none());
            if known.is_some_and(|at| self.reap_generation(at, libc::WNOHANG)) {
                continue;
            }
            // The status of an orphan is not used.
            match pidfd::wait(libc::P_PID, pid, libc::WNOHANG) {
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Records how a generation ended. Returns whether it has ended as a child of this process.
    fn reap_generation(&mut self, at: usize, flags: libc::c_int) -> bool {
        let generation = &mut self.generations[at];
        let pidfd = generation.pidfd.as_raw_fd().unsigned_abs();
        let Ok(Some((_, ended))) = pidfd::wait(libc::P_PIDFD, pidfd, flags) else { return false };
        generation.status = Some(ended.status());
        self.last = generation.status;
        true
    }

    fn set_current(&mut self, pid: u32, pidfd: OwnedFd) {
        // A generation whose successor has died serves again. If the known process is dead, another one has its number.
        let is_it = |it: &GenerationProcess| it.pid == pid && !pidfd::is_dead(it.pidfd.as_fd());
        let known = self.generations.iter().position(is_it);
        let current = known.and_then(|at| self.generations.remove(at));
        self.generations.retain(|it| it.status.is_none());
        if self.generations.len() == MAX_GENERATIONS {
            self.generations.pop_front();
        }
        self.generations.push_back(current.unwrap_or_else(|| GenerationProcess::new((pid, pidfd))));
        self.send_stops();
    }

    fn current(&self) -> Option<&GenerationProcess> {
        self.generations.back()
    }

    /// The status of the generation that served last. If its predecessor reaped it, the status of the predecessor.
    fn last_status(&mut self) -> i32 {
        // A process closes its descriptors before it is dead, and then leaves its children to this process. Waiting for
        // the oldest first makes the next one a child of this process, unless its predecessor has reaped it.
        for at in 0..self.generations.len() {
            if self.generations[at].status.is_none() {
                self.reap_generation(at, 0);
            }
        }
        self.current().and_then(|it| it.status).or(self.last).unwrap_or_else(|| {
            complain_as_supervisor(format_args!("the supervisor does not know how the service ended"));
            1
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{self, Command};

    use nix::sys::signal::SigSet;

    use super::*;
    use crate::sys::fault::failing;

    /// A supervisor with this process as the first generation, and the other end of the socket.
    fn supervisor() -> (Supervisor, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        setsockopt(&ours, sockopt::PassCred, &true).unwrap();
        let signals = SignalFd::new(&SigSet::empty()).unwrap();
        let us = process::id();
        let first = GenerationProcess::new((us, pidfd::open(us).unwrap()));
        (Supervisor::new(Signal::SIGHUP, signals, ours, first), theirs)
    }

    #[test]
    fn a_shortage_does_not_end_the_service_and_nothing_is_missed() {
        let (mut supervisor, service) = supervisor();
        supervisor.generations.clear();
        tell(&service);
        for errno in [Errno::ENOMEM, Errno::ENOBUFS] {
            assert!(!failing(libc::SYS_recvmsg, errno, || supervisor.hear()), "{errno}");
        }
        for errno in [Errno::EMFILE, Errno::ENOMEM] {
            assert!(!failing(libc::SYS_pidfd_open, errno, || supervisor.hear()), "{errno}");
            assert!(supervisor.announced.is_some() && supervisor.generations.is_empty(), "{errno}");
        }
        supervisor.follow();
        assert_eq!(supervisor.current().map(|it| it.pid), Some(process::id()));
        assert_eq!(supervisor.announced, None);
        drop(service);
        assert!(supervisor.hear(), "that is the end");
    }

    #[test]
    fn one_that_is_dead_by_then_is_not_followed() {
        let (mut supervisor, service) = supervisor();
        tell(&service);
        assert!(!failing(libc::SYS_pidfd_open, Errno::ESRCH, || supervisor.hear()));
        assert_eq!((supervisor.announced, supervisor.generations.len()), (None, 1));
    }

    /// The supervisor gets no processor between the report and the death. The status of the service is that of this process.
    #[test]
    fn a_process_that_dies_right_after_its_report_is_the_last_one() {
        let (mut supervisor, _service) = supervisor();
        supervisor.last = Some(0);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd::open(child.id()).unwrap();
        supervisor.announced = Some((child.id(), SystemTime::now()));
        child.kill().unwrap();
        poll::until(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], None).unwrap();
        supervisor.follow();
        assert_eq!(supervisor.current().map(|it| it.pid), Some(child.id()));
        assert_eq!(supervisor.last_status(), 128 + 9);
        assert!(child.wait().is_err(), "it was reaped");
    }

    /// It reported, could not be followed for want of descriptors, and died meanwhile.
    #[test]
    fn a3_a_number_that_is_another_process_by_now_is_not_followed() {
        let (mut supervisor, _service) = supervisor();
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let before = SystemTime::now() - Duration::from_secs(3600);
        supervisor.announced = Some((other.id(), before));
        supervisor.follow();
        assert_eq!((supervisor.announced, supervisor.generations.len()), (None, 1));
        supervisor.announced = Some((other.id(), SystemTime::now()));
        supervisor.follow();
        assert_eq!(supervisor.current().map(|it| it.pid), Some(other.id()));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    /// A generation that its predecessor has reaped is not waited for, even if another process has its number.
    #[test]
    fn a_number_that_is_another_process_by_now_is_not_waited_for() {
        let (mut supervisor, _service) = supervisor();
        let mut reaped = Command::new("true").spawn().unwrap();
        let pidfd = pidfd::open(reaped.id()).unwrap();
        reaped.wait().unwrap();
        let mut orphan = Command::new("sleep").arg("1000").spawn().unwrap();
        supervisor.generations.push_back(GenerationProcess::new((orphan.id(), pidfd)));
        supervisor.last = Some(7);
        assert_eq!(supervisor.last_status(), 7);
        // The report comes from another process than the generation of that number.
        supervisor.set_current(orphan.id(), pidfd::open(orphan.id()).unwrap());
        assert_eq!(supervisor.generations.len(), 3);
        orphan.kill().unwrap();
        assert_eq!(supervisor.last_status(), 128 + 9);
        assert!(orphan.wait().is_err(), "it was reaped");
    }

    #[test]
    fn a_signal_without_a_name_is_a_status_as_well() {
        let (mut supervisor, _service) = supervisor();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd::open(child.id()).unwrap();
        pidfd::signal(pidfd.as_fd(), 40);
        supervisor.set_current(child.id(), pidfd);
        assert_eq!(supervisor.last_status(), 128 + 40);
        assert!(child.wait().is_err(), "it was reaped");
    }
}
