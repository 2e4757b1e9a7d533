//! The phases of a process.

use super::action::Failure;
use super::event::Timer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// The body initialises, and the listeners are closed to it.
    Starting,
    /// The predecessor knows that this process is ready; this process waits for `COMMIT`.
    Prepared,
    /// The pid file is being written. The listeners are still closed: a failure of the write ends the start, and would lose an
    /// accepted connection.
    TakingOver,
    /// This process serves.
    Serving,
    /// This process serves, and the new release is checked.
    Checking,
    /// This process serves, and the successor initialises.
    Upgrading,
    /// This process serves. The successor is prepared, and the probe looks at its answer.
    Probing,
    /// The successor is prepared. This process waits until none of its threads is inside an accept or a receive.
    Pausing,
    /// `COMMIT` is sent; this process waits for `ACTIVE`. `stop`: a stop was requested meanwhile.
    Committed { stop: bool },
    /// The successor serves and is on probation.
    Standby(Probation),
    /// The successor serves and was asked to give the service back. `failure`: why. `stop`: a stop was requested meanwhile.
    Recalling { stop: bool, failure: Failure },
    /// The predecessor recalls the service. This process waits until none of its threads is inside an accept or a receive.
    Yielding,
    /// The gates are closed and the predecessor knows it. It serves again soon, or else this process does. The body knows nothing.
    Yielded,
    /// The successor has passed the probation; the service manager is asked to follow it. `stop`: a stop was requested
    /// meanwhile. `leaving`: the successor is stopping on request.
    Announcing { stop: bool, leaving: bool },
    /// The successor is about to die. After its death this process resumes, or stops if `then_stop`. `paused`: the gates are
    /// closed. The outcome is reported only then, because the operator may ask for the next upgrade as soon as this one fails.
    Reverting { paused: bool, then_stop: bool, failure: Failure },
    /// Open connections are finished.
    Draining(Drain),
    /// The life cycle of this process has ended; its `main` may go on.
    Ended,
}

/// The reasons of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Drain {
    /// The service stops. `owner`: this process removes the pid file and the Unix paths.
    Stop { owner: bool },
    /// A successor serves. `stop`: a first request to stop has arrived.
    Replaced { stop: bool },
    /// A successor has served and is stopping as well, so the service ends. `stop`: a first request to stop has arrived.
    Leaving { stop: bool },
    /// The predecessor serves again. `stop`: a first request to stop has arrived.
    Reverted { stop: bool },
    /// The drain is over, and this process waits for the death of the other process. `stop`: a first request to stop has
    /// arrived.
    Last { stop: bool },
    /// The successor died when this process could no longer resume, so this process starts its own executable image.
    /// `finished`: this process has drained.
    Rescue { step: Rescue, attempt: u8, finished: bool },
}

/// The steps of a rescue. They are the steps of an upgrade, but the listeners of this process stay closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rescue {
    Initialising,
    Committed,
    Probation(Probation),
    /// The successor is about to die. `stop`: a stop was requested, so no attempt follows.
    Killing {
        stop: bool,
    },
    /// The pause before the next attempt.
    Waiting,
}

/// The progress of a probation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Probation {
    /// Its time runs, and no verification has passed.
    Running,
    /// Its time runs, and a verification has passed.
    Verified,
    /// Its time is over, and no verification has passed.
    Unverified,
    /// Its time is over, and the successor was asked for a sign of life.
    Asked,
    /// The successor has given the sign of life. Events that have arrived since come first: the successor may be leaving.
    Passed,
}

impl Probation {
    /// The timer that runs.
    pub(super) fn timer(self) -> Timer {
        match self {
            Self::Running | Self::Verified => Timer::Probation,
            Self::Unverified | Self::Asked => Timer::Upgrade,
            Self::Passed => Timer::Quiet,
        }
    }
}
