//! The proof that a process is the service of a pid file. A number proves nothing: after a crash the file stays. The
//! system gives the number to another process, which a signal would end.
//!
//! [`prove`] is the only way from a pid file to a process, and [`Proven`] the only value that a signal can be sent
//! through. What cannot be read is no proof.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::base::error::StartError;
use crate::base::identity::PredecessorOffer;
use crate::base::limits::ENGINE_THREAD;
use crate::outside::pidfile::{self, Pidfile};
use crate::sys::pidfd;
use crate::sys::proc::{self, Pids};
use crate::sys::signals::UPGRADE_SIGNALS;

/// By how much a process may seem to start later than it did: slewing the system clock moves the two times apart.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// A process that is the service of a pid file, by pidfd. Its number may be reused; the pidfd stays valid.
#[derive(Debug)]
pub(crate) struct Proven {
    pid: u32,
    /// Its number in /proc, which may be mounted for another PID namespace.
    in_proc: u32,
    pidfd: OwnedFd,
}

/// Why there is no process to signal.
#[derive(Debug)]
pub(crate) enum Unproven {
    /// The pid file cannot be read.
    Unreadable(io::Error),
    /// The file contains no process ID.
    NoNumber,
    /// The process of that number is dead.
    Dead(u32),
    /// A process of that number lives. The text is the evidence that it is not the service.
    Stranger(u32, String),
}

impl Unproven {
    /// The reason in words, for this pid file.
    pub(crate) fn describe(&self, pidfile: &Path) -> String {
        let pidfile = pidfile.display();
        match self {
            Self::Unreadable(error) => format!("{pidfile}: {error}"),
            Self::NoNumber => format!("{pidfile} is neither a control socket nor a pid file"),
            Self::Dead(pid) => format!("{pidfile} names process {pid}, which is dead"),
            Self::Stranger(pid, reason) => {
                format!("{pidfile} names process {pid}, which is not proven to be the service: {reason}")
            }
        }
    }
}

/// Why a signal was not sent.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The process has no handler for the signal, so the signal would end it.
    Unhandled,
    /// pidfd_send_signal(2) failed: the process is dead, or of another user.
    System(io::Error),
}

/// Proves that the process in a pid file is the service, or returns the evidence against it.
///
/// A socket at `control` that refuses connections is evidence against it: a live service listens there. A control
/// socket that answers needs no proof and no signal, because the process that answers takes requests.
///
/// Without a control socket, four facts prove the service. The process began before the file was written. It handles
/// the signals of a service. Its own number is the number in the file. It has the thread of an engine.
pub(crate) fn prove(pidfile: &Path, control: Option<&Path>) -> Result<Proven, Unproven> {
    loop {
        let read = pidfile::read(pidfile).map_err(Unproven::Unreadable)?;
        let (pid, written) = read.ok_or(Unproven::NoNumber)?;
        let proven = examine(pid, written, control);
        // A successor may have replaced the file meanwhile, and the process in the old file may be gone.
        if proven.is_ok() || !pidfile::read(pidfile).is_ok_and(|now| now != read) {
            return proven;
        }
    }
}

fn examine(pid: u32, written: SystemTime, control: Option<&Path>) -> Result<Proven, Unproven> {
    let stranger = |reason: String| Unproven::Stranger(pid, reason);
    let pidfd = pidfd::open(pid).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => Unproven::Dead(pid),
        Some(libc::EINVAL | libc::ENOENT) => stranger("the number is that of a thread".to_owned()),
        _ => stranger(format!("pidfd_open(2): {error}")),
    })?;
    let evidence = evidence(pid, &pidfd, written, control);
    // If the process is dead by now, /proc may have shown another one.
    if pidfd::is_dead(pidfd.as_fd()) {
        return Err(Unproven::Dead(pid));
    }
    let in_proc = evidence.map_err(stranger)?;
    Ok(Proven { pid, in_proc, pidfd })
}

/// The number of a service in /proc, or the evidence against it.
fn evidence(pid: u32, pidfd: &OwnedFd, written: SystemTime, control: Option<&Path>) -> Result<u32, String> {
    if let Some(control) = control.filter(|control| refuses(control)) {
        return Err(format!(
            "the control socket {} refuses, so the service is dead; remove that file if the service runs without a control socket",
            control.display()
        ));
    }
    let Pids { in_proc, innermost } = Pids::of(pidfd.as_fd())?;
    if innermost != pid {
        return Err(format!("it is process {innermost} in a PID namespace of its own"));
    }
    // A process that exits loses its memory first. It still has its threads and handlers, and serves no more.
    if proc::field(&proc::read(&proc::file(in_proc, "status"))?, "VmSize").is_none() {
        return Err("it is about to be dead".to_owned());
    }
    let caught = proc::caught(in_proc)?;
    if !proc::is_in(caught, Signal::SIGTERM)
        || !UPGRADE_SIGNALS.into_iter().any(|(_, it)| proc::is_in(caught, it))
    {
        return Err("it does not handle SIGTERM and an upgrade signal".to_owned());
    }
    if !proc::has_thread(in_proc, ENGINE_THREAD)? {
        return Err(format!("it has no thread `{ENGINE_THREAD}`"));
    }
    if proc::began(in_proc)? > written + CLOCK_SLACK {
        return Err("it began after the file was written".to_owned());
    }
    Ok(in_proc)
}

impl Proven {
    /// The process ID in the pid file.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A file of the process in /proc.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        proc::file(self.in_proc, name)
    }

    /// Whether the process has a handler for a signal.
    pub(crate) fn handles(&self, signal: Signal) -> bool {
        proc::caught(self.in_proc).is_ok_and(|caught| proc::is_in(caught, signal))
    }

    /// Sends a signal that the process handles.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Unsent> {
        // The process may have executed another program since the proof. An exec keeps the process and drops its
        // handlers.
        if !self.handles(signal) {
            return Err(Unsent::Unhandled);
        }
        self.send(signal)
    }

    /// Ends the process by SIGKILL, if it still handles the signals of a service.
    pub(crate) fn kill(&self) -> Result<(), Unsent> {
        if !self.handles(Signal::SIGTERM) {
            return Err(Unsent::Unhandled);
        }
        self.send(Signal::SIGKILL)
    }

    fn send(&self, signal: Signal) -> Result<(), Unsent> {
        let sent = pidfd::try_signal(self.pidfd.as_fd(), signal as libc::c_int);
        sent.map_err(|errno| Unsent::System(errno.into()))
    }
}

impl AsFd for Proven {
    /// Readable once the process is dead, pidfd_open(2).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The error of a start whose pid file belongs to another service. The pid file of the predecessor's offer belongs to
/// this service. A number that was reused for another process or a thread does not prevent a start.
pub(crate) fn other_service(pidfile: &Pidfile, predecessor: Option<&PredecessorOffer>) -> Option<StartError> {
    let shown = pidfile::shown(Some(pidfile.path()));
    if predecessor.and_then(|it| it.pidfile.as_ref()).is_some_and(|offered| *offered == shown) {
        return None;
    }
    // Without the control socket: a leftover one would count as evidence that the other service is dead, and two
    // services would run.
    let service = prove(pidfile.path(), None).ok()?;
    let pid = service.pid();
    // The parent is not left out: a service may have started this one.
    if pid == std::process::id() || predecessor.is_some_and(|it| it.pid == pid) {
        return None;
    }
    // The executable of another user's process is visible to that user and root only.
    let program = fs::read_link(service.proc("exe")).unwrap_or_else(|_| PathBuf::from("service"));
    Some(StartError::Running { path: pidfile.path().to_owned(), pid, program })
}

/// The process at the other end of a socket, if it calls itself `said`. `sender` is its number here, from
/// SCM_CREDENTIALS. Its PID namespace may be another, and a proxy may answer. The sender lives as long as its
/// connection.
pub(crate) fn process_behind(sender: u32, said: u32) -> Option<OwnedFd> {
    let pidfd = pidfd::open(sender).ok()?;
    (Pids::of(pidfd.as_fd()).ok()?.innermost == said).then_some(pidfd)
}

/// The process that `neighbour`, which calls itself `us`, calls `said`. The caller may wait for it and must never
/// signal it. `None` if it is dead.
///
/// # Errors
///
/// The two are in another PID namespace than this process, where the number belongs to a stranger.
pub(crate) fn process_beside(
    neighbour: BorrowedFd<'_>,
    us: u32,
    said: u32,
) -> Result<Option<OwnedFd>, String> {
    let here = pidfd::open(us).map_err(|error| format!("pidfd_open(2): {error}"))?;
    if Pids::of(here.as_fd())?.in_proc != Pids::of(neighbour)?.in_proc {
        return Err("it is in another PID namespace".to_owned());
    }
    let pidfd = match pidfd::open(said) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        pidfd => pidfd.map_err(|error| format!("pidfd_open(2): {error}"))?,
    };
    let innermost = Pids::of(pidfd.as_fd()).map(|pids| pids.innermost);
    if pidfd::is_dead(pidfd.as_fd()) {
        return Ok(None);
    }
    if innermost? != said {
        return Err("it is in another PID namespace".to_owned());
    }
    Ok(Some(pidfd))
}

/// Whether a Unix socket exists and has no listener. A full queue is no refusal.
fn refuses(path: &Path) -> bool {
    let refused = || -> nix::Result<()> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
    };
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        && refused() == Err(Errno::ECONNREFUSED)
}

/// A process of this library that has a socket of this one as well, and did not begin after it: its predecessor. A process that this
/// one has forked is its child, or began later. `None` if there is none, or if this user cannot see it.
#[cfg(feature = "cli")]
pub(crate) fn elder_of(pid: u32) -> Option<u32> {
    let began = proc::began(pid).ok()?;
    let sockets = pidfd::sockets_of(pid);
    let numbers = fs::read_dir("/proc").ok()?;
    let mut numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    numbers.find(|other| {
        // The time counts in hundredths of a second, in which a process can start another one.
        let is_child = proc::parent_and_program(*other).is_some_and(|(parent, _)| parent == pid);
        let is_elder = *other != pid && !is_child && proc::began(*other).is_ok_and(|it| it <= began);
        is_elder
            && proc::has_thread(*other, ENGINE_THREAD).unwrap_or(false)
            && pidfd::holds_any(*other, &sockets)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// The number of a thread has an entry in /proc as well.
    #[test]
    fn a_number_is_that_of_a_process() {
        let number = thread::spawn(|| {
            let here = fs::read_link("/proc/thread-self").unwrap();
            let number = here.file_name().unwrap().to_str().unwrap().parse().unwrap();
            examine(number, SystemTime::now(), None).map(drop)
        });
        let refused = number.join().unwrap().unwrap_err();
        assert!(
            matches!(&refused, Unproven::Stranger(_, reason) if reason.contains("a thread")),
            "{refused:?}"
        );
    }

    #[test]
    fn a_socket_refuses_once_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("control"), dir.path().join("link"));
        symlink(&path, &link).unwrap();
        assert!(!refuses(&path) && !refuses(&link), "there is none");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(!refuses(&path) && !refuses(&link));
        drop(listener);
        assert!(refuses(&path) && refuses(&link));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(!refuses(&path), "it is no socket");
    }
}
