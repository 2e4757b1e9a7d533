//! The actions that the engine carries out for the life cycle, and their reasons.

use super::event::Timer;

pub(crate) type Actions = Vec<Action>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Refuse a request to upgrade.
    Refuse(Refusal),
    /// Keep a request to upgrade until the predecessor or the remnant is dead.
    Postpone,
    /// Report that the successor serves; the outcome of the upgrade is still open.
    ReportActive,
    /// Report the outcome of the upgrade.
    Report(Result<(), Failure>),
    /// Report the outcome of a revert to those who have asked this process for it.
    ReportRevert(Result<(), NoRevert>),
    /// Warn that a first start takes long to become ready.
    WarnNotReady,
    /// Start the check of the new release; `Checked` or `CheckFailed` follows.
    Check,
    /// End the check.
    EndCheck,
    /// Start the executable and offer it the listeners.
    Spawn,
    /// Start this process's own executable image and offer it the listeners.
    SpawnRescue,
    /// Send a request to the prepared successor; `Probed` or `ProbeFailed` follows.
    Probe,
    /// End the probe.
    EndProbe,
    /// Verify the successor again and again. `Verified` follows each run that passes, or `VerifyFailed` the first that fails.
    Verify,
    /// End the verification.
    EndVerify,
    SendCommit,
    /// Ask the successor to stop.
    SendStop,
    /// Stage the pid file, then tell the predecessor that this process is ready.
    SendPrepared,
    SendActive,
    SendFailed(StartFailure),
    SendLeaving,
    /// Tell the process that drains that an upgrade waits for its end.
    SendHasten,
    /// Ask the predecessor to serve again.
    SendAskedBack,
    /// Tell the successor that it cannot get what it has asked for.
    SendDeclined,
    /// Ask the successor to close its gates and to give the service back.
    SendRecall,
    /// Tell the predecessor that the gates are closed, and send it the token. Who takes the token owns the gates.
    SendYielded,
    /// Tell the predecessor that the gates cannot be closed.
    SendNotYielded,
    /// Tell the successor that this process serves again.
    SendResumed,
    /// Take the token back; `Reclaimed` or `ReclaimedTooLate` follows.
    Reclaim,
    /// Ask the successor for a sign of life, from its engine and from its body.
    SendPing,
    /// Tell the successor that the service manager is about to follow it.
    SendFollowed,
    /// Ask the service manager to follow the successor; `Announced` comes with its confirmation.
    Announce,
    /// Send SIGKILL to the successor, and to each of its forks.
    Kill,
    /// Prepare to restore the pid file, and close the gates of the listeners that the successor has adopted; `Paused` follows.
    Pause,
    /// Close the gates of the listeners that come from the predecessor; `Paused` follows.
    Yield,
    /// Give connections and datagrams to the body.
    Open,
    /// Make the pid file name this process; `TookOver` or `PidfileFailed` follows.
    TakeOver,
    /// Make the pid file name this process again, because a dead successor may have changed it. Otherwise discard what was
    /// prepared for that.
    TakeBack,
    Arm(Timer),
    Disarm(Timer),
    /// Close every listener of this process: no process is to serve after it and its successor.
    LetGo,
    /// From now on open connections may move to the successor.
    MoveConnections,
    /// From now on nothing moves to the successor. What is offered and has no answer is taken back.
    KeepConnections,
    /// Raise `Shutdown`. With a successor, close the listeners that the successor did not adopt.
    Drain,
    /// Shorten the deadline of the drain.
    Hasten,
    End(End),
}

/// Why a request to upgrade is refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    NotReady,
    InProgress,
    PredecessorDraining,
    SuccessorDraining,
    Terminating,
}

/// Why a revert does not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NoRevert {
    /// No process is in standby.
    NoStandby,
    /// A revert is under way.
    InProgress,
    /// The process in standby did not answer in time.
    NoAnswer,
    /// The successor has taken the service again, because this process did not take it in time.
    InVain,
    /// The process that was to take the service again cannot.
    Declined,
    /// The service was asked to stop.
    Stopped,
}

/// Why an upgrade failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    /// The check rejected the new release.
    Check,
    /// The check took too long.
    CheckTime,
    /// The successor could not be started.
    Spawn,
    /// The successor exited.
    Exited,
    /// The successor reported a reason before it exited.
    Reported,
    /// The successor closed the channel but continued to run.
    ChannelLost,
    /// The successor is another service.
    Refused,
    /// The successor was not ready in time.
    NotReady,
    /// The successor was prepared, and did not answer the probe as it should.
    Probe,
    /// The successor did not answer `COMMIT` in time.
    NoAnswer,
    /// The successor served, and did not pass the verification.
    Verify,
    /// The successor served, and a revert was asked for.
    Reverted,
    /// The successor served, and exited in the probation.
    Probation,
    /// The successor served, and its body returned in the probation.
    Over,
    /// The successor served, and gave no sign of life at the end of the probation.
    Silent,
    /// The successor put itself into the background.
    Background,
    /// The successor served, and this process was asked to stop before the end of the probation.
    Unwatched,
    /// The service was asked to stop.
    Stopped,
}

/// Why a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StartFailure {
    ReadyDropped,
    BodyReturned,
    Pidfile,
    Channel,
    NoCommit,
    Stopped,
}

/// How a process ends. It decides which files the process removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// The service is over: the Unix paths are removed.
    Final,
    /// Another process serves: every file stays.
    Replaced,
    /// The process never served: it removes only the files that it created.
    NotStarted(Option<StartFailure>),
    /// The service is down, and every attempt of the rescue failed.
    RescueFailed,
    /// A second request to stop: the process ends without a wait.
    AtOnce,
}
