//! The loop of the engine thread: it waits, takes what has arrived, feeds the life cycle and carries out its actions.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::report::{RateLimit, Thinned, complain, tell};
use crate::base::status::{LastDrain, Requester};
use crate::between::note::{Note, Order, Prepared};
use crate::between::shared::{Shared, Verdict};
use crate::config::settings::Settings;
use crate::engine::data::{Body, Preparation, Requests, SocketTable};
use crate::engine::neighbours::Neighbours;
use crate::lifecycle::{Action, Drain, Event, Phase, State, Timer};
use crate::outside::pidfile::Pidfile;
use crate::sys::signals::{self, Signal};

/// How long either side of a handover waits for the answer of the other around `COMMIT`. Both are engines, whose answer takes
/// microseconds. While the predecessor waits, no process accepts.
pub(super) const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a drain goes on once the successor waits for its end.
pub(super) const HASTE: Duration = Duration::from_secs(1);
/// How long a thread may be inside an accept, which does not block.
pub(crate) const PAUSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a successor that has said why it fails may take to exit by itself.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts of a rescue.
const RESCUE_BACKOFF: Duration = Duration::from_secs(1);
/// How long a body that has dropped `Ready` may take to return or to unwind.
const UNWIND_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the thread of the body may take to let go of it once the process has ended.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer than its drain a remnant may take to exit.
const REMNANT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a service manager may take to hear which process it is to follow.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many messages are taken before deadlines and requests are looked at again. It is several times what a socket holds: all
/// that had arrived before a deadline is taken, and a peer that sends without end postpones nothing.
pub(super) const MAX_ARRIVALS: usize = 1024;

/// The process, or the service of a test, that an engine runs.
pub(crate) struct Process {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Settings,
    pub(crate) pidfile: Option<Pidfile>,
    /// The service is this process, and not one of several in a test.
    pub(crate) is_process: bool,
}

pub(crate) struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) settings: Settings,
    pub(super) pidfile: Option<Pidfile>,
    pub(super) is_process: bool,
    pub(super) state: State,
    pub(super) phase_since: Instant,
    pub(super) serving_since: Option<Instant>,
    pub(super) timers: BTreeMap<Timer, Instant>,
    pub(super) body: Body,
    pub(super) listeners: SocketTable,
    pub(super) requests: Requests,
    /// Why the upgrade, or the start, under way fails. The first reason is the cause.
    pub(super) reason: Option<String>,
    /// The deadline of the drain was brought near.
    pub(super) hastened: bool,
    pub(super) draining_since: Option<Instant>,
    /// What the drain of this process has cut. Set at its end.
    pub(super) drained: Option<LastDrain>,
    pub(super) not_ready: RateLimit,
    pub(super) verdict: Option<Verdict>,
    pub(super) neighbours: Neighbours,
}

impl Engine {
    /// An engine that has what is known before anything is bound. The notes bring all else.
    pub(crate) fn new(process: Process, neighbours: Neighbours) -> Self {
        let Process { shared, settings, pidfile, is_process } = process;
        let predecessor = neighbours.first(shared.had_predecessor);
        let (state, actions) = State::new(predecessor, settings.overlap, neighbours.follows);
        let mut engine = Self {
            shared,
            settings,
            pidfile,
            is_process,
            state,
            phase_since: Instant::now(),
            serving_since: None,
            timers: BTreeMap::new(),
            body: Body::default(),
            listeners: SocketTable::default(),
            requests: Requests::default(),
            reason: None,
            hastened: false,
            draining_since: None,
            drained: None,
            not_ready: RateLimit::default(),
            verdict: None,
            neighbours,
        };
        for action in actions {
            engine.carry_out(action);
        }
        engine
    }

    /// Runs until the process is to end; `main` learns of it by the verdict. If `main` does not return, because a body blocks it,
    /// the engine ends the process.
    pub(crate) fn run(self) {
        // The end of the channel says that a process is dead. If this thread died alone, the successor would take it for that and
        // serve beside this process.
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
            // A test has dropped the service. As with SIGKILL, there is no last word and no cleaning up.
            if self.shared.verdict.get().is_some() {
                self.retire();
                self.close();
                return;
            }
            self.round();
        };
        self.close();
        if !self.is_process {
            // The end of a process closes what it has. So a test that waits for this service finds nothing left of it.
            let shared = self.shared.clone();
            drop(self);
            shared.verdict.set(verdict);
            return;
        }
        self.shared.verdict.set(verdict);
        let status = if verdict == Verdict::Success { 0 } else { 1 };
        if self.body.preparation != Preparation::Failed && self.shared.forbid_body() {
            // The thread of `main` looks at no verdict before it has a body, which may take it long. The body never begins.
            let _nothing_is_left_behind = self.shared.no_binding(LEAVE_TIMEOUT);
            signals::exit_now(status);
        }
        if self.shared.left.wait_for(LEAVE_TIMEOUT).is_some() {
            self.keep_channels();
            return;
        }
        complain!(self.shared, "the body blocks its thread; the process is ended without it");
        signals::exit_now(status);
    }

    /// Waits for something to happen, and deals with all of it.
    fn round(&mut self) {
        // Read before the signals and fed after them: a signal of the manager that came before this means the service.
        let manager_has_heard = self.manager_has_heard();
        // Before the first wait as well: a signal or a listener may have come already.
        self.take_requests();
        if manager_has_heard {
            self.feed(Event::Announced);
        }
        self.take_arrivals();
        self.look_at_body();
        if self.verdict.is_some() {
            return;
        }
        self.wait();
        // A deadline never wins against what has arrived already: the deadlines that have passed by now are looked at once all
        // of that is taken.
        let now = Instant::now();
        match self.take_arrivals() {
            0 | MAX_ARRIVALS => self.fire_timers(now),
            _ => {}
        }
        self.tell_manager_in_time(now);
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(timer) = self.timers.iter().find(|(_, at)| **at <= now).map(|(timer, _)| *timer) {
            self.timers.remove(&timer);
            self.feed(Event::Expired(timer));
        }
    }

    /// The requests of operators and of the body. A stop goes first: an upgrade that came with it is refused.
    ///
    /// The requests are read before the arrivals, and answered after them. A client that has seen the predecessor end and asks
    /// for an upgrade therefore finds that end noted: the kernel closes the channel of a process before anybody can see
    /// that it is dead. In the other order the end could come between the two, and the request be refused.
    pub(super) fn take_requests(&mut self) {
        self.look_at_signals();
        let notes = self.shared.take_notes();
        self.take_arrivals();
        self.take_stops();
        if std::mem::take(&mut self.requests.signals.upgrades) > 0 {
            let signal = self.settings.upgrade_signal.as_str().to_owned();
            self.ask_for_upgrade(None, Order::by(Requester::Signal { signal }));
        }
        let mut ready_was_dropped = false;
        for note in notes {
            ready_was_dropped |= matches!(note, Note::ReadyDropped);
            self.take_note(note);
        }
        if ready_was_dropped && !self.body.returned {
            // As a rule the body returns an error or panics at this moment, which says more than that `Ready` was dropped.
            self.shared.waker().clear();
            self.shared.waker().wait(Some(Instant::now() + UNWIND_TIMEOUT));
            self.take_requests();
        }
    }

    fn take_note(&mut self, note: Note) {
        match note {
            Note::Ready => self.body.ready = true,
            Note::ReadyDropped => self.body.ready_dropped = true,
            Note::BodyReturned(end) => {
                self.body.returned = true;
                self.body.end = end;
            }
            Note::Upgrade { reply, order } => self.ask_for_upgrade(Some(reply), order),
            Note::Revert(reply) => self.ask_for_revert(reply),
            Note::Stop => self.stop(None),
            Note::Alive => {
                self.body.undecided_until = None;
                self.hear_pulse();
            }
            Note::Status(reply) => {
                reply.set(self.status());
                self.wake_control();
            }
            Note::Listener { socket, gates, adopted } => {
                self.add_socket(socket.map(|socket| *socket), gates);
                self.add_adopted(adopted);
            }
            Note::Prepared(prepared) => {
                let Prepared { gates, manual_ready, inherited } = *prepared;
                self.body.preparation = Preparation::Done;
                self.body.manual_ready = manual_ready;
                self.add_socket(None, gates);
                self.inherit(inherited);
            }
            Note::StartFailed { reason } => {
                self.body.preparation = Preparation::Failed;
                self.reason.get_or_insert(reason);
                self.feed(Event::NotReady);
            }
            #[cfg(upgrades)]
            Note::StopService => self.stop_service(),
            #[cfg(upgrades)]
            Note::Control { socket, control } => self.add_control(*socket, control),
        }
    }

    /// A request to stop. Only a second signal is a second request: a program that says it twice means it once, and the stop of a
    /// service reaches a process by a signal and through the other process, in either order.
    pub(super) fn stop(&mut self, signal: Option<Signal>) {
        let is_under_way = self.requests.stopping.is_some()
            || matches!(self.state.phase, Phase::Draining(Drain::Stop { .. }));
        let is_second = signal.is_some_and(|signal| self.requests.stops.is_second(signal, Instant::now()));
        let is_known = is_under_way && !is_second;
        let name = signal.map(Signal::as_str);
        // A second request is always logged: it ends the process.
        if self.requests.asked_to_stop.line(name.unwrap_or_default()).is_some() || !is_known {
            tell!(self.shared, INFO, phase = "stop", signal = name, "asked to stop");
        }
        self.requests.stopping = Some(signal.unwrap_or(Signal::SIGTERM));
        if !is_known {
            self.feed(Event::Stop);
        }
    }

    /// Notes the signals that have come since the last look.
    fn look_at_signals(&mut self) {
        if self.is_process {
            self.requests.signals.add(signals::take());
        }
    }

    /// Stops for each signal that is noted.
    ///
    /// Ctrl-C first: it may cause a wrapper to send a SIGTERM as well. The two are one request in this order, and would be two in
    /// the other.
    fn take_stops(&mut self) {
        for _ in 0..std::mem::take(&mut self.requests.signals.interrupts) {
            self.stop(Some(Signal::SIGINT));
        }
        for _ in 0..std::mem::take(&mut self.requests.signals.terminates) {
            self.stop(Some(Signal::SIGTERM));
        }
        if std::mem::take(&mut self.requests.signals.hangups) > 0 {
            self.stop(Some(Signal::SIGHUP));
        }
    }

    /// Feeds one event, and the events that its actions cause.
    pub(super) fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            // A signal to stop that came before a step of the handover means the service, which this process still has. Fed after
            // the step, the stop would mean this process alone.
            if matches!(event, Event::Prepared | Event::Paused | Event::Active) {
                self.look_at_signals();
                self.take_stops();
            }
            let before = self.state.phase;
            let (state, actions) = self.state.step(event);
            self.state = state;
            if before != state.phase {
                self.phase_since = Instant::now();
                // A refusal in another phase is news, even with the same words.
                self.requests.refused = Thinned::default();
                tell!(self.shared, DEBUG, ?event, phase = ?state.phase, "step");
            }
            // A process that only outlives the other one has drained. So has one that waits for the successor that it has started in the
            // place of a dead one.
            let has_drained =
                matches!(before, Phase::Draining(Drain::Last { .. } | Drain::Rescue { finished: true, .. }));
            if event == Event::Expired(Timer::Drain) && !has_drained {
                self.name_what_is_left();
            }
            for action in actions {
                events.extend(self.carry_out(action));
            }
            // Also of an upgrade that begins and ends in one round: a manager may wait for both.
            self.tell_manager();
        }
        self.tell_control();
    }

    /// Carries out one action. An action that has a result returns it as an event.
    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::WarnNotReady => self.warn_not_ready(),
            Action::Open => self.open(),
            Action::TakeOver => return Some(self.take_over()),
            Action::Arm(timer) => match Instant::now().checked_add(self.duration(timer)) {
                Some(at) => _ = self.timers.insert(timer, at),
                // Longer than a clock can count, such as `Duration::MAX`: it never expires.
                None => _ = self.timers.remove(&timer),
            },
            Action::Disarm(timer) => _ = self.timers.remove(&timer),
            Action::LetGo => self.let_go(),
            Action::Drain => self.drain(),
            Action::Hasten => self.hasten(),
            Action::End(end) => self.end(end),
            // All others concern a neighbour.
            action => return self.act(action),
        }
        None
    }

    /// The drain ends soon, and not later than it would have.
    fn hasten(&mut self) {
        let soon = Instant::now() + HASTE;
        if self.timers.get(&Timer::Drain).is_none_or(|at| *at > soon) {
            tell!(self.shared, INFO, within = ?HASTE, "the successor waits for the end of the drain");
            self.timers.insert(Timer::Drain, soon);
            self.hastened = true;
        }
    }

    fn duration(&self, timer: Timer) -> Duration {
        match timer {
            Timer::Upgrade => self.settings.timeouts.upgrade,
            Timer::Handover => HANDOVER_TIMEOUT,
            Timer::Probation => self.settings.timeouts.probation,
            Timer::Drain => self.settings.timeouts.drain,
            Timer::Exit => EXIT_TIMEOUT,
            Timer::Backoff => RESCUE_BACKOFF,
            Timer::Announce => ANNOUNCE_TIMEOUT,
            Timer::Quiet => Duration::ZERO,
            Timer::Remnant => self.drain_of_remnant().saturating_add(REMNANT_TIMEOUT),
        }
    }
}
