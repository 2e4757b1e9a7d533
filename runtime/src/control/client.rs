//! One client of the control socket, with bounds on its cost.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, UnixCredentials, getsockopt, recv, sockopt};
use nix::unistd::geteuid;

use super::{Code, Reply, Request};
use crate::base::error::RevertError;
use crate::base::status::{LastDrain, Requester};
use crate::between::gate_control::Change;
use crate::between::note::{RevertReply, Reverted, UpgradeReply};

/// The longest line of a client, in bytes.
const MAX_LINE: usize = 4096;
/// The most output that may wait for a slow client, in bytes, beside one reply. A client that leaves more unread is dropped.
const MAX_OUTPUT: usize = 64 * 1024;

pub(super) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Nothing more is read: the client has ended its side, or has sent a line that is too long.
    read_to_end: bool,
    /// The connection has failed.
    broken: bool,
    /// The client has sent `watch`.
    pub(super) watches: bool,
    /// The client is due for a status, and the server has not asked the engine for it yet.
    pub(super) wants_status: bool,
    /// The server has asked the engine for the status of this client.
    pub(super) asked_status: bool,
    /// The outcome of the upgrade that the client waits for, and the time of its request.
    upgrade: Option<(Arc<UpgradeReply>, Instant)>,
    /// The outcome of the revert that the client waits for, and the time of its request.
    revert: Option<(Arc<RevertReply>, Instant)>,
    /// The time of the client's request to stop.
    stop: Option<Instant>,
    /// The client has asked for something that ends with the process.
    waits_for_drain: bool,
    peer: Option<UnixCredentials>,
}

impl Client {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let stream = UnixStream::from(fd);
        Self {
            peer: getsockopt(&stream, sockopt::PeerCredentials).ok(),
            stream,
            input: Vec::new(),
            output: Vec::new(),
            read_to_end: false,
            broken: false,
            watches: false,
            wants_status: false,
            asked_status: false,
            upgrade: None,
            revert: None,
            stop: None,
            waits_for_drain: false,
        }
    }

    /// Whether the client belongs to the user of this process or to root. The mode of the path already keeps other users
    /// out, unless its mode was changed.
    pub(super) fn is_allowed(&self) -> bool {
        self.peer.is_some_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
    }

    /// The client as the source of a request, as of its connect(2).
    pub(super) fn requester(&self) -> Requester {
        let uid = self.peer.map(|peer| peer.uid());
        // The number is 0 for a process that this PID namespace does not have.
        let pid = self.peer.and_then(|peer| u32::try_from(peer.pid()).ok()).filter(|pid| *pid != 0);
        Requester::Control { uid, pid }
    }

    /// The next complete line: a request, or the problem with the line.
    pub(super) fn request(&mut self) -> Option<Result<Request, String>> {
        // The output goes first, so that requests do not pile up replies.
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

    /// Whether a complete line is there, and no output is in its way.
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

    /// Notes a request to upgrade. Returns `None` if the client waits for the outcome of an upgrade already.
    pub(super) fn begin_upgrade(&mut self) -> Option<Arc<UpgradeReply>> {
        if self.upgrade.is_some() {
            self.send(&crate::UpgradeError::InProgress.into());
            return None;
        }
        let reply = Arc::new(UpgradeReply::new());
        self.waits_for_drain = true;
        self.upgrade = Some((reply.clone(), Instant::now()));
        Some(reply)
    }

    /// Notes a request to revert. Returns `None` if the client waits for the outcome of a revert already.
    pub(super) fn begin_revert(&mut self) -> Option<Arc<RevertReply>> {
        if self.revert.is_some() {
            self.send(&RevertError::InProgress.into());
            return None;
        }
        let reply = Arc::new(RevertReply::new());
        self.revert = Some((reply.clone(), Instant::now()));
        Some(reply)
    }

    pub(super) fn begin_watch(&mut self) {
        (self.watches, self.wants_status, self.waits_for_drain) = (true, true, true);
    }

    pub(super) fn begin_stop(&mut self) {
        self.waits_for_drain = true;
        self.stop = Some(Instant::now());
        self.send(&Reply::Stopping);
    }

    /// Sends the phase that has begun, if the client's request is older than the phase.
    pub(super) fn send_phase(&mut self, change: Change) {
        let of_upgrade = self.upgrade.as_ref().map(|(_, since)| *since);
        let since = of_upgrade.or(self.revert.as_ref().map(|(_, since)| *since)).or(self.stop);
        if let Some(elapsed) = since.and_then(|since| change.at.checked_duration_since(since)) {
            let Change { phase, successor, .. } = change;
            self.send(&Reply::Phase { phase, successor, elapsed_ms: in_milliseconds(elapsed) });
        }
    }

    /// Sends the outcomes that the client waits for and that are known.
    pub(super) fn send_outcome(&mut self) {
        self.send_outcome_of_revert();
        self.send_outcome_of_upgrade();
    }

    fn send_outcome_of_revert(&mut self) {
        let Some(outcome) = self.revert.as_ref().and_then(|(reply, _)| reply.get().cloned()) else { return };
        self.revert = None;
        self.send(&match outcome {
            Ok(Reverted { generation, pid, elapsed }) => {
                Reply::Reverted { generation, pid, elapsed_ms: in_milliseconds(elapsed) }
            }
            Err(error) => error.into(),
        });
    }

    fn send_outcome_of_upgrade(&mut self) {
        let Some(outcome) = self.upgrade.as_ref().and_then(|(reply, _)| reply.get().cloned()) else { return };
        self.upgrade = None;
        self.send(&match outcome {
            Ok(upgraded) => Reply::Upgraded {
                generation: upgraded.generation,
                pid: upgraded.pid,
                elapsed_ms: in_milliseconds(upgraded.elapsed),
                from: upgraded.from,
                to: upgraded.to,
                warnings: upgraded.warnings,
            },
            Err(error) => error.into(),
        });
    }

    /// Sends what a drain has cut, if the client has asked for something that ends with it.
    pub(super) fn send_drained(&mut self, drain: &LastDrain) {
        if self.waits_for_drain {
            self.send(&Reply::Drained {
                pid: drain.pid,
                successor: None,
                aborted: Some(drain.aborted),
                peers: drain.peers.clone(),
                duration_ms: Some(in_milliseconds(drain.duration)),
            });
        }
    }

    /// What this process has cut is the last that it says.
    pub(super) fn end_statuses(&mut self) {
        (self.watches, self.wants_status, self.asked_status) = (false, false, false);
    }

    /// Adds a reply to the output. A client with too much unread output is dropped.
    pub(super) fn send(&mut self, reply: &Reply) {
        // The length before this reply counts: one status of a service with a thousand listeners is longer than the limit.
        let too_slow = self.output.len() > MAX_OUTPUT;
        // An error instead of no reply: a client whose connection ends without a reply asks again.
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

    /// Sends the reason why the client is not served, as far as the socket takes it at once.
    pub(super) fn refuse(&mut self, reply: &Reply) {
        self.send(reply);
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

    /// Whether the client waits for nothing, and no line of it is unanswered or unread.
    pub(super) fn is_idle(&self) -> bool {
        let is_silent = || recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK) == Err(Errno::EAGAIN);
        self.is_owed_nothing()
            && self.output.is_empty()
            && !self.has_line()
            && (self.read_to_end || is_silent())
    }

    /// Whether nothing is left to read from the client or to send to it.
    pub(super) fn is_done(&self) -> bool {
        self.broken || (self.read_to_end && self.output.is_empty() && self.is_owed_nothing())
    }

    fn is_owed_nothing(&self) -> bool {
        let waits = self.watches || self.wants_status || self.asked_status;
        !waits && self.upgrade.is_none() && self.revert.is_none() && self.stop.is_none()
    }

    /// Notes that the client is gone. The server first reads what the client sent before.
    pub(super) fn hung_up(&mut self) {
        self.broken |= self.read_to_end;
    }

    /// The events to wait for. poll(2) reports POLLHUP in any case.
    pub(super) fn interest(&self) -> PollFlags {
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
