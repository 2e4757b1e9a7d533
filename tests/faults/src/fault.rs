//! A fault, and what it has hit.

use std::time::Duration;

use nix::errno::Errno;

use crate::tracer::Verdict;

/// The process that the fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Old,
    New,
}

/// One fault. Its number counts the system calls of the process, over all of its threads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// SIGKILL at this system call, counted from 1: of the old process from the request on, of the new one from its first.
    Kill { at: usize },
    /// The same of a new process whose predecessor has an open connection, which outlasts the fault.
    KillBesideDrain { at: usize },
    /// That system call, counted in the same way, is made so much later.
    Delay { at: usize, by: Duration },
    /// This system call fails, the n-th time that it is made.
    Error { call: i64, error: Errno, nth: usize },
    /// SIGTERM at that system call.
    Stop { at: usize },
    /// SIGSTOP at that system call of a new process, counted from the first of the program on.
    Stall { at: usize },
    /// SIGSTOP at that system call, and SIGCONT so much later.
    Pause { at: usize, by: Duration },
    /// At that system call, counted in the same way, its thread forks, and goes on in the child; the process exits.
    Fork { at: usize },
}

impl Fault {
    /// Its place among those of its kind.
    pub(crate) fn number(self) -> usize {
        let (Self::Kill { at: number }
        | Self::KillBesideDrain { at: number }
        | Self::Delay { at: number, .. }
        | Self::Stop { at: number }
        | Self::Stall { at: number }
        | Self::Pause { at: number, .. }
        | Self::Fork { at: number }
        | Self::Error { nth: number, .. }) = self;
        number
    }

    /// What becomes of the system call that it hits.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self::Kill { .. } | Self::KillBesideDrain { .. } => Verdict::Kill,
            Self::Delay { by, .. } => Verdict::Hold(by),
            Self::Error { error, .. } => Verdict::Fail(error),
            Self::Stop { .. } => Verdict::Stop,
            Self::Stall { .. } => Verdict::Stall,
            Self::Pause { by, .. } => Verdict::Pause(by),
            Self::Fork { .. } => Verdict::Fork,
        }
    }
}

/// What a fault has hit.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    /// The system call.
    pub(crate) call: String,
    /// The process that the fault ends.
    pub(crate) victim: Option<i32>,
    /// That process and those that belong to it: what they have accepted and not answered is lost.
    pub(crate) losers: Vec<i32>,
    pub(crate) moment: Moment,
    /// The process that gets SIGTERM.
    pub(crate) stopped: Option<i32>,
    /// The old process was killed before there was a new one: the service is down then.
    pub(crate) alone: bool,
    /// The system call was to register an accepted connection with epoll: tokio has closed the connection, see docs/reliability.md.
    pub(crate) is_unregistered: bool,
    /// The process that was asked for the upgrade, and the length of its log then.
    pub(crate) old: i32,
    pub(crate) log: usize,
}

impl Hit {
    /// No fault has hit anything, since the log was of this length.
    pub(crate) fn none(old: i32, log: usize) -> Self {
        Self {
            call: String::new(),
            victim: None,
            losers: Vec::new(),
            moment: Moment::default(),
            stopped: None,
            alone: false,
            is_unregistered: false,
            old,
            log,
        }
    }
}

/// What the two processes had said to each other before a fault, or while it happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// The process that the pid file named.
    pub(crate) named: Option<i32>,
    /// The new process was told to serve.
    pub(crate) is_committed: bool,
    /// It was asked for the sign of life that ends its probation.
    pub(crate) is_asked: bool,
    /// The old process knew before the fault that the new one serves.
    pub(crate) is_known_active: bool,
}
