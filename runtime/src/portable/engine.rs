//! The thread that feeds the life cycle and carries out its actions, where there is no other process to deal with: a
//! start, a service, a drain and an end.
//!
//! The life cycle is the same; a request to upgrade is answered here and never reaches it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::UpgradeError;
use crate::gate::Door;
use crate::lifecycle::{Action, End, Event, Overlap, Phase, Predecessor, StartFailure, State, Timer};
use crate::pidfile::Pidfile;
use crate::report::{Seldom, Thinned, complain, tell};
use crate::returned::BodyEnd;
use crate::service::Settings;
use crate::shared::{Note, Preparation, Shared, Verdict};
use crate::signals::{self, Signal};
use crate::sockets::{self, Held};
use crate::status::Status;
use crate::stops::Stops;

/// How long a thread may be inside an accept, which does not block.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the thread of the body may take to let go of it once the process has ended.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the engine gets when the start is through.
pub(crate) struct Prepared {
    /// The managed listeners that the body has taken.
    pub(crate) doors: Vec<Arc<dyn Door>>,
    /// Whether the body says itself when it is ready.
    pub(crate) manual_ready: bool,
}

/// What an engine starts with.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    settings: Settings,
    pidfile: Option<Pidfile>,
    /// Every socket of the service.
    held: Vec<Held>,
    /// The managed listeners.
    doors: Vec<Arc<dyn Door>>,
    /// Whether the body says itself when it is ready.
    manual_ready: bool,
    /// Whether the service is this process, and not one of several in a test.
    is_process: bool,
    preparation: Preparation,

    state: State,
    timers: BTreeMap<Timer, Instant>,
    body: Body,
    /// Why the start fails.
    reason: Option<String>,
    stopping: Option<Signal>,
    /// A signal has asked to stop.
    stops: Stops,
    serving_since: Option<Instant>,
    not_ready: Seldom,
    refused: Thinned,
    asked_to_stop: Thinned,
    verdict: Option<Verdict>,
}

/// What the engine has heard from the body.
#[derive(Debug, Default)]
struct Body {
    ready: bool,
    ready_dropped: bool,
    returned: bool,
    returned_told: bool,
    end: BodyEnd,
}

impl Engine {
    /// An engine that has what is known before anything is bound. All else it gets by notes.
    pub(crate) fn new(
        shared: Arc<Shared>,
        settings: Settings,
        pidfile: Option<Pidfile>,
        is_process: bool,
    ) -> Self {
        let (state, actions) = State::new(Predecessor::None, Overlap::default(), false);
        let mut engine = Self {
            shared,
            settings,
            pidfile,
            held: Vec::new(),
            doors: Vec::new(),
            manual_ready: false,
            is_process,
            preparation: Preparation::UnderWay,
            state,
            timers: BTreeMap::new(),
            body: Body::default(),
            reason: None,
            stopping: None,
            stops: Stops::default(),
            serving_since: None,
            not_ready: Seldom::default(),
            refused: Thinned::default(),
            asked_to_stop: Thinned::default(),
            verdict: None,
        };
        for action in actions {
            engine.carry_out(action);
        }
        engine
    }

    /// Runs until the process is to end; `main` learns of it by the verdict. Should `main` not return, which a
    /// blocked body can keep it from, the process is ended here.
    pub(crate) fn run(self) {
        // Without this thread nobody would ever end the service.
        let is_process = self.is_process;
        if catch_unwind(AssertUnwindSafe(|| self.run_to_the_end())).is_err() && is_process {
            signals::exit_now(101);
        }
    }

    fn run_to_the_end(mut self) {
        let verdict = loop {
            if let Some(verdict) = self.verdict {
                break verdict;
            }
            // A test has dropped the service.
            if self.shared.verdict.get().is_some() {
                self.retire();
                return self.close();
            }
            self.round();
        };
        self.close();
        // Whoever still waits for it to serve waits in vain.
        self.shared.serving.set(false);
        if !self.is_process {
            // As the end of a process closes what it has: whoever waited for this one finds nothing left of it.
            let shared = self.shared.clone();
            drop(self);
            shared.verdict.set(verdict);
            return;
        }
        self.shared.verdict.set(verdict);
        let status = if verdict == Verdict::Success { 0 } else { 1 };
        if self.preparation == Preparation::UnderWay {
            // The thread of `main` looks at no verdict before it has a body, which may take it long.
            let _nothing_is_left_behind = self.shared.no_binding(LEAVE_TIMEOUT);
            signals::exit_now(status);
        }
        if self.shared.left.wait_for(LEAVE_TIMEOUT).is_some() {
            return;
        }
        complain!(self.shared, "the body blocks its thread; the process is ended without it");
        signals::exit_now(status);
    }

    /// Nobody waits for an answer of an engine that has ended.
    fn close(&self) {
        self.shared.close(UpgradeError::Unsupported, self.status());
    }

    /// Waits for something to happen, and deals with all of it.
    fn round(&mut self) {
        // Before the first wait as well: a signal or a listener that was asked for may have come already.
        self.take_requests();
        self.look_at_body();
        if self.verdict.is_some() {
            return;
        }
        self.shared.waker().wait(self.timers.values().min().copied());
        // A deadline never wins against what has arrived already.
        self.take_requests();
        self.look_at_body();
        if self.verdict.is_none() {
            self.fire_timers();
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(timer) = self.timers.iter().find(|(_, at)| **at <= now).map(|(timer, _)| *timer) {
            self.timers.remove(&timer);
            self.feed(Event::Expired(timer));
        }
    }

    /// What operators and the body ask for.
    fn take_requests(&mut self) {
        let pending = if self.is_process { signals::take() } else { signals::Pending::default() };
        // As in the other half: with a SIGTERM that it has caused somebody to send Ctrl-C is one request.
        for _ in 0..pending.interrupts {
            self.stop(Some(Signal::SIGINT));
        }
        for _ in 0..pending.terminates {
            self.stop(Some(Signal::SIGTERM));
        }
        if pending.upgrades > 0 {
            self.refuse_upgrade();
        }
        for note in self.shared.take_notes() {
            match note {
                Note::Ready => self.body.ready = true,
                Note::ReadyDropped => self.body.ready_dropped = true,
                Note::BodyReturned(end) => {
                    self.body.returned = true;
                    self.body.end = end;
                }
                Note::Upgrade(reply) => reply.set(Err(self.refuse_upgrade())),
                Note::Stop => self.stop(None),
                Note::Alive => {}
                Note::Status(reply) => reply.set(self.status()),
                Note::Listener { held, doors, .. } => self.have(held.map(|held| *held), doors),
                Note::Prepared(prepared) => {
                    let Prepared { doors, manual_ready } = *prepared;
                    self.preparation = Preparation::Done;
                    self.manual_ready = manual_ready;
                    self.have(None, doors);
                }
                Note::StartFailed { reason } => {
                    self.preparation = Preparation::Failed;
                    self.reason.get_or_insert(reason);
                    self.feed(Event::NotReady);
                }
            }
        }
    }

    /// A socket that was bound, and what the body has taken. What comes when all others are closed is closed.
    fn have(&mut self, held: Option<Held>, doors: Vec<Arc<dyn Door>>) {
        if matches!(self.state.phase, Phase::Draining(_) | Phase::Ended) {
            sockets::forget(held.as_slice(), &self.shared);
            let deadline = Instant::now() + PAUSE_TIMEOUT;
            return doors.iter().for_each(|door| _ = door.retire(deadline));
        }
        self.held.extend(held);
        self.doors.extend(doors);
    }

    fn status(&self) -> Status {
        Status {
            version: self.settings.version.clone(),
            serving: self.serving_since.map(|since| since.elapsed()),
            unserved: if self.state.phase == Phase::Starting { self.unserved() } else { Vec::new() },
            ..Status::of(&self.shared, self.state.phase, &self.held, &self.doors)
        }
    }

    fn refuse_upgrade(&mut self) -> UpgradeError {
        let error = UpgradeError::Unsupported;
        if let Some(line) = self.refused.line(&format!("upgrade refused: {error}")) {
            complain!(self.shared, WARN, "{line}");
        }
        error
    }

    /// A request to stop. Only a second signal is a second one. A program that says it twice means it once; and the stop
    /// of a service reaches a process by a signal and by way of its predecessor, in either order.
    fn stop(&mut self, signal: Option<Signal>) {
        let is_second = signal.is_some_and(|signal| self.stops.is_second(signal, Instant::now()));
        let is_known = self.stopping.is_some() && !is_second;
        let name = signal.map(Signal::as_str);
        if self.asked_to_stop.line(name.unwrap_or_default()).is_some() || !is_known {
            tell!(self.shared, INFO, phase = "stop", signal = name, "asked to stop");
        }
        self.stopping = Some(signal.unwrap_or(Signal::SIGTERM));
        if !is_known {
            self.feed(Event::Stop);
        }
    }

    fn look_at_body(&mut self) {
        let is_prepared = self.preparation == Preparation::Done;
        if self.verdict.is_none() && is_prepared && self.state.phase == Phase::Starting {
            // Whoever binds at run time is ready when it has bound something, and serves it.
            let nothing_yet = self.doors.is_empty() && self.shared.pool().is_some();
            let all_asked = self.doors.iter().all(|door| door.asked());
            if self.body.ready || (!self.manual_ready && all_asked && !nothing_yet) {
                if let Err(error) = self.shared.close_pool() {
                    self.reason = Some(error.to_string());
                    return self.feed(Event::NotReady);
                }
                self.take_requests();
                self.feed(Event::Ready);
            } else if self.body.ready_dropped && matches!(self.body.end, BodyEnd::Returned) {
                self.feed(Event::NotReady);
            }
        }
        // In a drain it is `Drained` that counts: the tasks and threads that a body has left behind finish first.
        let draining = matches!(self.state.phase, Phase::Draining(_));
        if self.verdict.is_none() && self.body.returned && !self.body.returned_told && !draining {
            self.body.returned_told = true;
            if self.state.phase == Phase::Serving && self.stopping.is_none() {
                complain!(self.shared, WARN, "{}; the service ends", self.body.end.unasked());
            }
            self.feed(Event::BodyReturned);
        }
        if self.verdict.is_none() && self.is_drained() {
            self.feed(Event::Drained);
        }
    }

    fn is_drained(&self) -> bool {
        // There is nothing to finish, and nobody would: the body never runs.
        if self.preparation != Preparation::Done {
            return matches!(self.state.phase, Phase::Draining(_));
        }
        matches!(self.state.phase, Phase::Draining(_))
            && self.shared.counted() == 0
            && (self.body.returned || !self.shared.waits_for_body())
    }

    /// The listeners that the body has not asked for a connection yet, be it that it has not taken them.
    fn unserved(&self) -> Vec<String> {
        if self.preparation != Preparation::Done {
            return self.held.iter().map(|held| held.name.clone()).collect();
        }
        let not_asked = self.doors.iter().filter(|door| !door.asked()).map(|door| door.name().to_owned());
        let pool = self.shared.pool();
        let not_taken = pool.iter().flat_map(|pool| &pool.declared).map(|held| held.name.clone());
        not_asked.chain(not_taken).collect()
    }

    /// Feeds one event and what comes of its actions.
    fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let before = self.state.phase;
            let (state, actions) = self.state.step(event);
            self.state = state;
            if before != state.phase {
                tell!(self.shared, DEBUG, ?event, phase = ?state.phase, "step");
            }
            if event == Event::Expired(Timer::Drain) {
                self.name_what_is_left();
            }
            for action in actions {
                events.extend(self.carry_out(action));
            }
        }
    }

    /// Carries out one action. One that has a result returns it as an event.
    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::WarnNotReady if self.not_ready.is_due() => self.warn_not_ready(),
            Action::WarnNotReady => {}
            Action::Open => self.open(),
            Action::TakeOver => return Some(self.take_over()),
            Action::Arm(timer) => match Instant::now().checked_add(self.duration(timer)) {
                Some(at) => _ = self.timers.insert(timer, at),
                // Longer than a clock can count, such as `Duration::MAX`: it never expires.
                None => _ = self.timers.remove(&timer),
            },
            Action::Disarm(timer) => _ = self.timers.remove(&timer),
            Action::Drain => self.drain(),
            Action::End(end) => self.end(end),
            // They concern a predecessor or a successor, and there is none.
            Action::Refuse(_)
            | Action::ReportActive
            | Action::Report(_)
            | Action::Check
            | Action::EndCheck
            | Action::Spawn
            | Action::SpawnRescue
            | Action::SendCommit
            | Action::SendStop
            | Action::SendPrepared
            | Action::SendActive
            | Action::SendFailed(_)
            | Action::SendLeaving
            | Action::SendHasten
            | Action::SendFollowed
            | Action::SendPing
            | Action::Announce
            | Action::Postpone
            | Action::Hasten
            | Action::Kill
            | Action::Pause
            | Action::LetGo
            | Action::TakeBack => {}
        }
        None
    }

    fn duration(&self, timer: Timer) -> Duration {
        match timer {
            Timer::Drain => self.settings.timeouts.drain,
            Timer::Probation => self.settings.timeouts.probation,
            Timer::Upgrade
            | Timer::Handover
            | Timer::Exit
            | Timer::Backoff
            | Timer::Announce
            | Timer::Remnant
            | Timer::Quiet => self.settings.timeouts.upgrade,
        }
    }

    fn warn_not_ready(&self) {
        let names: Vec<_> = self.unserved().iter().map(|name| format!("`{name}`")).collect();
        let because = if self.preparation == Preparation::UnderWay {
            "it still binds its listeners, or prepares its body".to_owned()
        } else if names.is_empty() {
            "its body has not called `Ready::notify`".to_owned()
        } else {
            format!("its body has not asked for a connection of {}", names.join(", "))
        };
        let after = humantime::format_duration(self.settings.timeouts.upgrade);
        complain!(self.shared, "not ready after {after}: {because}");
    }

    /// The deadline of the drain has passed.
    fn name_what_is_left(&self) {
        let count = self.shared.counted();
        let body = if self.body.returned { "" } else { "; the body has not returned" };
        complain!(
            self.shared,
            "not drained within {}: {count} connections and guards are open{body}; what is left is aborted",
            humantime::format_duration(self.settings.timeouts.drain),
        );
    }

    fn take_over(&mut self) -> Event {
        if let Some(pidfile) = &self.pidfile {
            if let Err(error) = pidfile.publish() {
                self.reason = Some(pidfile_error("write", pidfile, &error));
                return Event::PidfileFailed;
            }
        }
        Event::TookOver
    }

    fn open(&mut self) {
        self.doors.iter().for_each(|door| door.open());
        tell!(self.shared, INFO, phase = "serving", listeners = self.held.len(), "serving");
        self.shared.serving.set(true);
        self.serving_since = Some(Instant::now());
    }

    fn retire(&self) {
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        self.doors.iter().for_each(|door| _ = door.retire(deadline));
    }

    fn drain(&mut self) {
        self.shared.start_draining();
        self.retire();
        self.close_listeners();
        let open = self.shared.counted();
        let timeout = humantime::format_duration(self.settings.timeouts.drain);
        tell!(self.shared, INFO, phase = "draining", open, %timeout, "draining");
    }

    /// Closes the listeners that the body does not hold as raw types, and removes the Unix paths that are still ours.
    fn close_listeners(&mut self) {
        self.held.drain(..).for_each(|held| held.remove(&self.shared));
    }

    fn end(&mut self, end: End) {
        self.close_listeners();
        if let Some(pidfile) = &self.pidfile {
            pidfile.unstage();
            if let Err(error) = pidfile.remove_if_names(&[self.shared.pid]) {
                complain!(self.shared, "{}", pidfile_error("remove", pidfile, &error));
            }
        }
        self.verdict = Some(match end {
            End::Final | End::Replaced | End::NotStarted(None) => Verdict::Success,
            End::NotStarted(Some(failure)) => {
                // What fails in the thread of `main` is said there.
                if self.preparation != Preparation::Failed {
                    complain!(self.shared, "cannot start: {}", self.start_failure(failure));
                }
                if failure == StartFailure::BodyReturned { Verdict::OfBody } else { Verdict::Failure }
            }
            End::RescueFailed => Verdict::Failure,
            // It takes a second signal, which only a process gets.
            End::AtOnce => {
                complain!(self.shared, "told to stop a second time; ending at once");
                signals::die_of(self.stopping.unwrap_or(Signal::SIGTERM));
            }
        });
        tell!(self.shared, INFO, phase = "ended", "exiting");
    }

    fn start_failure(&self, failure: StartFailure) -> String {
        if let Some(reason) = &self.reason {
            return reason.clone();
        }
        match failure {
            StartFailure::ReadyDropped => "the body dropped `Ready` without `notify`".to_owned(),
            StartFailure::BodyReturned => self.body.end.before_ready(),
            StartFailure::Pidfile => "cannot write the pid file".to_owned(),
            StartFailure::Stopped => "it was told to stop".to_owned(),
            StartFailure::Channel | StartFailure::NoCommit => {
                "a predecessor failed, and there is none".to_owned()
            }
        }
    }
}

fn pidfile_error(action: &str, pidfile: &Pidfile, error: &io::Error) -> String {
    format!("cannot {action} the pid file {}: {error}", pidfile.path().display())
}
