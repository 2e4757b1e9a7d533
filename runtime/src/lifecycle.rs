//! The life of one process as a pure state machine: `(State, Event) -> (State, Actions)`, without I/O.
//!
//! The same `step` plays both parts. A process is the *new* one while its predecessor lives and the *old* one
//! from the moment it starts a successor. The engine feeds it and carries out its actions; the model check in
//! `lifecycle/model.rs` explores two and more processes that run it against each other, with a crash at every step.
//!
//! Three rules carry the weight, and every transition below keeps them:
//!
//! * Listeners are opened only by a process that never had a predecessor, that was told to (`COMMIT`), whose predecessor
//!   is dead or over, or whose successor is dead or over. So no two processes ever accept from the same listener.
//! * A process is *dead* when nothing of it can run any more: the process that was started is reaped, the one that spoke
//!   for it is dead, and nobody holds its end of the channel. The end of the channel alone is no death, and neither is the
//!   exit of the process that was started: it may have forked. A process is *over* when it has closed its gates for good and
//!   has said so (`OVER`), whatever its `main` still does.
//! * A successor that is not wanted any more is killed and *waited for* before its predecessor resumes.
//! * The process that a service manager follows exits last: its exit is the end of the service to the manager, which ends
//!   all others then. So it becomes another one only when that one has passed its probation, and in a stop of both it
//!   outlives the other.

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// The process that started this one.
    pub(crate) predecessor: Predecessor,
    /// The body has returned.
    pub(crate) body_gone: bool,
    /// What an upgrade does while the predecessor lives.
    pub(crate) overlap: Overlap,
    /// One waits for the predecessor to be gone.
    pub(crate) pending: bool,
    /// The successor has asked that the drain of this process end soon.
    pub(crate) hastened: bool,
    pub(crate) followed: Followed,
    /// A successor that served and is over has not exited yet, while this process serves again.
    pub(crate) remnant: bool,
}

/// Which process a service manager takes for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Followed {
    /// There is none, or it follows a parent that stays.
    Nobody,
    This,
    /// The predecessor, or the successor.
    Other,
}

/// What a service manager is to know of the process that it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Starting,
    Ready,
    Reloading,
    Stopping,
    /// It is the other process that tells.
    Nothing,
}

/// What a further upgrade does while the predecessor is still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Overlap {
    #[default]
    Refuse,
    Wait,
    /// As `Wait`, and the predecessor is asked to be quick.
    Hasten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Predecessor {
    /// This is a first start.
    None,
    /// It lives.
    Alive,
    /// It lives, and is over: it never opens a gate again. What this process does not serve, nobody does.
    Over,
    /// It is dead: what this process does not serve, nobody does.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// The body initialises; the listeners are closed to it.
    Starting,
    /// Ready, and the predecessor knows; waiting for its `COMMIT`.
    Prepared,
    /// The pid file is being written. The listeners are still closed: were it to fail after the first connection, that
    /// one would be lost.
    TakingOver,
    /// The one that serves.
    Serving,
    /// Serving, while the new release is checked.
    Checking,
    /// Serving, while the successor initialises.
    Upgrading,
    /// The successor is prepared; waiting until no thread here is inside an accept or a receive.
    Pausing,
    /// The successor was told to serve; waiting for its `ACTIVE`. `stop`: a stop was asked for meanwhile.
    Committed { stop: bool },
    /// The successor serves and is on probation.
    Standby(Probation),
    /// It has passed it; the service manager is told to follow it. `stop`: a stop was asked for meanwhile; `leaving`: the
    /// successor was told to stop.
    Announcing { stop: bool, leaving: bool },
    /// The successor is on its way out; once it is dead this process resumes, or stops, and tells the outcome: whoever
    /// hears that an upgrade failed may ask for the next one at once.
    Reverting { paused: bool, then_stop: bool, failure: Failure },
    /// Shutdown has been raised; open connections are finished.
    Draining(Drain),
    /// Over.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Drain {
    /// The service stops. `owner`: the pid file and the Unix paths are this process's to remove.
    Stop { owner: bool },
    /// A successor serves. `stop`: a first request to stop has been noted.
    Replaced { stop: bool },
    /// A successor served, and is stopping as well: nobody is to serve after the two. `stop`: a first request to stop
    /// has been noted.
    Leaving { stop: bool },
    /// All is done but to outlive the other process, which drains as well. `stop`: a first request to stop has been noted.
    Last { stop: bool },
    /// The successor died when this process could no longer resume: its own executable is started again.
    Rescue { step: Rescue, attempt: u8, finished: bool },
}

/// The steps of a rescue, which are those of an upgrade with the listeners closed throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rescue {
    Initialising,
    Committed,
    Probation(Probation),
    /// `stop`: a stop was asked for; no further attempt.
    Killing {
        stop: bool,
    },
    Waiting,
}

/// How far the probation of a successor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Probation {
    /// Its time runs.
    Running,
    /// Its time is over, and the successor was asked for a sign of life.
    Asked,
    /// The successor has given it. What has arrived since is looked at first: it may say that the successor leaves.
    Passed,
}

impl Probation {
    /// The timer that runs.
    fn timer(self) -> Timer {
        match self {
            Self::Running => Timer::Probation,
            Self::Asked => Timer::Upgrade,
            Self::Passed => Timer::Quiet,
        }
    }
}

/// After how many attempts a rescue is given up. They are `Timer::Backoff` apart.
pub(crate) const RESCUE_ATTEMPTS: u8 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// SIGHUP, or `Upgrader::upgrade`.
    Upgrade,
    /// SIGTERM, Ctrl-C, `Upgrader::stop`, or the predecessor passing on what it was told.
    Stop,
    /// The body is ready.
    Ready,
    /// The body dropped its `Ready` without notifying.
    NotReady,
    /// The body returned or panicked.
    BodyReturned,
    /// Nothing that is counted is left.
    Drained,
    /// From the predecessor: serve.
    Commit,
    /// The predecessor is dead.
    PredecessorGone,
    /// From the predecessor, its last word: it never opens a gate again, however long it still lives.
    PredecessorOver,
    /// The channel to the predecessor has reached its end, and its process lives.
    PredecessorLost,
    /// The new release may be started.
    Checked,
    /// It may not.
    CheckFailed,
    /// The successor could not be started at all.
    SpawnFailed,
    /// From the successor: it is ready.
    Prepared,
    /// From the successor: it serves.
    Active,
    /// From the successor: it cannot start and is about to exit.
    Failed,
    /// From the successor: it served and was told to stop.
    Leaving,
    /// From the successor: somebody waits for this process to be gone.
    Hasten,
    /// From the successor: the sign of life that it was asked for.
    Alive,
    /// From the successor, its last word: it never opens a gate again, however long it still lives.
    SuccessorOver,
    /// The process that was started is reaped, and another one speaks for it.
    Forked,
    /// The service manager follows the successor.
    Announced,
    /// From the predecessor: the service manager is told to follow this process.
    Followed,
    /// The channel to the successor is unusable, though it may still run; in a process that does not serve yet,
    /// the one to the predecessor.
    ChannelLost,
    /// The successor is ready, and is another service than this one.
    Refused,
    /// The successor is dead: reaped, and nobody is left who holds its end of the channel.
    Exited,
    /// No thread is inside an accept or a receive any more.
    Paused,
    /// The pid file names this process.
    TookOver,
    /// The pid file could not be written.
    PidfileFailed,
    Expired(Timer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// How long the check of a new release and the successor may take until that is ready; for a first start, when to
    /// warn.
    Upgrade,
    /// How long either side waits for the other's answer around `COMMIT`.
    Handover,
    /// How long a successor is watched before its predecessor lets go.
    Probation,
    /// How long open connections may take to finish.
    Drain,
    /// How long a successor that said why it fails may take to exit.
    Exit,
    /// The pause between two attempts of a rescue.
    Backoff,
    /// How long the service manager may take to hear whom to follow.
    Announce,
    /// How long a successor that is over may take to exit.
    Remnant,
    /// It expires at once, and so once all that has arrived was looked at.
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Answer a request to upgrade that cannot be served.
    Refuse(Refusal),
    /// Keep a request to upgrade until the predecessor is gone.
    Postpone,
    /// The successor serves; the outcome is still open.
    ReportActive,
    /// The upgrade under way has this outcome.
    Report(Result<(), Failure>),
    /// Say that a first start is slow to become ready.
    WarnNotReady,
    /// Start the check of the new release; `Checked` or `CheckFailed` follows.
    Check,
    /// End the check.
    EndCheck,
    /// Start the executable again and offer it the listeners.
    Spawn,
    /// Start this process's own image again and offer it the listeners.
    SpawnRescue,
    SendCommit,
    /// Ask the successor to stop.
    SendStop,
    /// Stage the pid file, then tell the predecessor.
    SendPrepared,
    SendActive,
    SendFailed(StartFailure),
    SendLeaving,
    SendHasten,
    /// Ask the successor for a sign of life, from its engine and from its body.
    SendPing,
    /// Tell the successor that it is the one which the service manager is about to follow.
    SendFollowed,
    /// Tell the service manager to follow the successor; `Announced` comes once it has heard.
    Announce,
    /// SIGKILL the successor, and all that is left of it where it has forked.
    Kill,
    /// Prepare the way back of the pid file, and stop handing out connections and datagrams; `Paused` follows.
    Pause,
    /// Hand out connections and datagrams.
    Open,
    /// Make the pid file name this process; `TookOver` or `PidfileFailed` follows.
    TakeOver,
    /// Make the pid file name this process again after a successor died that may have changed it, or let go of what
    /// was prepared for that.
    TakeBack,
    Arm(Timer),
    Disarm(Timer),
    /// Close every listener here: nobody is to serve after who has them now, or had them and is dead.
    LetGo,
    /// Raise `Shutdown`; with a successor, close the listeners that it did not adopt.
    Drain,
    /// Bring the deadline of the drain near.
    Hasten,
    End(End),
}

/// Why a request to upgrade is refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    NotReady,
    InProgress,
    PredecessorDraining,
    Terminating,
}

/// Why an upgrade failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    /// The check said no.
    Check,
    /// The check took too long.
    CheckTime,
    /// It could not be started.
    Spawn,
    /// It exited.
    Exited,
    /// It said why before it exited.
    Reported,
    /// It closed the channel but went on running.
    ChannelLost,
    /// It is another service.
    Refused,
    /// It was not ready in time.
    NotReady,
    /// It was told to serve and did not answer in time.
    NoAnswer,
    /// It became active and exited in the probation.
    Probation,
    /// It became active, and its body returned in the probation.
    Over,
    /// It became active, and gave no sign of life at the end of the probation.
    Silent,
    /// It put itself into the background.
    Background,
    /// It became active, and this process was told to stop before the probation was over.
    Unwatched,
    /// A stop was asked for.
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

/// How a process ends, which decides what it removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// The service is over: the Unix paths go.
    Final,
    /// Somebody else serves: everything stays.
    Replaced,
    /// It never served: only what it created itself goes.
    NotStarted(Option<StartFailure>),
    /// The service is down and every attempt to start it again failed.
    RescueFailed,
    /// A second request to stop: nothing is waited for.
    AtOnce,
}

pub(crate) type Actions = Vec<Action>;

use Action as A;
use Event as E;
use Phase as P;

impl State {
    /// The first state and what to do on entering it.
    pub(crate) fn new(predecessor: Predecessor, overlap: Overlap, managed: bool) -> (State, Actions) {
        let followed = match predecessor {
            _ if !managed => Followed::Nobody,
            Predecessor::Alive | Predecessor::Over => Followed::Other,
            Predecessor::None | Predecessor::Gone => Followed::This,
        };
        let state = State {
            phase: P::Starting,
            predecessor,
            body_gone: false,
            overlap,
            pending: false,
            hastened: false,
            followed,
            remnant: false,
        };
        (state, vec![A::Arm(Timer::Upgrade)])
    }

    /// What the service manager is to know.
    pub(crate) fn known(&self) -> Known {
        if self.followed == Followed::Other {
            return Known::Nothing;
        }
        match self.phase {
            P::Starting | P::Prepared | P::TakingOver => Known::Starting,
            P::Serving if !self.pending => Known::Ready,
            P::Serving
            | P::Checking
            | P::Upgrading
            | P::Pausing
            | P::Committed { .. }
            | P::Standby(_)
            | P::Reverting { .. } => Known::Reloading,
            P::Draining(Drain::Stop { owner: true } | Drain::Leaving { .. } | Drain::Last { .. }) => {
                Known::Stopping
            }
            P::Announcing { .. } | P::Draining(_) | P::Ended => Known::Nothing,
        }
    }

    /// Whether connections are handed out by this process.
    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, P::Serving | P::Checking | P::Upgrading | P::Reverting { paused: false, .. })
    }

    /// One step. Every pair of phase and event has an answer; an event that means nothing in a phase leaves it
    /// as it is.
    #[must_use]
    pub(crate) fn step(mut self, event: Event) -> (State, Actions) {
        // What is true in every phase is noted here once, so that the table below is about phases alone.
        match event {
            E::PredecessorGone => {
                self.predecessor = Predecessor::Gone;
                self.be_followed();
            }
            E::PredecessorOver if self.has_predecessor() => self.predecessor = Predecessor::Over,
            // Of a predecessor that is over, or dead, the end of the channel tells nothing new.
            E::PredecessorOver | E::PredecessorLost if !self.has_predecessor() => return self.stay(),
            E::Followed => self.be_followed(),
            E::BodyReturned => self.body_gone = true,
            E::Hasten => self.hastened = true,
            E::Exited => {
                self.hastened = false;
                self.remnant = false;
            }
            _ => {}
        }
        match self.phase {
            P::Starting => self.starting(event),
            P::Prepared => self.prepared(event),
            P::TakingOver => self.taking_over(event),
            P::Serving => self.serving(event),
            P::Checking => self.checking(event),
            P::Upgrading => self.upgrading(event),
            P::Pausing => self.pausing(event),
            P::Committed { stop } => self.committed(event, stop),
            P::Standby(probation) => self.standby(event, probation),
            P::Announcing { stop, leaving } => self.announcing(event, stop, leaving),
            P::Reverting { paused, then_stop, failure } => self.reverting(event, paused, then_stop, failure),
            P::Draining(Drain::Stop { owner }) => self.stopping(event, owner),
            P::Draining(Drain::Replaced { stop }) => self.replaced(event, stop),
            P::Draining(Drain::Leaving { stop }) => self.leaving(event, stop),
            P::Draining(Drain::Last { stop }) => self.last(event, stop),
            P::Draining(Drain::Rescue { step, attempt, finished }) => {
                self.rescue(event, step, attempt, finished)
            }
            P::Ended => match event {
                E::Upgrade => (self, vec![A::Refuse(Refusal::Terminating)]),
                _ => self.stay(),
            },
        }
    }

    fn starting(self, event: Event) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::NotReady)]),
            E::Ready if self.has_predecessor() => {
                self.to(P::Prepared, [A::Disarm(Timer::Upgrade), A::Arm(Timer::Handover), A::SendPrepared])
            }
            E::Ready => self.to(P::TakingOver, [A::Disarm(Timer::Upgrade), A::TakeOver]),
            E::NotReady => self.start_failed(StartFailure::ReadyDropped),
            // A predecessor that lives may serve.
            E::ChannelLost | E::PredecessorLost => self.start_failed(StartFailure::Channel),
            E::BodyReturned => self.start_failed(StartFailure::BodyReturned),
            E::Stop => self.stop_before_serving(),
            E::Expired(Timer::Upgrade) => (self, vec![A::WarnNotReady, A::Arm(Timer::Upgrade)]),
            _ => self.stay(),
        }
    }

    fn prepared(self, event: Event) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::NotReady)]),
            // A predecessor that is dead, or over, cannot serve any more, whatever it still meant to say.
            E::Commit | E::PredecessorGone | E::PredecessorOver => {
                self.to(P::TakingOver, [A::Disarm(Timer::Handover), A::TakeOver])
            }
            E::BodyReturned => self.start_failed(StartFailure::BodyReturned),
            E::PidfileFailed => self.start_failed(StartFailure::Pidfile),
            E::ChannelLost | E::PredecessorLost => self.start_failed(StartFailure::Channel),
            E::Expired(Timer::Handover) => self.start_failed(StartFailure::NoCommit),
            E::Stop => self.stop_before_serving(),
            _ => self.stay(),
        }
    }

    fn taking_over(self, event: Event) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::NotReady)]),
            E::TookOver if self.has_predecessor() => self.to(P::Serving, [A::Open, A::SendActive]),
            E::TookOver => self.to(P::Serving, [A::Open]),
            // Without a pid file is better than without a service: nobody else is left to serve.
            E::PidfileFailed if matches!(self.predecessor, Predecessor::Gone | Predecessor::Over) => {
                self.to(P::Serving, [A::Open])
            }
            E::PidfileFailed => self.start_failed(StartFailure::Pidfile),
            E::BodyReturned => self.start_failed(StartFailure::BodyReturned),
            E::Stop => self.stop_as_owner(),
            _ => self.stay(),
        }
    }

    fn serving(self, event: Event) -> (State, Actions) {
        match event {
            E::Upgrade if self.has_company() => self.postpone(),
            E::PredecessorGone if self.pending && !self.remnant => self.upgrade(),
            E::Exited if self.pending => self.upgrade_after([A::Disarm(Timer::Remnant)]),
            E::Exited => (self, vec![A::Disarm(Timer::Remnant)]),
            E::Expired(Timer::Remnant) if self.remnant => (self, vec![A::Kill, A::Arm(Timer::Remnant)]),
            E::Upgrade => self.upgrade(),
            // A predecessor that stands by, or drains, serves again: the pid file and the paths stay for it.
            E::BodyReturned => self.end(if self.has_predecessor() { End::Replaced } else { End::Final }),
            E::Stop => {
                let (state, more) = State { pending: false, ..self }.stop_as_owner();
                let mut actions = Actions::new();
                actions.extend(self.pending.then_some(A::Report(Err(Failure::Stopped))));
                actions.extend(self.remnant.then_some(A::Disarm(Timer::Remnant)));
                actions.extend(more);
                (state, actions)
            }
            _ => self.stay(),
        }
    }

    fn upgrade(self) -> (State, Actions) {
        self.upgrade_after([])
    }

    fn upgrade_after<const N: usize>(self, before: [Action; N]) -> (State, Actions) {
        let (state, more) =
            State { pending: false, ..self }.to(P::Checking, [A::Arm(Timer::Upgrade), A::Check]);
        (state, before.into_iter().chain(more).collect())
    }

    /// A request to upgrade while the predecessor lives, or a successor that is over.
    fn postpone(self) -> (State, Actions) {
        let pending = State { pending: true, ..self };
        match self.overlap {
            Overlap::Refuse if self.remnant => (self, vec![A::Refuse(Refusal::InProgress)]),
            Overlap::Refuse => (self, vec![A::Refuse(Refusal::PredecessorDraining)]),
            _ if self.pending => (self, vec![A::Refuse(Refusal::InProgress)]),
            Overlap::Wait => (pending, vec![A::Postpone]),
            // A successor that is over drains nothing.
            Overlap::Hasten if self.remnant => (pending, vec![A::Postpone]),
            Overlap::Hasten => (pending, vec![A::Postpone, A::SendHasten]),
        }
    }

    fn checking(self, event: Event) -> (State, Actions) {
        let failed =
            |failure| self.to(P::Serving, [A::Disarm(Timer::Upgrade), A::EndCheck, A::Report(Err(failure))]);
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::InProgress)]),
            E::Checked => self.to(P::Upgrading, [A::Spawn]),
            E::CheckFailed => failed(Failure::Check),
            E::Expired(Timer::Upgrade) => failed(Failure::CheckTime),
            E::Stop => {
                let (state, more) = self.stop_as_owner();
                (state, failed(Failure::Stopped).1.into_iter().chain(more).collect())
            }
            E::BodyReturned => self.to(P::Ended, [A::EndCheck, A::End(End::Final)]),
            _ => self.stay(),
        }
    }

    fn upgrading(self, event: Event) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::InProgress)]),
            E::SpawnFailed => {
                self.to(P::Serving, [A::Disarm(Timer::Upgrade), A::Report(Err(Failure::Spawn))])
            }
            E::Exited => self.to(P::Serving, [A::Disarm(Timer::Upgrade), A::Report(Err(Failure::Exited))]),
            E::Prepared => self.to(P::Pausing, [A::Pause]),
            E::Stop => self.revert(false, true, Failure::Stopped),
            // The service ends by itself. The successor hears that it is over, and serves.
            E::BodyReturned => self.end(End::Replaced),
            _ => self.give_up(event, false),
        }
    }

    fn pausing(self, event: Event) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::InProgress)]),
            E::Paused => self.to(
                P::Committed { stop: false },
                [A::Disarm(Timer::Upgrade), A::Arm(Timer::Handover), A::SendCommit],
            ),
            E::Exited => self.to(
                P::Serving,
                [A::Disarm(Timer::Upgrade), A::TakeBack, A::Open, A::Report(Err(Failure::Exited))],
            ),
            E::Stop => self.revert(true, true, Failure::Stopped),
            E::BodyReturned => self.end(End::Replaced),
            _ => self.give_up(event, true),
        }
    }

    fn committed(self, event: Event, stop: bool) -> (State, Actions) {
        match event {
            E::Upgrade if stop => (self, vec![A::Refuse(Refusal::Terminating)]),
            E::Upgrade => (self, vec![A::Refuse(Refusal::InProgress)]),
            // It may have accepted connections already: it is asked to stop the graceful way, once it answers.
            E::Stop if !stop => self.to(P::Committed { stop: true }, []),
            E::Stop => self.to(P::Ended, [A::Kill, A::End(End::AtOnce)]),
            E::Active if stop => {
                let failure = A::Report(Err(Failure::Stopped));
                self.leave(stop, [A::Disarm(Timer::Handover), A::SendStop, failure])
            }
            E::Active => {
                let actions = [A::Disarm(Timer::Handover), A::Arm(Timer::Probation), A::ReportActive];
                self.to(P::Standby(Probation::Running), actions)
            }
            E::Leaving => self.leave(stop, [A::Disarm(Timer::Handover), A::Report(Err(Failure::Stopped))]),
            E::Exited => self.after_death(true, stop, Failure::Exited, [A::Disarm(Timer::Handover)]),
            E::Failed => self.to(
                P::Reverting { paused: true, then_stop: stop, failure: Failure::Reported },
                [A::Disarm(Timer::Handover), A::Arm(Timer::Exit)],
            ),
            E::ChannelLost => self.revert(true, stop, Failure::ChannelLost),
            E::Forked => self.revert(true, stop, Failure::Background),
            E::Expired(Timer::Handover) => self.revert(true, stop, Failure::NoAnswer),
            _ => self.stay(),
        }
    }

    fn standby(self, event: Event, probation: Probation) -> (State, Actions) {
        let timer = probation.timer();
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::InProgress)]),
            // The one that the manager follows is told in the name of all: some units send the stop to it alone.
            E::Stop if self.followed == Followed::This => {
                let failure = A::Report(Err(Failure::Stopped));
                self.leave(true, [A::Disarm(timer), A::SendStop, failure])
            }
            // The pid file names the successor: a stop that reaches this process means this process. What becomes of the successor
            // is not known, and nothing watches it any more.
            E::Stop => {
                let failure = A::Report(Err(Failure::Unwatched));
                self.drain(Drain::Replaced { stop: true }, [A::Disarm(timer), failure])
            }
            // That nothing has died does not prove that anything is answered. The sign of life does, and it may take as long
            // as a start may.
            E::Expired(Timer::Probation) if probation == Probation::Running => {
                self.to(P::Standby(Probation::Asked), [A::Arm(Timer::Upgrade), A::SendPing])
            }
            E::Alive if probation == Probation::Asked => {
                self.to(P::Standby(Probation::Passed), [A::Disarm(Timer::Upgrade), A::Arm(Timer::Quiet)])
            }
            // Not before: the death of whom it follows is the end of the service to the manager. The successor is told
            // first, so that it knows whatever the manager does once it has heard.
            E::Expired(Timer::Quiet) if probation != Probation::Passed => self.stay(),
            E::Expired(Timer::Quiet) if self.followed == Followed::This => self.to(
                P::Announcing { stop: false, leaving: false },
                [A::Arm(Timer::Announce), A::SendFollowed, A::Announce],
            ),
            E::Expired(Timer::Quiet) => self.drain(Drain::Replaced { stop: false }, [A::Report(Ok(()))]),
            E::Expired(Timer::Upgrade) if probation == Probation::Asked => {
                self.revert(true, false, Failure::Silent)
            }
            // The service was stopped before the probation was over.
            E::Leaving => self.leave(false, [A::Disarm(timer), A::Report(Err(Failure::Stopped))]),
            E::SuccessorOver => self.resume(false, [A::Disarm(timer)]),
            E::Exited => self.after_death(true, false, Failure::Probation, [A::Disarm(timer)]),
            E::ChannelLost => self.revert_after([A::Disarm(timer)], false, Failure::ChannelLost),
            E::Forked => self.revert_after([A::Disarm(timer)], false, Failure::Background),
            _ => self.stay(),
        }
    }

    /// Serves again beside a successor that is over, which is given the time to exit. Without a body, or for a stop, there is
    /// nothing to serve: it is killed.
    fn resume<const N: usize>(self, stop: bool, before: [Action; N]) -> (State, Actions) {
        if stop || self.body_gone {
            return self.revert_after(before, stop, Failure::Over);
        }
        let resume = [A::TakeBack, A::Open, A::Arm(Timer::Remnant), A::Report(Err(Failure::Over))];
        let actions = before.into_iter().chain(resume).collect();
        (State { phase: P::Serving, remnant: true, ..self }, actions)
    }

    fn announcing(mut self, event: Event, stop: bool, leaving: bool) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::InProgress)]),
            // As in standby. A manager that had not heard yet follows this one, and one that has followed that one since
            // does not tell it.
            E::Stop if !stop => self.to(P::Announcing { stop: true, leaving: true }, [A::SendStop]),
            E::Stop => self.end(End::AtOnce),
            E::Leaving => self.to(P::Announcing { stop, leaving: true }, []),
            // One that does not hear is not waited for: without this process the service goes on all the same.
            E::Announced | E::Expired(Timer::Announce) => {
                self.followed = Followed::Other;
                let outcome = if leaving { Err(Failure::Stopped) } else { Ok(()) };
                let actions = [A::Disarm(Timer::Announce), A::Report(outcome)];
                if leaving {
                    self.leave(stop, actions)
                } else {
                    self.drain(Drain::Replaced { stop }, actions)
                }
            }
            E::SuccessorOver if !leaving => self.resume(stop, [A::Disarm(Timer::Announce)]),
            E::Exited if leaving => self.drain(
                Drain::Stop { owner: true },
                [A::Disarm(Timer::Announce), A::Report(Err(Failure::Stopped)), A::TakeBack, A::LetGo],
            ),
            E::Exited => self.after_death(true, stop, Failure::Probation, [A::Disarm(Timer::Announce)]),
            E::ChannelLost if !leaving => {
                self.revert_after([A::Disarm(Timer::Announce)], stop, Failure::ChannelLost)
            }
            E::Forked if !leaving => {
                self.revert_after([A::Disarm(Timer::Announce)], stop, Failure::Background)
            }
            _ => self.stay(),
        }
    }

    fn reverting(self, event: Event, paused: bool, then_stop: bool, failure: Failure) -> (State, Actions) {
        match event {
            E::Upgrade if then_stop => (self, vec![A::Refuse(Refusal::Terminating)]),
            E::Upgrade => (self, vec![A::Refuse(Refusal::InProgress)]),
            E::Exited => self.after_death(paused, then_stop, failure, [A::Disarm(Timer::Exit)]),
            // What it has forked goes with it.
            E::Forked => (self, vec![A::Kill]),
            E::Expired(Timer::Exit) => (self, vec![A::Kill, A::Arm(Timer::Exit)]),
            E::Stop if then_stop => self.to(P::Ended, [A::Kill, A::End(End::AtOnce)]),
            E::Stop => self.to(P::Reverting { paused, then_stop: true, failure }, [A::Kill]),
            _ => self.stay(),
        }
    }

    fn stopping(self, event: Event, owner: bool) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::Terminating)]),
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain)
                if self.followed == Followed::This && self.has_company() =>
            {
                self.outlive(true)
            }
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) => {
                self.end(if owner { End::Final } else { End::NotStarted(None) })
            }
            E::Stop => self.end(End::AtOnce),
            E::PredecessorGone | E::PredecessorOver => self.to(P::Draining(Drain::Stop { owner: true }), []),
            _ => self.stay(),
        }
    }

    fn replaced(self, event: Event, stop: bool) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::Terminating)]),
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) => self.end(End::Replaced),
            // A service manager sends it to every process of the unit: to this one it says that no successor is
            // to be started again, and the connections that are open are finished all the same.
            E::Stop if !stop => self.to(P::Draining(Drain::Replaced { stop: true }), []),
            E::Stop => self.end(End::AtOnce),
            E::Leaving => self.to(P::Draining(Drain::Leaving { stop }), [A::LetGo]),
            E::Hasten => (self, vec![A::Hasten]),
            // It serves no more, though it lives; no other can be started beside it.
            E::SuccessorOver | E::ChannelLost => (self, vec![A::Kill]),
            E::Exited if stop => self.to(P::Draining(Drain::Stop { owner: true }), [A::TakeBack, A::LetGo]),
            E::Exited => self.try_rescue(0, false, [A::TakeBack]),
            _ => self.stay(),
        }
    }

    fn leaving(self, event: Event, stop: bool) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::Terminating)]),
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) if self.followed == Followed::This => {
                self.outlive(stop)
            }
            // Nobody is left to outlive.
            E::Exited if self.followed == Followed::This => {
                self.to(P::Draining(Drain::Stop { owner: true }), [])
            }
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) => self.end(End::Replaced),
            // A service manager sends it to every process of the unit.
            E::Stop if !stop => self.to(P::Draining(Drain::Leaving { stop: true }), []),
            E::Stop => self.end(End::AtOnce),
            _ => self.stay(),
        }
    }

    fn last(self, event: Event, stop: bool) -> (State, Actions) {
        match event {
            E::Upgrade => (self, vec![A::Refuse(Refusal::Terminating)]),
            E::Exited | E::PredecessorGone | E::Expired(Timer::Drain) => self.end(End::Final),
            E::Stop if !stop => self.to(P::Draining(Drain::Last { stop: true }), []),
            E::Stop => self.end(End::AtOnce),
            _ => self.stay(),
        }
    }

    fn rescue(self, event: Event, step: Rescue, attempt: u8, finished: bool) -> (State, Actions) {
        let at = |step| P::Draining(Drain::Rescue { step, attempt, finished });
        let stopping = step == Rescue::Killing { stop: true };
        match (event, step) {
            (E::Upgrade, _) => (self, vec![A::Refuse(Refusal::Terminating)]),
            // Whoever has nothing left to finish still holds the sockets until somebody serves them.
            (E::BodyReturned | E::Drained | E::Expired(Timer::Drain), _) => {
                self.to(P::Draining(Drain::Rescue { step, attempt, finished: true }), [])
            }
            (E::Stop, _) if stopping => self.end(End::AtOnce),
            (E::Stop, Rescue::Waiting) => self.stop_rescue(finished, [A::Disarm(Timer::Backoff)]),
            // It serves: the stop means this process, as in standby.
            (E::Stop, Rescue::Probation(_)) if finished => self.end(End::Replaced),
            (E::Stop, Rescue::Probation(probation)) => {
                self.to(P::Draining(Drain::Replaced { stop: true }), [A::Disarm(probation.timer())])
            }
            (E::Stop, _) => self.to(
                at(Rescue::Killing { stop: true }),
                [A::Disarm(Timer::Upgrade), A::Disarm(Timer::Handover), A::Kill, A::Arm(Timer::Exit)],
            ),
            (E::Prepared, Rescue::Initialising) => self.to(
                at(Rescue::Committed),
                [A::Disarm(Timer::Upgrade), A::Arm(Timer::Handover), A::SendCommit],
            ),
            (E::Active, Rescue::Committed) => self.to(
                at(Rescue::Probation(Probation::Running)),
                [A::Disarm(Timer::Handover), A::Arm(Timer::Probation)],
            ),
            (E::Expired(Timer::Probation), Rescue::Probation(Probation::Running)) => {
                self.to(at(Rescue::Probation(Probation::Asked)), [A::Arm(Timer::Upgrade), A::SendPing])
            }
            (E::Alive, Rescue::Probation(Probation::Asked)) => self.to(
                at(Rescue::Probation(Probation::Passed)),
                [A::Disarm(Timer::Upgrade), A::Arm(Timer::Quiet)],
            ),
            (E::Expired(Timer::Quiet), Rescue::Probation(Probation::Passed)) if finished => {
                self.end(End::Replaced)
            }
            (E::Expired(Timer::Quiet), Rescue::Probation(Probation::Passed)) => {
                self.to(P::Draining(Drain::Replaced { stop: false }), [])
            }
            (E::Leaving, Rescue::Committed | Rescue::Probation(_)) if finished => self.end(End::Replaced),
            (E::Leaving, Rescue::Committed | Rescue::Probation(_)) => self.to(
                P::Draining(Drain::Leaving { stop: false }),
                [Timer::Handover, Timer::Probation, Timer::Upgrade, Timer::Quiet]
                    .map(A::Disarm)
                    .into_iter()
                    .chain([A::LetGo]),
            ),
            (E::SpawnFailed | E::Exited, Rescue::Initialising | Rescue::Committed | Rescue::Probation(_))
            | (E::Exited, Rescue::Killing { stop: false }) => self.rescue_failed(attempt, finished),
            (E::Exited, Rescue::Killing { stop: true }) => {
                self.stop_rescue(finished, [A::Disarm(Timer::Exit), A::TakeBack])
            }
            (E::Failed, Rescue::Initialising | Rescue::Committed) => self.to(
                at(Rescue::Killing { stop: false }),
                [A::Disarm(Timer::Upgrade), A::Disarm(Timer::Handover), A::Arm(Timer::Exit)],
            ),
            (E::Active | E::Leaving, Rescue::Initialising)
            | (E::Expired(Timer::Upgrade), Rescue::Initialising | Rescue::Probation(Probation::Asked))
            | (E::Expired(Timer::Handover), Rescue::Committed)
            | (
                E::ChannelLost | E::Forked | E::SuccessorOver,
                Rescue::Initialising | Rescue::Committed | Rescue::Probation(_),
            ) => self.to(
                at(Rescue::Killing { stop: false }),
                [Timer::Upgrade, Timer::Handover, Timer::Probation, Timer::Quiet]
                    .map(A::Disarm)
                    .into_iter()
                    .chain([A::Kill, A::Arm(Timer::Exit)]),
            ),
            (E::Forked, Rescue::Killing { .. }) => (self, vec![A::Kill]),
            (E::Expired(Timer::Exit), Rescue::Killing { .. }) => (self, vec![A::Kill, A::Arm(Timer::Exit)]),
            (E::Expired(Timer::Backoff), Rescue::Waiting) => self.try_rescue(attempt, finished, []),
            _ => self.stay(),
        }
    }

    // What several phases have in common.

    /// A predecessor lives that may serve again.
    fn has_predecessor(self) -> bool {
        self.predecessor == Predecessor::Alive
    }

    /// Another process of the service lives: no successor is started beside it.
    fn has_company(self) -> bool {
        self.remnant || matches!(self.predecessor, Predecessor::Alive | Predecessor::Over)
    }

    fn stay(self) -> (State, Actions) {
        (self, Actions::new())
    }

    fn to(mut self, phase: Phase, actions: impl IntoIterator<Item = Action>) -> (State, Actions) {
        self.phase = phase;
        (self, actions.into_iter().collect())
    }

    fn be_followed(&mut self) {
        if self.followed == Followed::Other {
            self.followed = Followed::This;
        }
    }

    /// Waits for the other process to be dead, whose deadline is about that of this one.
    fn outlive(self, stop: bool) -> (State, Actions) {
        self.to(P::Draining(Drain::Last { stop }), [A::Arm(Timer::Drain)])
    }

    fn end(self, end: End) -> (State, Actions) {
        self.to(P::Ended, [A::End(end)])
    }

    /// Raises `Shutdown`.
    fn drain<const N: usize>(self, drain: Drain, before: [Action; N]) -> (State, Actions) {
        let mut actions: Actions = before.into_iter().chain([A::Arm(Timer::Drain), A::Drain]).collect();
        actions.extend(self.hastened.then_some(A::Hasten));
        (State { phase: P::Draining(drain), ..self }, actions)
    }

    /// Drains beside a successor that stops as well. What that does not have is closed, and its path removed, by the drain;
    /// what it has, after that.
    fn leave<const N: usize>(self, stop: bool, before: [Action; N]) -> (State, Actions) {
        let (state, mut actions) = self.drain(Drain::Leaving { stop }, before);
        actions.push(A::LetGo);
        (state, actions)
    }

    fn start_failed(self, failure: StartFailure) -> (State, Actions) {
        let end = A::End(End::NotStarted(Some(failure)));
        if self.has_predecessor() {
            self.to(P::Ended, [A::SendFailed(failure), end])
        } else {
            self.to(P::Ended, [end])
        }
    }

    /// A stop before this process served. With a predecessor alive the sockets are that one's.
    fn stop_before_serving(self) -> (State, Actions) {
        let timers = [A::Disarm(Timer::Upgrade), A::Disarm(Timer::Handover)];
        if self.has_predecessor() {
            let (state, mut actions) = self.drain(Drain::Stop { owner: false }, timers);
            actions.insert(0, A::SendFailed(StartFailure::Stopped));
            (state, actions)
        } else {
            self.drain(Drain::Stop { owner: true }, timers)
        }
    }

    /// A stop of the process that serves. A predecessor that still drains is told, lest it take this for a death.
    fn stop_as_owner(self) -> (State, Actions) {
        if self.has_predecessor() {
            self.drain(Drain::Stop { owner: true }, [A::SendLeaving])
        } else {
            self.drain(Drain::Stop { owner: true }, [])
        }
    }

    /// Gives up a successor that is not wanted or not to be trusted any more.
    fn revert(self, paused: bool, then_stop: bool, failure: Failure) -> (State, Actions) {
        self.to(
            P::Reverting { paused, then_stop, failure },
            [A::Disarm(Timer::Upgrade), A::Disarm(Timer::Handover), A::Kill, A::Arm(Timer::Exit)],
        )
    }

    /// The same for one that serves.
    fn revert_after<const N: usize>(
        self,
        before: [Action; N],
        then_stop: bool,
        failure: Failure,
    ) -> (State, Actions) {
        let (state, more) = self.revert(true, then_stop, failure);
        (state, before.into_iter().chain(more).collect())
    }

    /// What ends the wait for a successor that is not committed yet.
    fn give_up(self, event: Event, paused: bool) -> (State, Actions) {
        match event {
            // It said why and exits by itself; it is given the time to do so in order.
            E::Failed => self.to(
                P::Reverting { paused, then_stop: false, failure: Failure::Reported },
                [A::Disarm(Timer::Upgrade), A::Arm(Timer::Exit)],
            ),
            // To be active or leaving without having been told to serve is against the protocol.
            E::ChannelLost | E::Active | E::Leaving => self.revert(paused, false, Failure::ChannelLost),
            E::Forked => self.revert(paused, false, Failure::Background),
            // It is sound, and removes what it has bound by itself.
            E::Refused => self.to(
                P::Reverting { paused, then_stop: false, failure: Failure::Refused },
                [A::Disarm(Timer::Upgrade), A::SendStop, A::Arm(Timer::Exit)],
            ),
            E::Expired(Timer::Upgrade) => self.revert(paused, false, Failure::NotReady),
            _ => self.stay(),
        }
    }

    /// The successor is dead. Whoever can resumes; whose body is gone starts its own image again.
    fn after_death<const N: usize>(
        self,
        paused: bool,
        then_stop: bool,
        failure: Failure,
        before: [Action; N],
    ) -> (State, Actions) {
        let resumes = paused && !then_stop && !self.body_gone;
        let (state, more) = if then_stop {
            self.stop_as_owner()
        } else if self.body_gone && paused {
            self.try_rescue(0, true, [])
        } else if self.body_gone {
            // The successor never served, and this service has ended by itself.
            self.end(End::Final)
        } else {
            self.to(P::Serving, [])
        };
        let mut actions = before.to_vec();
        actions.extend(paused.then_some(A::TakeBack));
        actions.extend(resumes.then_some(A::Open));
        actions.push(A::Report(Err(failure)));
        actions.extend(more);
        (state, actions)
    }

    fn try_rescue<const N: usize>(
        self,
        attempt: u8,
        finished: bool,
        before: [Action; N],
    ) -> (State, Actions) {
        let mut actions = before.to_vec();
        actions.extend([A::Arm(Timer::Upgrade), A::SpawnRescue]);
        let drain = Drain::Rescue { step: Rescue::Initialising, attempt: attempt + 1, finished };
        (State { phase: P::Draining(drain), ..self }, actions)
    }

    fn rescue_failed(self, attempt: u8, finished: bool) -> (State, Actions) {
        let timers =
            [Timer::Upgrade, Timer::Handover, Timer::Exit, Timer::Probation, Timer::Quiet].map(A::Disarm);
        let (state, more) = if attempt == RESCUE_ATTEMPTS {
            self.to(P::Ended, [A::TakeBack, A::End(End::RescueFailed)])
        } else {
            let drain = Drain::Rescue { step: Rescue::Waiting, attempt, finished };
            self.to(P::Draining(drain), [A::TakeBack, A::Arm(Timer::Backoff)])
        };
        (state, timers.into_iter().chain(more).collect())
    }

    /// A stop in mid-rescue, once no successor lives any more.
    fn stop_rescue<const N: usize>(self, finished: bool, before: [Action; N]) -> (State, Actions) {
        let (state, more) = if finished {
            self.end(End::Final)
        } else {
            self.to(P::Draining(Drain::Stop { owner: true }), [A::LetGo])
        };
        (state, before.into_iter().chain(more).collect())
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod table;
