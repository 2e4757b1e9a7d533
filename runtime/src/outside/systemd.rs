//! The service manager: the messages to it, sd_notify(3), and the descriptors from it, sd_listen_fds(3).
//!
//! The life cycle decides on each message. No send blocks. When the manager is gone, the service goes on without it.

mod passed;
mod whereabouts;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::pipe2;

use crate::base::error::StartError;
use crate::base::report::printable;
use crate::config::environment::{self, LISTEN_FDNAMES, LISTEN_FDS, NOTIFY_SOCKET, WATCHDOG_USEC};
use crate::outside::inherited::Numbers;
use crate::sys::outgoing::Outgoing;
use crate::sys::pidfd;
use crate::sys::poll;

pub(crate) use passed::{adopt_passed, close_unadopted, describe_passed, is_reachable, take_passed};
pub(crate) use whereabouts::{Whereabouts, behind_a_wrapper, is_behind_a_wrapper};

/// How many descriptors the manager stores for the service. systemd sets it since version 254.
const FDSTORE: &str = "FDSTORE";

/// The first descriptor that a manager passes, SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;
/// The magic number of pidfs, PIDFS_MAGIC. The inode of a pidfd there is never used for another process.
const PIDFS: i64 = 0x5049_4446;
/// The prefix of a listener's name in the store. It tells a stored socket from one of a socket unit.
const STORED: &str = "tableflip.";

/// The variables that a service manager has set for this process.
#[derive(Debug, Default)]
pub(crate) struct Variables {
    notify: Option<OsString>,
    watchdog: Option<OsString>,
    watchdog_pid: Option<OsString>,
    listen_pid: Option<OsString>,
    listen_pidfdid: Option<OsString>,
    listen_fds: Option<OsString>,
    listen_names: Option<OsString>,
}

impl Variables {
    /// Takes the variables out of the environment, so that no child of the service uses them.
    pub(crate) fn take() -> Self {
        let [notify, watchdog, watchdog_pid, listen_pid, listen_pidfdid, listen_fds, listen_names] =
            environment::take(environment::OF_MANAGER);
        Self { notify, watchdog, watchdog_pid, listen_pid, listen_pidfdid, listen_fds, listen_names }
    }

    /// The variables that the next process of the service gets.
    pub(crate) fn for_successor(&self) -> Vec<(&'static str, OsString)> {
        let variables = [(NOTIFY_SOCKET, &self.notify), (WATCHDOG_USEC, &self.watchdog)];
        variables.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }

    /// Whether systemd started this process without a notify socket: the unit is not `Type=notify`.
    pub(crate) fn lacks_notify_socket(&self) -> bool {
        let started = std::env::var_os("SYSTEMD_EXEC_PID");
        self.notify.is_none() && started.is_some_and(|pid| pid == *process::id().to_string())
    }

    /// The connection to the manager. `None` without a notify socket; `None` and a warning where the socket cannot be
    /// reached.
    ///
    /// # Errors
    ///
    /// This process cannot make a socket. The manager may still exist and follow this process. If it missed the next
    /// upgrade, it would take the end of this process for the end of the service.
    pub(crate) fn connect(&self, warnings: &mut Vec<String>) -> Result<Option<Manager>, StartError> {
        let Some(at) = self.notify.as_deref() else { return Ok(None) };
        let socket = UnixDatagram::unbound()
            .map_err(StartError::system("make a socket to talk to the service manager"))?;
        // The variable may be inherited by accident.
        if let Err(error) = connect(&socket, at) {
            warnings.push(format!("no service manager is told: {NOTIFY_SOCKET}={at:?}: {error}"));
            return Ok(None);
        }
        let number = |value: &OsString| value.to_str()?.parse::<u64>().ok();
        let is_ours = self.watchdog_pid.as_ref().is_none_or(|pid| number(pid) == Some(process::id().into()));
        let watchdog = self.watchdog.as_ref().filter(|_| is_ours).and_then(number).filter(|usec| *usec > 0);
        let store = std::env::var_os(FDSTORE).as_ref().and_then(number);
        Ok(Some(Manager {
            socket,
            outgoing: Outgoing::default(),
            barrier: None,
            watchdog: watchdog.map(Duration::from_micros),
            store: store.map_or(0, |most| usize::try_from(most).unwrap_or(usize::MAX)),
        }))
    }

    /// The descriptors that the manager has passed to this process.
    ///
    /// # Errors
    ///
    /// A variable has an impossible value.
    pub(crate) fn passed(
        &self,
        is_supervised: bool,
        numbers: &mut Numbers,
    ) -> Result<Vec<Passed>, StartError> {
        let Some(count) = &self.listen_fds else { return Ok(Vec::new()) };
        if !self.are_for_us(is_supervised) {
            return Ok(Vec::new());
        }
        let problem =
            |variable: &str, problem| StartError::Environment { variable: variable.to_owned(), problem };
        let count = number_of(count)
            .ok_or_else(|| problem(LISTEN_FDS, format!("{count:?} is not a number of descriptors")))?;
        let names = self.listen_names.as_ref().map(|names| names.to_string_lossy());
        let mut names = names.as_ref().map(|names| names.split(':'));
        let named = names.clone().map(Iterator::count);
        if let Some(named) = named.filter(|named| usize::try_from(count) != Ok(*named)) {
            return Err(problem(LISTEN_FDNAMES, format!("{named} names for {count} descriptors")));
        }
        let mut take = |number: RawFd| {
            let name = names.as_mut().and_then(Iterator::next).unwrap_or("unknown");
            let fd = numbers
                .take(LISTEN_FDS, number, |_| Ok(()))
                .map_err(|what| problem(LISTEN_FDS, format!("descriptor {number}: {what}")))?;
            let (name, stored) = match name.strip_prefix(STORED) {
                Some(name) => (name.to_owned(), true),
                None => (name.to_owned(), false),
            };
            Ok(Passed { name, fd, stored })
        };
        // One by one, because the count may be any number. The first number that is not open ends the loop.
        let mut passed = Vec::new();
        for number in FIRST..FIRST + count {
            passed.push(take(number)?);
        }
        Ok(passed)
    }

    /// Says for which process the descriptors are, if they are not for this one. They are open here, but this process
    /// does not touch them: it may have inherited the variables by accident.
    pub(crate) fn not_for_us(&self, is_supervised: bool) -> Option<String> {
        let count = self.listen_fds.as_ref().filter(|count| **count != *"0")?;
        if self.are_for_us(is_supervised) {
            return None;
        }
        let whose = match &self.listen_pid {
            Some(pid) => format!("LISTEN_PID={}", printable(&pid.to_string_lossy())),
            None => "LISTEN_PID is not set".to_owned(),
        };
        Some(format!(
            "the sockets that the service manager has passed are not used: LISTEN_FDS={} is not for process {}: {whose}; a script \
             that starts the service does it by `exec`",
            printable(&count.to_string_lossy()),
            process::id(),
        ))
    }

    /// Whether the variables are for this process. They name the process, except where a supervisor passes them on, or a
    /// program such as `systemfd --no-pid`, which starts the service again and again during development. Then each
    /// descriptor has to be a socket: the variable may be left from another process.
    fn are_for_us(&self, is_supervised: bool) -> bool {
        self.are_for(is_supervised, process::id(), own_pidfd_id)
    }

    /// Whether each of the passed descriptors is open here and a socket.
    fn are_sockets(&self) -> bool {
        let count = self.listen_fds.as_ref().and_then(|count| count.to_str()?.parse::<RawFd>().ok());
        let is_socket = |number: RawFd| {
            let link = fs::read_link(format!("/proc/self/fd/{number}"));
            link.is_ok_and(|link| link.as_os_str().as_bytes().starts_with(b"socket:"))
        };
        // The first number that is not open ends the look: the count may be any number.
        count.is_some_and(|count| (FIRST..FIRST.saturating_add(count)).all(is_socket))
    }

    /// Whether they are for the process of this number and of this pidfd inode.
    fn are_for(&self, is_supervised: bool, us: u32, pidfd_id: impl FnOnce() -> Option<u64>) -> bool {
        let Some(pid) = &self.listen_pid else { return is_supervised || self.are_sockets() };
        if pid.to_str() != Some(&us.to_string()) {
            return false;
        }
        match self.listen_pidfdid.as_ref().map(|theirs| (theirs, pidfd_id())) {
            Some((theirs, Some(ours))) => theirs.to_str() == Some(&ours.to_string()),
            _ => true,
        }
    }
}

/// The pidfd inode of this process, which no other process ever has. `None` on a kernel without pidfs.
fn own_pidfd_id() -> Option<u64> {
    let pidfd = pidfd::open(process::id()).ok()?;
    let is_pidfs = fstatfs(&pidfd).is_ok_and(|fs| fs.filesystem_type().0 == PIDFS);
    fstat(&pidfd).ok().filter(|_| is_pidfs).map(|file| file.st_ino)
}

fn connect(socket: &UnixDatagram, at: &OsStr) -> io::Result<()> {
    match at.as_bytes() {
        [b'/', ..] => socket.connect(at),
        [b'@', name @ ..] => socket.connect_addr(&SocketAddr::from_abstract_name(name)?),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    }
}

/// A descriptor that the manager has passed.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
    /// An earlier process of the service stored it. Otherwise it is from a socket unit.
    pub(crate) stored: bool,
}

impl Passed {
    /// The descriptors, and the variables that pass them on. The next process finds them under the same numbers.
    pub(crate) fn into_parts(passed: Vec<Self>) -> (Vec<OwnedFd>, Vec<(&'static str, OsString)>) {
        let name = |it: &Self| format!("{}{}", if it.stored { STORED } else { "" }, it.name);
        let names: Vec<_> = passed.iter().map(name).collect();
        let descriptors = passed.into_iter().map(|it| it.fd).collect();
        if names.is_empty() {
            return (descriptors, Vec::new());
        }
        let variables =
            vec![(LISTEN_FDS, names.len().to_string().into()), (LISTEN_FDNAMES, names.join(":").into())];
        (descriptors, variables)
    }
}

/// The connection to a service manager.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    /// The messages that wait for room in the socket.
    outgoing: Outgoing,
    /// The read end of a pipe. The manager closes the write end when it comes to the barrier.
    barrier: Option<OwnedFd>,
    /// The watchdog's timeout: without a sign of life for this long the manager takes the service for dead.
    pub(crate) watchdog: Option<Duration>,
    /// How many descriptors the manager stores.
    pub(crate) store: usize,
}

impl Manager {
    /// Sends a message: lines of `NAME=VALUE`.
    pub(crate) fn tell(&mut self, lines: String) {
        self.send(lines, None);
    }

    /// Says once that the service is ready. Returns whether nothing waits for room in the socket.
    pub(crate) fn say_ready(&mut self, is_first: bool) -> bool {
        match is_first {
            true => self.tell("READY=1".to_owned()),
            false => self.flush(),
        }
        self.blocked().is_none()
    }

    /// Reports the begin of a reload. By the time the manager knows which `READY=1` ends it.
    pub(crate) fn tell_reloading(&mut self, status: &str) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        self.tell(format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS={status}", now.as_micros()));
    }

    /// Stores a listener with the manager, for the process that it starts after a crash. The manager drops a duplicate
    /// by itself. FDPOLL=0 keeps a datagram socket after an error on it. Otherwise the manager would drop it.
    pub(crate) fn store(&mut self, name: &str, fd: Arc<OwnedFd>, is_datagram: bool) {
        let poll = if is_datagram { "\nFDPOLL=0" } else { "" };
        self.send(format!("FDSTORE=1\nFDNAME={STORED}{name}{poll}"), Some(fd));
    }

    /// Removes a listener from the store.
    pub(crate) fn forget(&mut self, name: &str) {
        self.tell(format!("FDSTOREREMOVE=1\nFDNAME={STORED}{name}"));
    }

    /// Sends a barrier. [`has_heard`](Self::has_heard) returns whether the manager has read all messages before it.
    ///
    /// A manager that reads a message of a dead process cannot tell which service sent it.
    pub(crate) fn ask_whether_heard(&mut self) -> io::Result<()> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        self.barrier = Some(ours);
        self.send("BARRIER=1".to_owned(), Some(Arc::new(theirs)));
        Ok(())
    }

    /// Whether the manager has reached the barrier. It returns `true` once.
    pub(crate) fn has_heard(&mut self) -> bool {
        self.flush();
        let Some(barrier) = &self.barrier else { return false };
        // Nothing is written to the pipe: the only event is its end.
        let mut fds = [PollFd::new(barrier.as_fd(), PollFlags::POLLIN)];
        let ended = poll::until(&mut fds, Some(Instant::now())).is_ok() && fds[0].any() == Some(true);
        if ended {
            self.barrier = None;
        }
        ended
    }

    /// Waits until the manager has read all messages, at most for this time.
    pub(crate) fn wait_until_heard(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        if self.ask_whether_heard().is_err() {
            return;
        }
        while !self.has_heard() && Instant::now() < deadline {
            let mut fds: Vec<_> =
                self.barrier().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).into_iter().collect();
            fds.extend(self.blocked().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
            match poll::until(&mut fds, Some(deadline)) {
                Ok(()) => {}
                Err(_) => return,
            }
        }
    }

    /// The descriptor that becomes readable when the manager reaches the barrier.
    pub(crate) fn barrier(&self) -> Option<BorrowedFd<'_>> {
        self.barrier.as_ref().map(AsFd::as_fd)
    }

    /// The descriptor that becomes writable when a waiting message can be sent.
    pub(crate) fn blocked(&self) -> Option<BorrowedFd<'_>> {
        (!self.outgoing.is_empty()).then(|| self.socket.as_fd())
    }

    fn send(&mut self, lines: String, fd: Option<Arc<OwnedFd>>) {
        self.outgoing.push(lines.into_bytes(), fd.into_iter().collect());
        self.flush();
    }

    /// Sends what the socket takes. Waiting messages keep their order, and stay ahead of a barrier.
    pub(crate) fn flush(&mut self) {
        if self.outgoing.flush(&self.socket).is_err() {
            // The manager is gone. Clearing also drops the other end of a barrier, so a wait for it ends.
            self.outgoing.clear();
        }
    }
}

/// The number of descriptors that `LISTEN_FDS` says.
fn number_of(count: &OsStr) -> Option<RawFd> {
    let count = count.to_str()?.parse().ok()?;
    (0..=RawFd::MAX - FIRST).contains(&count).then_some(count)
}

/// The numbers of the descriptors that a service manager has passed, unless another process is their addressee. Nothing is taken.
pub(crate) fn passed_numbers() -> Range<RawFd> {
    let addressee = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok());
    let is_ours = addressee.is_none_or(|pid: u32| pid == process::id());
    let count = std::env::var_os(LISTEN_FDS).and_then(|count| number_of(&count)).filter(|_| is_ours);
    // No process has more descriptors than this.
    FIRST..FIRST + count.unwrap_or(0).min(1 << 20)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use nix::libc;

    use super::*;
    use crate::base::error::chain;
    use crate::sys::fault;

    fn variables(count: &str, names: &str) -> Variables {
        Variables {
            listen_pid: Some(process::id().to_string().into()),
            listen_fds: Some(count.into()),
            listen_names: Some(names.into()),
            ..Variables::default()
        }
    }

    #[test]
    fn what_is_passed_is_for_the_process_that_is_named() {
        let ours = variables("1", "a");
        assert!(ours.are_for_us(false));
        assert!(!Variables { listen_pid: Some("1".into()), ..variables("1", "a") }.are_for_us(false));
        let unnamed = Variables { listen_pid: None, ..variables("1", "a") };
        assert!(unnamed.are_for_us(true));
        let none = Variables { listen_pid: None, ..variables("99999", "a") };
        assert!(!none.are_for_us(false), "there are not as many");
        let with = |id: &str| Variables { listen_pidfdid: Some(id.into()), ..variables("1", "a") };
        let is_for = |id: &str, ours| with(id).are_for(false, process::id(), || ours);
        assert!(is_for("7", Some(7)));
        assert!(!is_for("8", Some(7)), "the number was used by a process before");
        assert!(!is_for("x", Some(7)));
        assert!(is_for("8", None), "a kernel without pidfs tells nothing");
        assert!(!with("7").are_for(false, process::id() + 1, || Some(7)), "both have to fit");
        let own = own_pidfd_id().map_or_else(String::new, |id| id.to_string());
        assert!(with(&own).are_for_us(false));
    }

    #[test]
    fn variables_that_cannot_be_are_named() {
        let passed = |variables: Variables| variables.passed(false, &mut Numbers::default());
        let problem = |variables: Variables| passed(variables).unwrap_err().to_string();
        for count in ["x", "-1", "2147483647", "2147483648"] {
            let expected =
                format!("environment variable `LISTEN_FDS`: \"{count}\" is not a number of descriptors");
            assert_eq!(problem(variables(count, "a")), expected);
        }
        let names = "environment variable `LISTEN_FDNAMES`: 1 names for 70000 descriptors";
        assert_eq!(problem(variables("70000", "a")), names);
        let names = "environment variable `LISTEN_FDNAMES`: 2 names for 1 descriptors";
        assert_eq!(problem(variables("1", "a:b")), names);
        assert!(passed(variables("0", "")).is_err(), "an empty list has one name");
    }

    impl Manager {
        /// The manager that listens on this socket.
        pub(crate) fn at(socket: &UnixDatagram) -> Self {
            let notify = socket.local_addr().unwrap().as_pathname().unwrap().to_owned();
            Variables { notify: Some(notify.into()), ..Variables::default() }
                .connect(&mut Vec::new())
                .unwrap()
                .unwrap()
        }
    }

    #[test]
    fn s13_an_abstract_name_is_one() {
        let name = format!("tableflip-notify-{}", process::id());
        let at = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let variables = Variables { notify: Some(format!("@{name}").into()), ..Variables::default() };
        variables.connect(&mut Vec::new()).unwrap().unwrap().tell("READY=1".to_owned());
        let mut buffer = [0; 64];
        let length = at.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        let unreachable = Variables { notify: Some("vsock:2:1234".into()), ..Variables::default() };
        let mut warnings = Vec::new();
        assert!(unreachable.connect(&mut warnings).unwrap().is_none());
        let start = "no service manager is told: NOTIFY_SOCKET=\"vsock:2:1234\": ";
        assert!(warnings.len() == 1 && warnings[0].starts_with(start), "{warnings:?}");
        assert!(Variables::default().connect(&mut warnings).unwrap().is_none());
        assert_eq!(warnings.len(), 1);
    }

    /// A manager that cannot be reached at the moment still exists.
    #[test]
    fn without_a_socket_there_is_no_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _at = UnixDatagram::bind(&path).unwrap();
        let variables = Variables { notify: Some(path.into()), ..Variables::default() };
        let error = fault::failing(libc::SYS_socket, Errno::EMFILE, || {
            variables.connect(&mut Vec::new()).map(drop).unwrap_err()
        });
        let said = "cannot make a socket to talk to the service manager: Too many open files";
        assert!(chain(&error).starts_with(said), "{error:?}");
    }

    #[test]
    fn a_datagram_socket_is_kept_whatever_comes_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let mut manager = Manager::at(&at);
        let socket: Arc<OwnedFd> = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into());
        let mut buffer = [0; 64];
        for (is_datagram, message) in
            [(true, "FDSTORE=1\nFDNAME=tableflip.dns\nFDPOLL=0"), (false, "FDSTORE=1\nFDNAME=tableflip.dns")]
        {
            manager.store("dns", socket.clone(), is_datagram);
            let length = at.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], message.as_bytes());
        }
    }

    /// Without room, each message waits in order. A manager that is gone delays nothing.
    #[test]
    fn a_manager_that_does_not_listen_keeps_nobody_and_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let mut manager = Manager::at(&at);
        let messages: Vec<_> = (0..2000).map(|number| format!("STATUS={number}")).collect();
        messages.iter().for_each(|message| manager.tell(message.clone()));
        manager.ask_whether_heard().unwrap();
        assert!(manager.blocked().is_some() && !manager.has_heard());
        let mut buffer = [0; 64];
        for message in messages {
            let length = at.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], message.as_bytes());
            manager.flush();
        }
        assert!(!manager.has_heard(), "its end is in the message");
        drop(at);
        assert!(manager.has_heard());
        manager.tell("READY=1".to_owned());
        assert!(manager.blocked().is_none());
    }

    /// A shortage of the kernel passes. The barrier stays behind the messages that it confirms.
    #[test]
    fn a_shortage_loses_no_message() {
        let dir = tempfile::tempdir().unwrap();
        let at = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        at.set_nonblocking(true).unwrap();
        let mut manager = Manager::at(&at);
        for errno in [Errno::ENOBUFS, Errno::ENOMEM, Errno::ETOOMANYREFS] {
            fault::failing(libc::SYS_sendmsg, errno, || {
                manager.tell("MAINPID=1".to_owned());
                assert!(manager.blocked().is_some(), "{errno}");
            });
            manager.ask_whether_heard().unwrap();
            let mut buffer = [0; 64];
            for message in ["MAINPID=1", "BARRIER=1"] {
                let length = at.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], message.as_bytes(), "{errno}");
            }
            assert!(manager.has_heard() && manager.blocked().is_none());
        }
    }
}
