//! A conversation over the control socket, with a deadline.

use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::status::Status;
use crate::control::{Code, PROTOCOL, Reply, Request};
use crate::outside::proof::{Unproven, process_behind, prove};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, getsockopt, recvmsg, setsockopt, sockopt,
};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use super::output::{Failure, Output};

/// The length limit of a line, in bytes: enough for the status of a service with many thousand listeners.
const MAX_LINE: usize = 16 << 20;

/// How many connections may end without an answer. More are no accident, and each attempt costs the service.
pub(crate) const MAX_CUT_OFF: u32 = 10;
/// The pause before the second attempt. Each attempt doubles it.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The time without an answer before a look at the pid file, and the number of equal results in a row that count as proof.
const UNTIL_LOOK: Duration = Duration::from_secs(1);
const LOOKS: u32 = 2;

pub(crate) struct Conversation {
    path: PathBuf,
    stream: UnixStream,
    input: Vec<u8>,
    deadline: Instant,
    /// The pid file beside the control socket. While no answer comes, it shows whether the service is dead.
    pidfile: Option<PathBuf>,
    /// The process that wrote the last message, by its number in the PID namespace of this process. 0 if that process is in a
    /// namespace that this process cannot see. The kernel adds the number to each message, SCM_CREDENTIALS in unix(7).
    /// SO_PEERCRED would name the process that called listen(2): the first generation.
    sender: Option<u32>,
    cut_off: u32,
    pause: Duration,
}

/// A line of the service.
pub(crate) struct Line {
    pub(crate) text: String,
    /// `None` for a reply of a later release, which this release ignores.
    pub(crate) reply: Option<Reply>,
}

impl Conversation {
    /// `None` if no process listens at that path.
    pub(crate) fn open(path: &Path, deadline: Instant) -> Result<Option<Self>, Failure> {
        match connect(path, deadline) {
            Ok(stream) => Ok(Some(Self {
                path: path.to_owned(),
                stream,
                input: Vec::new(),
                deadline,
                pidfile: None,
                sender: None,
                cut_off: 0,
                pause: PAUSE,
            })),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(None),
                io::ErrorKind::PermissionDenied => Err(Failure::refused(
                    "denied",
                    format!("{}: {error}; only the user of the service and root may connect", path.display()),
                )),
                io::ErrorKind::WouldBlock => Err(no_answer(path)),
                _ => Err(Failure::refused("failed", format!("{}: {error}", path.display()))),
            },
        }
    }

    /// Adds the pid file, which shows a dead service while no answer comes.
    pub(crate) fn with_pidfile(mut self, pidfile: &Path) -> Self {
        self.pidfile = Some(pidfile.to_owned());
        self
    }

    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// The control socket, and the pid file if the target is one.
    pub(crate) fn paths(&self) -> (&Path, Option<&Path>) {
        (&self.path, self.pidfile.as_deref())
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<(), Failure> {
        let line = serde_json::to_string(&request).map_err(|error| self.broken(&error))?;
        self.send(&line)
    }

    /// Sends a request that is a line already.
    pub(crate) fn send(&mut self, line: &str) -> Result<(), Failure> {
        // A service that has just closed the connection may have sent the reason first. The next read finds it.
        match self.stream.write_all(format!("{line}\n").as_bytes()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// The next line; `None` at the end of the connection.
    pub(crate) fn receive(&mut self) -> Result<Option<Line>, Failure> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.input[searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=searched + at).collect();
                let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
                let reply = self.understand(&text)?;
                return Ok(Some(Line { text, reply }));
            }
            searched = self.input.len();
            if searched > MAX_LINE {
                return Err(self.broken(&"a line without an end"));
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }

    /// `None` for a reply of a later release, which can be ignored. An unreadable status or error is a failure: the caller needs it.
    fn understand(&self, text: &str) -> Result<Option<Reply>, Failure> {
        let problem = match serde_json::from_str(text) {
            Ok(Reply::Status { protocol, .. }) if protocol > PROTOCOL => {
                "its protocol is a later one".to_owned()
            }
            Ok(reply) => return Ok(Some(reply)),
            Err(error) => error.to_string(),
        };
        let line: Value = serde_json::from_str(text).map_err(|error| self.broken(&error))?;
        match line["reply"].as_str() {
            Some("status") => Err(self.broken(&format!(
                "its status is not understood: {problem}; it is of release {}, protocol {}, and this program of release \
                 {}, protocol {PROTOCOL}",
                line["release"].as_str().unwrap_or("?"),
                line["protocol"],
                env!("CARGO_PKG_VERSION"),
            ))),
            // An error with a code that this release does not know. Without the failure the caller would wait in vain.
            Some("error") => {
                let word = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
                Err(Failure::refused(&word("code"), word("message")))
            }
            _ => Ok(None),
        }
    }

    /// Reads the bytes that have arrived; false at the end of the connection.
    fn read(&mut self) -> Result<bool, Failure> {
        let mut buffer = [0; 16 * 1024];
        let mut looks = 0;
        loop {
            // A timeout of zero would mean no timeout, SO_RCVTIMEO in socket(7).
            let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let left = if self.sender.is_none() { left.min(UNTIL_LOOK) } else { left };
            self.stream.set_read_timeout(Some(left)).map_err(|error| self.broken(&error))?;
            match receive(&self.stream, &mut buffer) {
                Ok((0, _)) => return Ok(false),
                Ok((count, sender)) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    self.sender = sender;
                    return Ok(true);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    // The connection of a killed process is reset if the process had not read all bytes.
                    io::ErrorKind::ConnectionReset => return Ok(false),
                    io::ErrorKind::WouldBlock if Instant::now() < self.deadline => {
                        // One look is no proof: a successor may be about to write its number.
                        looks = if self.sender.is_none() && self.is_abandoned() { looks + 1 } else { 0 };
                        if looks == LOOKS {
                            return Err(self.abandoned());
                        }
                    }
                    io::ErrorKind::WouldBlock => return Err(no_answer(&self.path)),
                    _ => return Err(self.broken(&error)),
                },
            }
        }
    }

    /// Whether the pid file names the process that made the control socket, and that process is dead. The equal numbers show that
    /// this process and the service share a PID namespace. In another namespace an unused number here proves nothing.
    fn is_abandoned(&self) -> bool {
        let Some(pidfile) = &self.pidfile else { return false };
        let Err(Unproven::Dead(pid)) = prove(pidfile, None) else { return false };
        getsockopt(&self.stream, sockopt::PeerCredentials)
            .is_ok_and(|made| u32::try_from(made.pid()).is_ok_and(|made| made == pid))
    }

    fn abandoned(&self) -> Failure {
        let pidfile = self.pidfile.as_deref().unwrap_or(&self.path).display();
        Failure::nothing_running(format!(
            "{pidfile} names a process that is dead; a process that it has forked still has its control socket {} open, and does \
             not answer: `ss -xlp` names that process",
            self.path.display()
        ))
    }

    /// The status of the serving process, parsed and as a line. A connection can end before the answer because the server made
    /// room for other clients, or because the process ended. Both times a new connection asks the process that serves then.
    pub(crate) fn status(&mut self) -> Result<(Status, String), Failure> {
        loop {
            self.ask(Request::Status)?;
            let mut is_busy = false;
            while let Some(Line { text, reply }) = self.receive()? {
                match reply {
                    Some(Reply::Status { status, .. }) => return Ok((*status, text)),
                    Some(Reply::Error { code: Code::Busy, .. }) if Instant::now() < self.deadline => {
                        is_busy = true;
                        break;
                    }
                    Some(Reply::Error { code, message }) => return Err(Failure::answered(code, message)),
                    _ => {}
                }
            }
            if !is_busy {
                self.cut_off += 1;
                if self.cut_off == MAX_CUT_OFF {
                    return Err(cut_off(&self.path));
                }
            }
            self.reopen()?;
        }
    }

    /// The process that answered last, whose own number is `status.pid`, if this process can see it.
    pub(crate) fn process(&self, status: &Status, output: &Output) -> Option<OwnedFd> {
        let (sender, said) = (self.sender?, status.pid);
        if sender == 0 {
            output.note(&format!("process {said} is in a PID namespace that cannot be seen from here"));
            return None;
        }
        let process = process_behind(sender, said)?;
        if sender != said {
            output.note(&format!(
                "process {said} is process {sender} here: the service counts by its own PID namespace"
            ));
        }
        Some(process)
    }

    /// Connects to the process that serves now, after a pause.
    fn reopen(&mut self) -> Result<(), Failure> {
        let nothing_listens = || nothing_listens(&self.path);
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(no_answer(&self.path));
        }
        thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let Self { stream, input, .. } =
            Self::open(&self.path, self.deadline)?.ok_or_else(nothing_listens)?;
        (self.stream, self.input, self.sender) = (stream, input, None);
        Ok(())
    }

    fn broken(&self, problem: &dyn std::fmt::Display) -> Failure {
        Failure::refused("failed", format!("cannot talk to {}: {problem}", self.path.display()))
    }
}

/// connect(2), which blocks while the backlog is full because the process stands still. SO_SNDTIMEO limits the time, socket(7).
fn connect(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    socket.set_write_timeout(Some(left))?;
    socket.connect(&SockAddr::unix(path)?)?;
    // Set after the connect: with SO_PASSCRED set, connect(2) binds this end to an abstract name, unix(7). The service sends nothing
    // before the first request, so no credentials are missed.
    setsockopt(&socket, sockopt::PassCred, &true)?;
    Ok(socket.into())
}

/// recvmsg(2), which also names the writing process. With SO_PASSCRED one call never returns bytes of two processes.
fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<u32>)> {
    let mut data = [IoSliceMut::new(buffer)];
    let mut control = cmsg_space!(UnixCredentials);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut data, Some(&mut control), flags)?;
    let sender = message.cmsgs().ok().into_iter().flatten().find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(sender) => u32::try_from(sender.pid()).ok(),
        _ => None,
    });
    Ok((message.bytes, sender))
}

pub(crate) fn cut_off(path: &Path) -> Failure {
    Failure::no_answer(format!(
        "{} ended {MAX_CUT_OFF} connections before an answer; the log of the service may say why",
        path.display()
    ))
}

pub(crate) fn nothing_listens(path: &Path) -> Failure {
    let error = io::Error::from(io::ErrorKind::ConnectionRefused);
    Failure::nothing_running(format!("nothing is running there: {}: {error}", path.display()))
}

fn no_answer(path: &Path) -> Failure {
    Failure::no_answer(format!("no answer in time at {}", path.display()))
}
