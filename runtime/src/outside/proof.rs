//! The proof that a process is the service of a pid file. A number proves nothing: after a crash the file stays, and the
//! system gives the number to another process, which a signal would end.
//!
//! [`prove`] is the only way from a pid file to a process, and [`Proven`] the only value that a signal can be sent through.
//! What cannot be read is no proof.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::{SysconfVar, sysconf};

use crate::base::limits::ENGINE_THREAD;
use crate::outside::pidfile;
use crate::sys::pidfd;
use crate::sys::signals::UPGRADE_SIGNALS;

/// How much later than it was the start of a process may seem to be: a clock that is slewed moves the two apart.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// A process that is the service of a pid file, by pidfd: its number may become another process's, the descriptor does not.
#[derive(Debug)]
pub struct Proven {
    pid: u32,
    /// Its number in /proc, which may be mounted for another PID namespace.
    in_proc: u32,
    pidfd: OwnedFd,
}

/// Why there is no process to signal.
#[derive(Debug)]
pub enum Unproven {
    /// The pid file cannot be read.
    Unreadable(io::Error),
    /// It has no number of a process.
    NoNumber,
    /// The process of that number is dead.
    Dead(u32),
    /// A process of that number lives, and this speaks against its being the service.
    Stranger(u32, String),
}

impl Unproven {
    /// The same in words, of this pid file.
    pub fn describe(&self, pidfile: &Path) -> String {
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
pub enum Unsent {
    /// The process has no handler for it, and would be ended.
    Unhandled,
    /// pidfd_send_signal(2) has failed: the process is dead, or of another user.
    System(io::Error),
}

/// Proves that the process which a pid file names is the service, or says what speaks against it.
///
/// A socket at `control` that refuses speaks against it: a service that lives listens there. A control socket that answers
/// needs no proof, and no signal: requests go through it, to whichever process answers.
///
/// Without one, the process began before the file was written, handles the signals of a service, knows itself by the number
/// in the file and has the thread of an engine.
pub fn prove(pidfile: &Path, control: Option<&Path>) -> Result<Proven, Unproven> {
    loop {
        let read = pidfile::read(pidfile).map_err(Unproven::Unreadable)?;
        let (pid, written) = read.ok_or(Unproven::NoNumber)?;
        let proven = examine(pid, written, control);
        // A successor may have replaced the file meanwhile, and the process that it named before be gone.
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
    // What was read of /proc was that of another process if this one is dead by now.
    if pidfd::is_dead(pidfd.as_fd()) {
        return Err(Unproven::Dead(pid));
    }
    let in_proc = evidence.map_err(stranger)?;
    Ok(Proven { pid, in_proc, pidfd })
}

/// The number of a service in /proc, or what speaks against its being one.
fn evidence(pid: u32, pidfd: &OwnedFd, written: SystemTime, control: Option<&Path>) -> Result<u32, String> {
    if let Some(control) = control.filter(|control| refuses(control)) {
        return Err(format!(
            "the control socket {} refuses, so the service is dead; remove that file if the service runs without a control socket",
            control.display()
        ));
    }
    let Numbers { in_proc, innermost } = Numbers::of(pidfd.as_fd())?;
    if innermost != pid {
        return Err(format!("it is process {innermost} in a PID namespace of its own"));
    }
    // Of a process that exits the memory goes first: it has its threads and its handlers still, and serves no more.
    if field(&read(&of_process(in_proc, "status"))?, "VmSize").is_none() {
        return Err("it is about to be dead".to_owned());
    }
    let caught = caught(in_proc)?;
    if !is_in(caught, Signal::SIGTERM) || !UPGRADE_SIGNALS.into_iter().any(|(_, it)| is_in(caught, it)) {
        return Err("it does not handle SIGTERM and an upgrade signal".to_owned());
    }
    if !has_engine(in_proc)? {
        return Err(format!("it has no thread `{ENGINE_THREAD}`"));
    }
    if began(in_proc)? > written + CLOCK_SLACK {
        return Err("it began after the file was written".to_owned());
    }
    Ok(in_proc)
}

impl Proven {
    /// Its number, as the pid file has it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A file of it in /proc.
    pub fn proc(&self, name: &str) -> PathBuf {
        of_process(self.in_proc, name)
    }

    /// Whether it has a handler for a signal.
    pub fn handles(&self, signal: Signal) -> bool {
        caught(self.in_proc).is_ok_and(|caught| is_in(caught, signal))
    }

    /// Sends a signal that it handles.
    pub fn signal(&self, signal: Signal) -> Result<(), Unsent> {
        // It may have executed another program since the proof: that keeps the process, and none of its handlers.
        if !self.handles(signal) {
            return Err(Unsent::Unhandled);
        }
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

/// A process at the other end of a socket, by the number that SCM_CREDENTIALS gives it here, if it is the one that calls itself
/// `said`: its PID namespace may be another, and what answers may be a proxy. The sender lives while its connection does.
pub fn process_behind(sender: u32, said: u32) -> Option<OwnedFd> {
    let pidfd = pidfd::open(sender).ok()?;
    (Numbers::of(pidfd.as_fd()).ok()?.innermost == said).then_some(pidfd)
}

/// A process that `neighbour`, which calls itself `us`, calls `said`: to be waited for, and never to be signalled. `None` if it is
/// dead. An error if the two count in another PID namespace than this process: here the number is that of a stranger.
pub fn process_beside(neighbour: BorrowedFd<'_>, us: u32, said: u32) -> Result<Option<OwnedFd>, String> {
    let here = pidfd::open(us).map_err(|error| format!("pidfd_open(2): {error}"))?;
    if Numbers::of(here.as_fd())?.in_proc != Numbers::of(neighbour)?.in_proc {
        return Err("it is in another PID namespace".to_owned());
    }
    let pidfd = match pidfd::open(said) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        pidfd => pidfd.map_err(|error| format!("pidfd_open(2): {error}"))?,
    };
    let innermost = Numbers::of(pidfd.as_fd()).map(|numbers| numbers.innermost);
    if pidfd::is_dead(pidfd.as_fd()) {
        return Ok(None);
    }
    if innermost? != said {
        return Err("it is in another PID namespace".to_owned());
    }
    Ok(Some(pidfd))
}

/// Whether a process began before a moment that is not long ago: what has a number then has not got it since.
pub(crate) fn began_before(pidfd: BorrowedFd<'_>, moment: SystemTime) -> Result<bool, String> {
    let began = Numbers::of(pidfd).and_then(|numbers| began(numbers.in_proc));
    // A dead process has nothing in /proc.
    if pidfd::is_dead(pidfd) { Ok(false) } else { Ok(began? <= moment) }
}

/// What a process is called.
struct Numbers {
    /// In the PID namespace that /proc is mounted for.
    in_proc: u32,
    /// In its own.
    innermost: u32,
}

impl Numbers {
    /// As /proc/self/fdinfo says of a pidfd, clone(2).
    fn of(pidfd: BorrowedFd<'_>) -> Result<Self, String> {
        let path = PathBuf::from(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
        let text = read(&path)?;
        // Of a process that is not visible from there it is 0, and of a dead one -1.
        let number = |number: &str| number.parse().ok().filter(|number| *number > 0);
        let in_proc = field(&text, "Pid").as_deref().and_then(number);
        let in_proc = in_proc.ok_or_else(|| "/proc does not have it".to_owned())?;
        // A kernel without PID namespaces does not say it.
        let innermost = match field(&text, "NSpid") {
            Some(numbers) => numbers.split_whitespace().next_back().and_then(number),
            None => Some(in_proc),
        };
        let innermost = innermost.ok_or_else(|| format!("{} does not say its number", path.display()))?;
        Ok(Self { in_proc, innermost })
    }
}

/// Whether nobody listens at a Unix socket, though there is one. A queue that is full is no refusal.
fn refuses(path: &Path) -> bool {
    let refused = || -> nix::Result<()> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
    };
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        && refused() == Err(Errno::ECONNREFUSED)
}

/// The signals for which a process has a handler, as a mask, proc_pid_status(5).
fn caught(in_proc: u32) -> Result<u64, String> {
    let path = of_process(in_proc, "status");
    let mask = field(&read(&path)?, "SigCgt").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    mask.ok_or_else(|| format!("{} does not say what it handles", path.display()))
}

fn is_in(mask: u64, signal: Signal) -> bool {
    mask >> (signal as i32 - 1) & 1 == 1
}

/// Whether a process has the thread of an engine, proc_pid_comm(5). The first thread, which is named after the file that it
/// executes, is none.
fn has_engine(in_proc: u32) -> Result<bool, String> {
    let directory = of_process(in_proc, "task");
    let threads = fs::read_dir(&directory).map_err(|error| cannot_read(&directory, &error))?;
    let first = in_proc.to_string();
    // A thread that has ended by now has no name.
    let name = |thread: fs::DirEntry| fs::read(thread.path().join("comm")).unwrap_or_default();
    let mut others = threads.flatten().filter(|thread| thread.file_name() != *first);
    Ok(others.any(|thread| name(thread).trim_ascii_end() == ENGINE_THREAD.as_bytes()))
}

/// When a process was started: its 22nd field in /proc/PID/stat, in ticks since the machine was, proc_pid_stat(5).
fn began(in_proc: u32) -> Result<SystemTime, String> {
    let path = of_process(in_proc, "stat");
    let stat = read(&path)?;
    let machine = read(Path::new("/proc/stat"))?;
    let began = || {
        // The name before it, which is in brackets, may have any bytes.
        let after_name = stat.rsplit(|byte| *byte == b')').next()?;
        let ticks: u64 = std::str::from_utf8(after_name).ok()?.split_whitespace().nth(19)?.parse().ok()?;
        let in_a_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        let line = |line: &[u8]| Some(String::from_utf8_lossy(line.strip_prefix(b"btime ")?).into_owned());
        let booted = machine.split(|byte| *byte == b'\n').find_map(line)?.trim().parse().ok()?;
        let since = Duration::from_secs(ticks) / u32::try_from(in_a_second).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(booted) + since)
    };
    began().ok_or_else(|| format!("{} does not say when it began", path.display()))
}

/// A field of a file of /proc that has one a line. What is in such a file is bytes: a name may end within a character.
fn field(text: &[u8], name: &str) -> Option<String> {
    let value = |line: &[u8]| {
        let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?.trim_ascii();
        Some(String::from_utf8_lossy(value).into_owned())
    };
    text.split(|byte| *byte == b'\n').find_map(value)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| cannot_read(path, &error))
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

fn of_process(in_proc: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{in_proc}/{name}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A process that is younger than a pid file did not write it.
    #[test]
    fn a_process_is_of_its_time() {
        let us = std::process::id();
        let (now, began) = (SystemTime::now(), began(us).unwrap());
        assert!(began <= now + CLOCK_SLACK && began + Duration::from_secs(3600) > now, "{began:?} {now:?}");
    }

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
    fn what_is_in_proc_is_bytes() {
        let text = b"Name:\tcaf\xc3\nTgid:\t7\nSigCgt:\t0000000000004001\n";
        assert_eq!(field(text, "Tgid").as_deref(), Some("7"));
        assert_eq!(field(text, "SigCgt").as_deref(), Some("0000000000004001"));
        assert_eq!(field(text, "Sig"), None, "it is the whole name");
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
