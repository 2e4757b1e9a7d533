//! A service manager, as systemd is one for a unit of `Type=notify-reload` with `NotifyAccess=main`, `PIDFile=`,
//! `FileDescriptorStoreMax=` and `Restart=on-failure`: it accepts and refuses the same messages, follows the same process, and ends
//! the service when that process ends.
//!
//! It also reports what breaks a rule of docs/systemd.md that systemd itself does not enforce.

use std::fmt::Write;
use std::io::{self, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use processes::proc::{Stat, is_running};
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred,
};
use rustix::time::{ClockId, clock_gettime};

use crate::scene::named_in;
use crate::tracer::send;

/// Its socket, in the directory of the service.
pub(crate) const SOCKET: &str = "notify";

/// `FileDescriptorStoreMax=`, and the name that the one listener of the service has there.
const STORE: usize = 8;
const STORED: &str = "tableflip.who";

/// How long a barrier stands: longer than a process lives that does not wait for it.
const BARRIER: Duration = Duration::from_millis(20);

/// How long a slow manager takes to learn of a death: the surviving processes have noticed it, and sent their messages, by then.
pub(crate) const SLOW: Duration = Duration::from_millis(20);

/// What the service is to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Starting,
    Ready,
    Reloading,
    Stopping,
    /// The process that it followed has ended, and no other was found. The manager has sent SIGTERM to the rest.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Manager {
    /// That of the service.
    dir: PathBuf,
    socket: UnixDatagram,
    /// How long it takes to learn of a death.
    delay: Duration,
    died_at: Option<Instant>,
    unit: Unit,
    followed: i32,
    /// The processes that have announced another main process, and no longer take themselves for the main process.
    former: Vec<i32>,
    /// The process that has announced a main process which was dead when the message was read.
    refused: Option<i32>,
    /// When it was asked for a reload that has not begun, CLOCK_MONOTONIC in microseconds.
    asked_to_reload: Option<u64>,
    asked_to_stop: bool,
    barriers: Vec<Barrier>,
    store: Vec<(String, OwnedFd)>,
    status: String,
    /// What it has heard, for a reader.
    heard: String,
    /// The first rule that was broken.
    violation: Option<String>,
}

#[derive(Debug)]
struct Barrier {
    of: i32,
    until: Instant,
    _pipe: OwnedFd,
}

struct Said {
    by: i32,
    text: String,
    fds: Vec<OwnedFd>,
}

impl Manager {
    /// The manager of the service in this directory, which learns of a death after `delay`.
    pub(crate) fn new(dir: &Path, delay: Duration) -> Self {
        let socket = UnixDatagram::bind(dir.join(SOCKET)).expect("a socket in a directory of our own");
        socket
            .set_nonblocking(true)
            .and_then(|()| Ok(set_socket_passcred(&socket, true)?))
            .expect("it is one");
        Self {
            dir: dir.to_owned(),
            socket,
            delay,
            died_at: None,
            unit: Unit::Starting,
            followed: 0,
            former: Vec::new(),
            refused: None,
            asked_to_reload: None,
            asked_to_stop: false,
            barriers: Vec::new(),
            store: Vec::new(),
            status: String::new(),
            heard: String::new(),
            violation: None,
        }
    }

    /// How it starts the service: with what it has stored, if there is anything.
    pub(crate) fn command(&self, executable: &Path) -> io::Result<Command> {
        let mut command = match self.store.first() {
            None => {
                let mut command = Command::new(executable);
                command.stdin(Stdio::null());
                command
            }
            Some((name, fd)) => {
                // The shell has the process ID that is to be in a variable; the listener is its standard input first.
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"export LISTEN_PID=$$; exec "$0" "$@" 3<&0 </dev/null"#]).arg(executable);
                shell.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).stdin(fd.try_clone()?);
                shell
            }
        };
        command.env("NOTIFY_SOCKET", self.dir.join(SOCKET)).env("FDSTORE", STORE.to_string());
        Ok(command)
    }

    /// The service was started.
    pub(crate) fn follow(&mut self, process: i32) {
        (self.unit, self.followed) = (Unit::Starting, process);
        self.former.clear();
        self.refused = None;
        self.asked_to_reload = None;
    }

    /// The service is asked to reload.
    pub(crate) fn reload(&mut self) {
        self.asked_to_reload = Some(monotonic_usec());
    }

    /// The service is asked to stop.
    pub(crate) fn stop(&mut self) {
        self.asked_to_stop = true;
    }

    pub(crate) fn has_ended_the_unit(&self) -> bool {
        self.unit == Unit::Ended
    }

    /// Whether it follows this process, waits for nothing, and keeps what is to be kept.
    pub(crate) fn is_content_with(&self, process: i32) -> bool {
        let is_kept = self.store.iter().map(|(name, _)| name.as_str()).eq([STORED]);
        self.unit == Unit::Ready && self.followed == process && self.asked_to_reload.is_none() && is_kept
    }

    /// What the service says of itself.
    pub(crate) fn status(&self) -> &str {
        &self.status
    }

    /// Which rule was broken, and what has been heard until then.
    pub(crate) fn violation(&self) -> Option<String> {
        let violation = self.violation.as_ref()?;
        Some(format!("{violation}; {}", self.story()))
    }

    /// Its state and what it has heard, for the message about a violation.
    pub(crate) fn story(&self) -> String {
        format!(
            "to the manager it is {:?}, {} is followed, and it has heard\n{}",
            self.unit, self.followed, self.heard
        )
    }

    fn violate(&mut self, violation: String) {
        self.violation.get_or_insert(violation);
    }

    /// Whether the process that it follows has died, and it has not dealt with that.
    pub(crate) fn has_lost(&self) -> bool {
        self.unit != Unit::Ended && !is_running(self.followed)
    }

    /// Reads every message that has arrived, and deals with the deaths. `has_lost`: what [`has_lost`](Self::has_lost) has said, before the processes were looked for;
    /// `killed`: those of them that a fault has ended.
    pub(crate) fn heed(&mut self, has_lost: bool, processes: &[i32], killed: &[i32]) {
        let followed = self.followed;
        while let Some(said) = self.receive() {
            writeln!(self.heard, "  {}: {:?}", said.by, said.text).expect("a string takes it");
            self.hear(said, processes, killed);
        }
        self.end_barriers(killed);
        if has_lost && self.followed == followed {
            let died_at = *self.died_at.get_or_insert_with(Instant::now);
            if died_at.elapsed() >= self.delay {
                self.lose(processes, killed);
            }
        }
    }

    fn receive(&mut self) -> Option<Said> {
        let mut data = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut data)];
        let length = match recvmsg(&self.socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN) => return None,
            Err(errno) => panic!("the socket of the manager: {errno}"),
        };
        let (mut by, mut fds) = (0, Vec::new());
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmCredentials(sender) => by = sender.pid.as_raw_nonzero().get(),
                RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
                _ => {}
            }
        }
        Some(Said { by, text: String::from_utf8_lossy(&data[..length]).into_owned(), fds })
    }

    fn hear(&mut self, Said { by, text, mut fds }: Said, processes: &[i32], killed: &[i32]) {
        if self.unit == Unit::Ended {
            return;
        }
        let lines: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let value = |name: &str| lines.iter().find(|line| line.0 == name).map(|line| line.1);
        let says = |name: &str| value(name) == Some("1");
        // Every process of the unit may send a barrier.
        if says("BARRIER") {
            match (lines.len(), fds.pop()) {
                (1, Some(pipe)) if fds.is_empty() => {
                    self.barriers.push(Barrier { of: by, until: Instant::now() + BARRIER, _pipe: pipe });
                }
                _ => self.violate(format!("a barrier is one descriptor and nothing else: {text:?}")),
            }
            return;
        }
        if by != self.followed {
            // Refused, without a log line since 257. To say it once more is the way of a process whose predecessor, which was
            // followed, has died.
            if is_running(self.followed) {
                self.violate(format!("{by} says {text:?}, and {} is followed", self.followed));
            }
            return;
        }
        if says("FDSTORE") || says("FDSTOREREMOVE") {
            let name = value("FDNAME").unwrap_or("stored");
            if says("FDSTOREREMOVE") {
                self.store.retain(|it| it.0 != name);
            }
            for fd in fds.into_iter().take(STORE - self.store.len()) {
                // One that it has already it does not keep twice.
                if self.store.iter().all(|it| inode(&it.1) != inode(&fd)) {
                    self.store.push((name.to_owned(), fd));
                }
            }
            return;
        }
        if says("RELOADING") {
            let time = value("MONOTONIC_USEC").and_then(|time| time.parse().ok());
            let asked = self.asked_to_reload.take();
            let is_it =
                asked.zip(time).is_some_and(|(asked, time)| asked <= time && time <= monotonic_usec());
            if self.unit != Unit::Ready || !is_it {
                self.violate(format!(
                    "this is not the begin of the reload that was asked for at {asked:?}: {text:?}"
                ));
            }
            self.unit = Unit::Reloading;
        }
        if let Some(process) = value("MAINPID") {
            self.hear_whom_to_follow(process, by, killed);
        }
        if says("READY") {
            // The end of an upgrade: a failed one ends when no process of it is left.
            let others = processes.iter().filter(|it| **it != self.followed && is_running(**it)).count();
            if self.unit != Unit::Ready && others > usize::from(self.followed != by) {
                self.violate(format!("{by} is ready beside {others} others of {processes:?}"));
            }
            // The pid file may name a dead process, until the process that serves again has noticed the death.
            let named = named_in(&self.dir);
            if named != Some(self.followed) && named.is_none_or(|named| !killed.contains(&named)) {
                self.violate(format!("{} is ready, and the pid file names {named:?}", self.followed));
            }
            self.unit = Unit::Ready;
        }
        if says("STOPPING") {
            if !self.asked_to_stop {
                self.violate(format!("{by} stops, and nobody has asked it to"));
            }
            self.unit = Unit::Stopping;
        }
        if let Some(status) = value("STATUS") {
            status.clone_into(&mut self.status);
        }
    }

    fn hear_whom_to_follow(&mut self, whom: &str, by: i32, killed: &[i32]) {
        let whom = whom.parse().unwrap_or(0);
        if !is_running(whom) {
            // Refused, as that of a zombie is by systemd.
            self.refused = Some(by);
            if !killed.contains(&whom) {
                self.violate(format!("{whom} is to be followed, and is dead"));
            }
            return;
        }
        if Stat::of(whom).is_none_or(|stat| stat.parent != process::id()) {
            self.violate(format!("{whom} is to be followed, and is no child of the manager"));
        }
        self.followed = whom;
        self.former.push(by);
    }

    fn end_barriers(&mut self, killed: &[i32]) {
        let now = Instant::now();
        let (due, standing): (Vec<_>, _) =
            mem::take(&mut self.barriers).into_iter().partition(|it| it.until <= now);
        self.barriers = standing;
        for barrier in due {
            if !is_running(barrier.of) && !killed.contains(&barrier.of) {
                self.violate(format!("{} has ended before its barrier was lifted", barrier.of));
            }
        }
    }

    /// The process that it follows has ended.
    fn lose(&mut self, processes: &[i32], killed: &[i32]) {
        self.died_at = None;
        let lost = self.followed;
        let others = processes.iter().copied().filter(|it| *it != lost && is_running(*it));
        let others: Vec<_> = others.collect();
        let next = named_in(&self.dir).filter(|process| others.contains(process));
        writeln!(self.heard, "  {lost} has ended beside {others:?}; next is {next:?}")
            .expect("a string takes it");
        // A process that was found after it had handed over does not know that it is followed, and its end is expected: systemd looks
        // again. The same holds for a process that had decided to exit when the other was killed.
        let is_expected = killed.contains(&lost)
            || next.is_some() && self.former.contains(&lost)
            || others.is_empty() && self.refused == Some(lost);
        if self.asked_to_stop {
            if self.unit != Unit::Stopping || !others.is_empty() {
                self.violate(format!("{lost} ends the service as {:?}, beside {others:?}", self.unit));
            }
        } else if !is_expected {
            self.violate(format!("{lost} is followed, and has ended by itself beside {others:?}"));
        }
        match next {
            Some(next) => self.followed = next,
            None => {
                self.unit = Unit::Ended;
                self.barriers.clear();
                others.into_iter().for_each(|process| send(process, Signal::SIGTERM));
            }
        }
    }
}

fn inode(fd: impl AsFd) -> Option<u64> {
    fstat(fd).ok().map(|file| file.st_ino)
}

fn monotonic_usec() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1000).expect("it counts from the boot")
}
