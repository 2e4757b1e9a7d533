//! One connection to the control socket, with bounds on what it may cost.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};
use nix::unistd::geteuid;

use super::{Code, Reply, Request};
use crate::between::gate_control::Change;
use crate::between::shared;

/// The longest line that is read, in bytes.
const MAX_LINE: usize = 4096;
/// How much may wait for a client that does not read, in bytes, beside one answer. One that lets more come is dropped.
const MAX_OUTPUT: usize = 64 * 1024;

pub(super) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Nothing more is read: the other end is done, or has said what is no request.
    read_to_end: bool,
    /// It cannot be talked to any more.
    broken: bool,
    pub(super) watches: bool,
    /// It is to be told how things stand, and the engine has been asked on its behalf.
    pub(super) wants_status: bool,
    pub(super) asked_status: bool,
    upgrade: Option<(Arc<shared::Reply>, Instant)>,
    stop: Option<Instant>,
}

impl Client {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            stream: fd.into(),
            input: Vec::new(),
            output: Vec::new(),
            read_to_end: false,
            broken: false,
            watches: false,
            wants_status: false,
            asked_status: false,
            upgrade: None,
            stop: None,
        }
    }

    /// The user of this process, or root. The mode of the path says the same to whoever connects; this is for a path
    /// whose mode somebody has changed.
    pub(super) fn is_allowed(&self) -> bool {
        getsockopt(&self.stream, sockopt::PeerCredentials)
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
    }

    /// The next line, if it is complete: a request, or what is wrong with it.
    pub(super) fn request(&mut self) -> Option<Result<Request, String>> {
        // What it is owed goes first, so that requests do not pile up answers.
        if !self.output.is_empty() || self.broken {
            return None;
        }
        if !self.has_line() {
            self.read();
        }
        if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            return Some(
                serde_json::from_slice(&line[..end]).map_err(|error| format!("no request: {error}")),
            );
        }
        if self.input.len() < MAX_LINE {
            return None;
        }
        self.read_to_end = true;
        self.input.clear();
        Some(Err(format!("a line has at most {MAX_LINE} bytes")))
    }

    /// Whether there is a request that can be dealt with at once.
    pub(super) fn has_request(&self) -> bool {
        self.output.is_empty() && !self.broken && self.has_line()
    }

    fn has_line(&self) -> bool {
        self.input.contains(&b'\n')
    }

    fn read(&mut self) {
        let mut buffer = [0; MAX_LINE];
        let room = MAX_LINE - self.input.len();
        while !self.read_to_end && !self.broken {
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => self.read_to_end = true,
                Ok(count) => return self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.broken = true,
            }
        }
    }

    /// A request to upgrade, unless it waits for the outcome of one already.
    pub(super) fn begin_upgrade(&mut self) -> Option<Arc<shared::Reply>> {
        if self.upgrade.is_some() {
            self.say(&crate::UpgradeError::InProgress.into());
            return None;
        }
        let reply = Arc::new(shared::Reply::new());
        self.upgrade = Some((reply.clone(), Instant::now()));
        Some(reply)
    }

    pub(super) fn begin_stop(&mut self) {
        self.stop = Some(Instant::now());
        self.say(&Reply::Stopping);
    }

    /// A phase has begun; it may have been before this one asked for anything.
    pub(super) fn tell(&mut self, change: Change) {
        let since = self.upgrade.as_ref().map(|(_, since)| *since).or(self.stop);
        if let Some(elapsed) = since.and_then(|since| change.at.checked_duration_since(since)) {
            let Change { phase, successor, .. } = change;
            self.say(&Reply::Phase { phase, successor, elapsed_ms: in_milliseconds(elapsed) });
        }
    }

    /// The outcome of the upgrade that it waits for, if there is one.
    pub(super) fn tell_outcome(&mut self) {
        let Some(outcome) = self.upgrade.as_ref().and_then(|(reply, _)| reply.get().cloned()) else { return };
        self.upgrade = None;
        self.say(&match outcome {
            Ok(upgraded) => Reply::Upgraded {
                generation: upgraded.generation,
                pid: upgraded.pid,
                elapsed_ms: in_milliseconds(upgraded.elapsed),
                warnings: upgraded.warnings,
            },
            Err(error) => error.into(),
        });
    }

    pub(super) fn say(&mut self, reply: &Reply) {
        // The status of a service with a thousand listeners is longer than that by itself.
        let too_slow = self.output.len() > MAX_OUTPUT;
        // A client whose connection ends without an answer asks again: it is told instead.
        let line = serde_json::to_vec(reply).or_else(|error| {
            let problem = format!("the answer cannot be written as JSON: {error}");
            serde_json::to_vec(&Reply::error(Code::Failed, problem))
        });
        match line {
            Ok(line) => self.output.extend(line.into_iter().chain([b'\n'])),
            Err(_) => self.broken = true,
        }
        self.broken |= too_slow;
    }

    /// Says why it is not served, as far as the socket takes it at once.
    pub(super) fn refuse(&mut self, reply: &Reply) {
        self.say(reply);
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() && !self.broken {
            match self.stream.write(&self.output) {
                Ok(count) => _ = self.output.drain(..count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.broken = true,
            }
        }
    }

    /// It waits for nothing and has said nothing that is not answered, or not read yet.
    pub(super) fn is_idle(&self) -> bool {
        let is_silent = || recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK) == Err(Errno::EAGAIN);
        self.owes_nothing() && self.output.is_empty() && !self.has_line() && (self.read_to_end || is_silent())
    }

    /// There is nothing more to read from it, or to say to it.
    pub(super) fn is_done(&self) -> bool {
        self.broken || (self.read_to_end && self.output.is_empty() && self.owes_nothing())
    }

    fn owes_nothing(&self) -> bool {
        let waits = self.watches || self.wants_status || self.asked_status;
        !waits && self.upgrade.is_none() && self.stop.is_none()
    }

    /// The other end is gone. What it had said before is read first.
    pub(super) fn hung_up(&mut self) {
        self.broken |= self.read_to_end;
    }

    /// What to wait for. That the other end is gone poll(2) tells in any case.
    pub(super) fn wanted(&self) -> PollFlags {
        if !self.output.is_empty() {
            PollFlags::POLLOUT
        } else if !self.read_to_end {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn in_milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
