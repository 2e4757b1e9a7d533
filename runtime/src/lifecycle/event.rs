//! The events that the engine reports to the life cycle, and the timers.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// SIGHUP, or `Upgrader::upgrade`.
    Upgrade,
    /// SIGTERM, Ctrl-C, `Upgrader::stop`, or the message `stop` of the predecessor.
    Stop,
    /// The body is ready.
    Ready,
    /// The body dropped its `Ready` without `notify`.
    NotReady,
    /// The body returned or panicked.
    BodyReturned,
    /// No counted connection or guard is left.
    Drained,
    /// From the predecessor: the successor may serve.
    Commit,
    /// The predecessor is dead.
    PredecessorGone,
    /// From the predecessor, its last message: it never opens a gate again, even if it still lives.
    PredecessorOver,
    /// The channel to the predecessor has ended, and the predecessor lives.
    PredecessorLost,
    /// The check permits the start of the new release.
    Checked,
    /// The check rejects the new release.
    CheckFailed,
    /// The successor could not be started.
    SpawnFailed,
    /// From the successor: it is ready.
    Prepared,
    /// The prepared successor has answered the probe as it should, or there is no probe.
    Probed,
    /// The prepared successor has not answered the probe as it should.
    ProbeFailed,
    /// From the successor: it serves.
    Active,
    /// A run of the verification that began after `ACTIVE` has passed, or there is no verification.
    Verified,
    /// A run of the verification has failed.
    VerifyFailed,
    /// From the successor: it cannot start and is about to exit.
    Failed,
    /// From the successor: it has served, and is stopping on request.
    Leaving,
    /// From the process that serves: an upgrade waits for the end of this one.
    Hasten,
    /// From the successor: the sign of life, the answer to a ping.
    Alive,
    /// An operator or the body asks for a revert: the process in standby is to serve again.
    Revert,
    /// From the successor: it was asked for a revert.
    AskedBack,
    /// From the predecessor: it is to serve again, and this process closes its gates first.
    Recall,
    /// From the successor: its gates are closed, and the token is this process's.
    Yielded,
    /// From the successor: its gates were closed, but it has taken the token back, and serves again.
    YieldedInVain,
    /// From the successor: it cannot close its gates.
    NotYielded,
    /// From the predecessor: it serves again.
    Resumed,
    /// From the predecessor: it cannot serve again.
    Declined,
    /// This process has taken its token back: the predecessor does not serve.
    Reclaimed,
    /// The predecessor has the token: it serves, or is about to.
    ReclaimedTooLate,
    /// From the successor, its last message: it never opens a gate again, even if it still lives.
    SuccessorOver,
    /// The started process is reaped, and another process has its end of the channel.
    Forked,
    /// The service manager follows the successor.
    Announced,
    /// From the predecessor: the service manager is about to follow this process.
    Followed,
    /// The channel to the successor is unusable, although the successor may still run. In a process that does not serve yet, it
    /// is the channel to the predecessor.
    ChannelLost,
    /// The successor is ready, but it is another service.
    Refused,
    /// The successor is dead as a whole: its process is reaped, and no process has its end of the channel.
    Exited,
    /// No thread is inside an accept or a receive any more.
    Paused,
    /// The pid file names this process.
    TookOver,
    /// The take-over has failed: the pid file could not be written, or the options of a socket could not be set.
    PidfileFailed,
    Expired(Timer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The time for the check of a new release, the readiness of the successor, its verification, and its answer to a ping. In a first
    /// start it only triggers a warning.
    Upgrade,
    /// The time in which each process expects the answer of the other around `COMMIT`, and in a revert.
    Handover,
    /// The probation of a successor.
    Probation,
    /// The time in which open connections may finish.
    Drain,
    /// The time for a successor to exit after it was killed or has failed.
    Exit,
    /// The pause between two attempts of a rescue.
    Backoff,
    /// The time for the service manager to confirm that it follows the successor.
    Announce,
    /// The time for a successor that is over, or that was reverted, to exit.
    Remnant,
    /// Expires at once, after every event that has already arrived.
    Quiet,
}
