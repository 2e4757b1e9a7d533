//! A parent that stays: one process ID for whoever watches the service, through every upgrade of it.
//!
//! docker, Kubernetes, runit and supervisord take the process that they started for the service, and its end for the end of
//! it. So that process can be this one, which serves nothing: it starts the first generation, passes its signals on to the
//! generation that serves, reaps what is orphaned, and exits like the last one.
//!
//! Each generation has one end of a socket, which the first gets as it starts and every other from its predecessor, and
//! says on it that it serves; the kernel adds who it is (SCM_CREDENTIALS, unix(7)). Its end of file says that no process of
//! the service is left.

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
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg, send,
    setsockopt, socketpair, sockopt,
};

use crate::base::report::{RateLimit, complain_as_supervisor};
use crate::sys::pidfd;
use crate::sys::poll;
use crate::sys::proc;
use crate::sys::signals;

/// The name under which its socket is passed on from generation to generation, among the files of a service. No service
/// would call one of its own like this.
pub(crate) const NAME: &str = "supervisor\0";

/// How many generations are remembered: those whose processes may still be there to be reaped, and many more.
const MAX_GENERATIONS: usize = 16;
/// How long to wait where the system has no memory or no descriptor for what is to be done, before it is tried again.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

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
pub(crate) fn run(
    start: impl FnOnce(BorrowedFd<'_>) -> io::Result<(u32, OwnedFd)>,
) -> io::Result<Infallible> {
    set_child_subreaper(true)?;
    let passed_on = signals::block_all()?;
    let signals = SignalFd::with_flags(&passed_on, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    setsockopt(&ours, sockopt::PassCred, &true)?;
    let first = start(theirs.as_fd())?;
    drop(theirs);
    let mut supervisor = Supervisor::new(signals, ours, GenerationProcess::new(first));
    loop {
        let mut fds = [
            PollFd::new(supervisor.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(supervisor.service.as_fd(), PollFlags::POLLIN),
        ];
        let deadline = supervisor.announced.map(|_| Instant::now() + SHORTAGE_PAUSE);
        if let Err(error) = poll::until(&mut fds, deadline) {
            // poll(2) fails for want of memory only.
            complain(&supervisor.cannot_wait, format_args!("cannot wait: {error}"));
            thread::sleep(SHORTAGE_PAUSE);
        }
        // Read in this order, and passed on at the end: whoever has seen a process serve and asks for something means that
        // one. Read the other way round, its word and the signal could both come in between, and the signal go to the
        // process before it, which may be dead.
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

/// Says what there is no memory or no descriptor for; it is tried again.
fn complain(complaint: &RateLimit, what: fmt::Arguments<'_>) {
    if complaint.is_due() {
        complain_as_supervisor(format_args!("the supervisor {what}"));
    }
}

/// A process that serves, or has served.
struct GenerationProcess {
    pid: u32,
    /// The process itself, whose number may be another's once its predecessor has reaped it.
    pidfd: OwnedFd,
    /// How it has ended, if it was reaped here.
    status: Option<i32>,
    /// How many of the stops it was sent.
    stops: usize,
}

impl GenerationProcess {
    fn new((pid, pidfd): (u32, OwnedFd)) -> Self {
        Self { pid, pidfd, status: None, stops: 0 }
    }
}

struct Supervisor {
    signals: SignalFd,
    service: OwnedFd,
    /// Those that served last, and were not reaped here before the next; the one that serves is the last of them.
    generations: VecDeque<GenerationProcess>,
    /// The process that has said that it serves, until it is followed.
    announced: Option<(u32, SystemTime)>,
    /// The status of the one that was reaped last.
    last: Option<i32>,
    /// The signals that stop the service, of those that have come. The process that one is passed on to may have handed the
    /// service over by the time that it reads it, and takes it for a stop of that process alone. So they go to each
    /// that serves from then on.
    stops: Vec<libc::c_int>,
    cannot_wait: RateLimit,
    cannot_hear: RateLimit,
    cannot_follow: RateLimit,
}

impl Supervisor {
    fn new(signals: SignalFd, service: OwnedFd, first: GenerationProcess) -> Self {
        let generations = VecDeque::from([first]);
        Self {
            signals,
            service,
            generations,
            announced: None,
            last: None,
            stops: Vec::new(),
            cannot_wait: RateLimit::default(),
            cannot_hear: RateLimit::default(),
            cannot_follow: RateLimit::default(),
        }
    }

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
                // ECONNRESET: one has died with something unread. The kernel says so once, ahead of the end.
                Err(Errno::EINTR | Errno::ECONNRESET) => continue,
                Err(Errno::EAGAIN) => return false,
                // What was said is where it was, and poll(2) says so at once.
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
            self.announced = sender.map(|pid| (pid, SystemTime::now())).or(self.announced);
            self.follow();
        }
    }

    /// Follows the process that has said that it serves.
    fn follow(&mut self) {
        let Some((pid, heard)) = self.announced else { return };
        let cannot_follow =
            |why: &dyn fmt::Display| format!("cannot follow process {pid}, which serves: {why}");
        match pidfd::open(pid) {
            // After a shortage the process may be gone, and its number be that of another, which gets no signals of the
            // service's.
            Ok(pidfd) => match proc::began_before(pidfd.as_fd(), heard) {
                Ok(true) => self.set_current(pid, pidfd),
                Ok(false) => {}
                Err(why) => {
                    complain(&self.cannot_follow, format_args!("{}", cannot_follow(&why)));
                    return;
                }
            },
            // One that is dead already has told it in vain; whoever takes its place tells it again.
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
            asked.extend(i32::try_from(info.ssi_signo));
        }
        asked
    }

    fn pass_on(&mut self, asked: Vec<libc::c_int>) {
        for signal in asked {
            match Signal::try_from(signal) {
                // It is enough that it has woken this process.
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

    /// Sends the process that serves those of the stops that it has not been sent.
    fn send_stops(&mut self) {
        let Some(current) = self.generations.back_mut() else { return };
        for signal in &self.stops[current.stops..] {
            pidfd::signal(current.pidfd.as_fd(), *signal);
        }
        current.stops = self.stops.len();
    }

    /// Reaps every child that is dead. This process has none but the service's, so that nobody else waits for one of
    /// them: here, and here alone, any child may be waited for.
    fn reap(&mut self) {
        // Each is looked at before it is reaped: a number alone does not tell whether it is one of the generations.
        while let Ok(Some((pid, _))) = pidfd::wait(libc::P_ALL, 0, libc::WNOHANG | libc::WNOWAIT) {
            let known = self.generations.iter().rposition(|it| it.pid == pid && it.status.is_none());
            if known.is_some_and(|at| self.reap_generation(at, libc::WNOHANG)) {
                continue;
            }
            // Of an orphan that is none of them nobody asks.
            match pidfd::wait(libc::P_PID, pid, libc::WNOHANG) {
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Takes down how a generation has ended. Returns whether it has, and as a child of this process.
    fn reap_generation(&mut self, at: usize, flags: libc::c_int) -> bool {
        let generation = &mut self.generations[at];
        let pidfd = generation.pidfd.as_raw_fd().unsigned_abs();
        let Ok(Some((_, ended))) = pidfd::wait(libc::P_PIDFD, pidfd, flags) else { return false };
        generation.status = Some(ended.status());
        self.last = generation.status;
        true
    }

    fn set_current(&mut self, pid: u32, pidfd: OwnedFd) {
        // One whose successor has died serves again. If it is dead, it is another that has its number.
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

    /// That of the generation that served last; if its predecessor has reaped it, that of the predecessor.
    fn last_status(&mut self) -> i32 {
        // A process closes its descriptors before it is dead, and leaves its children to this one after that. So the oldest
        // is waited for first: then the next is a child of this process, or was reaped by its predecessor.
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

    /// A supervisor whose first generation is this process, and the other end of its socket.
    fn supervisor() -> (Supervisor, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        setsockopt(&ours, sockopt::PassCred, &true).unwrap();
        let signals = SignalFd::new(&SigSet::empty()).unwrap();
        let us = process::id();
        let first = GenerationProcess::new((us, pidfd::open(us).unwrap()));
        (Supervisor::new(signals, ours, first), theirs)
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

    /// It was announced, could not be followed at once for want of descriptors, and died meanwhile.
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

    /// A generation that its predecessor has reaped is waited for by nobody, whoever has its number.
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
        // It says that it serves: that is another process than the generation of its number.
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
