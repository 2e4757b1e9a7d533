//! The thread that feeds the life cycle and carries out its actions.
//!
//! This file is the loop; the rooms below it are what the loop does towards each of its neighbours.
//!
//! It is plain code around poll(2), so that an upgrade works though the runtime of the body is blocked, and so that
//! the async and the blocking flavour share it. Nothing here runs on the path of a connection.

mod check;
mod ending;
mod identity;
mod listeners;
mod manager;
mod outcome;
mod predecessor;
mod status;
mod successor;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;

use crate::control::{self, Control};
use crate::error::UpgradeError;
use crate::gate::Door;
use crate::handover::channel::Channel;
use crate::handover::message::Message;
use crate::lifecycle::{Action, Drain, Event, Phase, Predecessor, State, Timer};
use crate::pidfd::Holder;
use crate::pidfile::Pidfile;
use crate::poll;
use crate::preflight::Check;
use crate::report::{Seldom, Thinned, complain, tell};
use crate::returned::BodyEnd;
use crate::service::{Identity, Settings};
use crate::shared::{Note, Preparation, Reply, Shared, Verdict};
use crate::signals;
use crate::sockets::Held;
use crate::spawn::{Child, Spawner, What};
use crate::status::{Phase as PhaseToTell, Upgrades};
use crate::stops::Stops;
use crate::systemd;

use self::outcome::not_ready_because;

pub(crate) use manager::Told;

/// How long either side of a handover waits for the other's answer around `COMMIT`. Both are engines, whose answer
/// takes microseconds; while the old one waits nobody accepts.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a drain goes on once somebody waits for its end.
const HASTE: Duration = Duration::from_secs(1);
/// How many peers of connections that are aborted are named.
const NAMED_PEERS: usize = 8;
/// How long a thread may be inside an accept, which does not block.
pub(crate) const PAUSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a successor that said why it fails may take to exit by itself.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts of a rescue.
const RESCUE_BACKOFF: Duration = Duration::from_secs(1);
/// How long after the end of the channel its process may take to be dead: the kernel closes descriptors first.
const DEATH_AFTER_END: Duration = Duration::from_millis(500);
/// The same of a predecessor, which may have many thousands of sockets to close. To be late costs nothing here: it serves until
/// it is dead.
const PREDECESSOR_DEATH_AFTER_END: Duration = Duration::from_secs(10);
/// How often the processes are looked for that a dead successor has left behind.
const LOOK_FOR_STRAYS_EVERY: Duration = Duration::from_secs(1);
/// How long a child may take from its fork to its program, while which it has what its parent has.
const UNTIL_EXEC: Duration = Duration::from_millis(100);
/// How long a last word may wait for room in the channel.
const LAST_WORD_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a body that has dropped `Ready` may take to return or to unwind.
const UNWIND_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the thread of the body may take to let go of it once the process has ended.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer than a drain a successor that is over may take to exit.
const REMNANT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a service manager may take to hear whom it is to follow: as long as everything of the kind takes together.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many messages are taken before deadlines and requests are looked at again: several times as many as a socket
/// holds, so that what had arrived before a deadline has been taken, and whoever sends without end postpones nothing.
const MAX_ARRIVALS: usize = 1024;

/// The process that started this one.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) channel: Channel,
    pub(crate) offered: PredecessorOffer,
    /// How many connections and guards are open in it, once it has said so.
    pub(crate) open: Option<u64>,
    /// Which of the sockets it offered were adopted.
    pub(crate) adopted: Vec<usize>,
    /// Readable, or hung up, once it is dead. Without it the end of the channel counts as its death.
    pub(crate) watch: Option<OwnedFd>,
    /// The channel has reached its end.
    pub(crate) is_at_its_end: bool,
    /// By when it is to be dead then, unless it is over.
    pub(crate) dead_by: Option<Instant>,
}

impl Parent {
    pub(crate) fn new(offered: PredecessorOffer, channel: Channel, watch: Option<OwnedFd>) -> Self {
        Self { channel, offered, open: None, adopted: Vec::new(), watch, is_at_its_end: false, dead_by: None }
    }

    /// Why a start fails whose predecessor has closed the channel.
    fn lost(&self) -> String {
        format!(
            "the predecessor, process {}, closed the channel and lives; it may still serve",
            self.offered.pid
        )
    }
}

/// What the predecessor has said of itself, for the warnings of a successor that is something else.
#[derive(Debug)]
pub(crate) struct PredecessorOffer {
    pub(crate) pid: u32,
    pub(crate) identity: Identity,
    /// Empty for none; `None` from a release that does not say.
    pub(crate) pidfile: Option<String>,
    /// The names and addresses of its sockets, by their place in the offer.
    pub(crate) listeners: Vec<(String, String)>,
}

/// The process that this one has started.
struct Successor {
    child: Box<dyn Child>,
    /// How the process ended that was started, once it is reaped.
    exited: Option<String>,
    /// The life cycle knows that it is reaped, and that the channel is open.
    is_forked: bool,
    /// The process that speaks for it, where that is another one: behind a wrapper, or a fork.
    speaker: Option<Holder>,
    /// The numbers of all that have spoken for it, or were found with its end of the channel, beside the process that was started. None
    /// of them outlives the channel.
    others: HashSet<u32>,
    channel: Channel,
    /// That of its end of the channel, and that of ours.
    inodes: [u64; 2],
    is_killed: bool,
    /// The channel cannot be used. It stays open until the successor is dead, who would take its end for the death of
    /// this process.
    is_cut_off: bool,
    /// Nobody holds its end of the channel any more.
    is_at_its_end: bool,
    /// When what it has left behind is looked for next, once the processes that are known of it are dead.
    next_look: Option<Instant>,
    generation: u64,
    /// From the request to `ACTIVE`.
    active_after: Option<Duration>,
    /// What it says that the service is.
    identity: Identity,
    /// Why its body ended, where it served by then.
    last_words: Option<String>,
    /// What the service loses by the upgrade: to be said once that is done.
    warnings: Vec<String>,
    /// The names of the listeners that it keeps.
    adopted: HashSet<String>,
    /// The listeners that its body has not asked for a connection yet; `None` before its first word.
    unserved: Option<Vec<String>>,
}

/// What is told of a successor once it is dead.
#[derive(Debug, Default)]
struct DeadSuccessor {
    /// `None` in a test, whose services are one process.
    pid: Option<u32>,
    last_words: Option<String>,
    unserved: Option<Vec<String>>,
}

/// What the engine gets when the start is through.
pub(crate) struct Prepared {
    /// The managed listeners that the body has taken.
    pub(crate) doors: Vec<Arc<dyn Door>>,
    /// Whether the body says itself when it is ready.
    pub(crate) manual_ready: bool,
    /// Which of the sockets that the predecessor offered were adopted.
    pub(crate) adopted: Vec<usize>,
    pub(crate) told: Option<Told>,
    /// What the start had to do without.
    pub(crate) warnings: Vec<String>,
}

/// What an engine starts with.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    settings: Settings,
    spawner: Box<dyn Spawner>,
    pidfile: Option<Pidfile>,
    control: Option<Arc<Control>>,
    /// Every socket of the service, in the order of an offer.
    held: Vec<Held>,
    /// The ports that the IP sockets among them are bound to.
    ports: Vec<u16>,
    /// The managed listeners.
    doors: Vec<Arc<dyn Door>>,
    /// Whether the body says itself when it is ready.
    manual_ready: bool,
    parent: Option<Parent>,
    told: Option<Told>,
    /// Whether the service is this process, and not one of several in a test.
    is_process: bool,
    preparation: Preparation,

    state: State,
    /// The one under way, and those that were ended and are not reaped yet.
    check: Option<Check>,
    ended_checks: Vec<Check>,
    /// When the upgrade under way was asked for.
    requested: Instant,
    successor: Option<Successor>,
    timers: BTreeMap<Timer, Instant>,
    /// Who asked for the upgrade that is being requested just now, and who waits for the one under way.
    asking: Option<Arc<Reply>>,
    waiting: Vec<Arc<Reply>>,
    /// The successor that died last.
    dead_successor: DeadSuccessor,
    /// Processes related to this one that are known to be dead: a pid file that names one of them is stale.
    dead: Vec<u32>,
    body: Body,
    /// The listeners that the predecessor has been told are not served yet.
    told_unserved: Option<Vec<String>>,
    /// Why the upgrade, or the start, under way fails; the first reason is the cause.
    reason: Option<String>,
    stopping: Option<Signal>,
    /// The signals that have come and are not fed yet.
    signals: signals::Pending,
    /// The signals that have asked to stop.
    stops: Stops,
    serving_since: Option<Instant>,
    phase_since: Instant,
    /// What whoever waits at the control socket was told last.
    told_phase: PhaseToTell,
    /// How many connections the successor was told are open here, and when.
    told_open: Option<(u64, Instant)>,
    upgrades: Upgrades,
    /// The deadline of the drain was brought near.
    hastened: bool,
    /// What the start had to do without.
    warnings: Vec<String>,
    cannot_wait: Seldom,
    not_ready: Seldom,
    refused: Thinned,
    asked_to_stop: Thinned,
    /// Another process has said what does not belong there.
    stray: Seldom,
    /// What a successor has left behind cannot be ended.
    cannot_end: Seldom,
    /// The predecessor waits for a sign of life.
    owes_pulse: bool,
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
    ///
    /// `follows`: a service manager follows the generations itself, and not a parent that stays.
    pub(crate) fn new(
        shared: Arc<Shared>,
        settings: Settings,
        spawner: Box<dyn Spawner>,
        pidfile: Option<Pidfile>,
        parent: Option<Parent>,
        follows: bool,
        is_process: bool,
    ) -> Self {
        let predecessor = match (&parent, shared.had_predecessor) {
            (Some(_), _) => Predecessor::Alive,
            (None, true) => Predecessor::Gone,
            (None, false) => Predecessor::None,
        };
        let (state, actions) = State::new(predecessor, settings.overlap, follows);
        let mut engine = Self {
            shared,
            settings,
            spawner,
            pidfile,
            control: None,
            held: Vec::new(),
            ports: Vec::new(),
            doors: Vec::new(),
            manual_ready: false,
            parent,
            told: None,
            is_process,
            preparation: Preparation::UnderWay,
            state,
            check: None,
            ended_checks: Vec::new(),
            requested: Instant::now(),
            successor: None,
            timers: BTreeMap::new(),
            asking: None,
            waiting: Vec::new(),
            dead_successor: DeadSuccessor::default(),
            dead: Vec::new(),
            body: Body::default(),
            told_unserved: None,
            reason: None,
            stopping: None,
            signals: signals::Pending::default(),
            stops: Stops::default(),
            serving_since: None,
            phase_since: Instant::now(),
            told_phase: PhaseToTell::Starting,
            told_open: None,
            upgrades: Upgrades::default(),
            hastened: false,
            warnings: Vec::new(),
            cannot_wait: Seldom::default(),
            not_ready: Seldom::default(),
            refused: Thinned::default(),
            asked_to_stop: Thinned::default(),
            stray: Seldom::default(),
            cannot_end: Seldom::default(),
            owes_pulse: false,
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
        // The end of the channel says that a process is dead. Were this thread to die alone, the successor would
        // take it for that and serve beside this process.
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
            // What SIGKILL is to a process: no last word, no cleaning up.
            if self.shared.verdict.get().is_some() {
                let deadline = Instant::now() + PAUSE_TIMEOUT;
                self.doors.iter().for_each(|door| _ = door.retire(deadline));
                self.close();
                return;
            }
            self.round();
        };
        self.close();
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
            self.keep_channels();
            return;
        }
        complain!(self.shared, "the body blocks its thread; the process is ended without it");
        signals::exit_now(status);
    }

    /// Their ends say that this process is dead. It lives as long as what follows `Service::run`, and they with it.
    fn keep_channels(&mut self) {
        if let Some(parent) = self.parent.take() {
            std::mem::forget(parent.channel);
        }
        if let Some(successor) = self.successor.take() {
            std::mem::forget(successor.channel);
        }
    }

    /// Nobody waits for an answer of an engine that has ended.
    fn close(&mut self) {
        for reply in self.waiting.drain(..) {
            reply.set(Err(UpgradeError::Terminating));
        }
        self.shared.close(UpgradeError::Terminating, self.status());
    }

    /// Waits for something to happen, and deals with all of it.
    fn round(&mut self) {
        // Looked at before the signals, and told after them: whatever the manager has sent this process, it has sent before
        // it heard whom to follow, and meant for the service.
        let manager_has_heard = self.manager_has_heard();
        // Before the first wait as well: a signal or a listener that was asked for may have come already.
        self.take_requests();
        if manager_has_heard {
            self.feed(Event::Announced);
        }
        self.take_arrivals();
        self.look_at_body();
        if self.verdict.is_some() {
            return;
        }
        self.tell_open();
        if let Err(error) = self.wait() {
            // poll(2) fails for want of memory only.
            if self.cannot_wait.is_due() {
                complain!(self.shared, "the engine cannot wait: {error}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.shared.waker().clear();
        // A deadline never wins against what has arrived already: those that have passed by now are looked at once all
        // of that has been taken.
        let now = Instant::now();
        match self.take_arrivals() {
            0 | MAX_ARRIVALS => self.fire_timers(now),
            _ => {}
        }
        self.tell_manager_in_time(now);
    }

    fn wait(&mut self) -> io::Result<()> {
        let to_tell = self.told.as_ref().and_then(Told::deadline);
        let of_parent = self.parent.as_ref().and_then(|parent| parent.dead_by);
        let of_successor = self.successor.as_ref().and_then(|successor| successor.next_look);
        let others = self.open_is_due().into_iter().chain(to_tell).chain(of_parent).chain(of_successor);
        let deadline = self.timers.values().copied().chain(others).min();
        let mut fds = vec![PollFd::new(self.shared.waker().as_fd(), PollFlags::POLLIN)];
        let wanted = |channel: &Channel| {
            if channel.wants_to_send() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN }
        };
        if let Some(parent) = &self.parent {
            if !parent.is_at_its_end {
                fds.push(PollFd::new(parent.channel.as_fd(), wanted(&parent.channel)));
            }
            fds.extend(parent.watch.iter().map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)));
        }
        for check in self.check.iter().chain(&self.ended_checks) {
            fds.extend(check.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        if let Some(successor) = &self.successor {
            fds.extend(successor.living().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            if !successor.is_at_its_end {
                // Of one that cannot be used any more only its end is waited for, which poll(2) says unasked.
                let wanted =
                    if successor.is_cut_off { PollFlags::empty() } else { wanted(&successor.channel) };
                fds.push(PollFd::new(successor.channel.as_fd(), wanted));
            }
        }
        fds.extend(self.told.iter().flat_map(Told::fds));
        poll::until(&mut fds, deadline)
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(timer) = self.timers.iter().find(|(_, at)| **at <= now).map(|(timer, _)| *timer) {
            self.timers.remove(&timer);
            self.feed(Event::Expired(timer));
        }
    }

    /// Everything that other processes have said or done, up to a bound. Returns how much it was.
    fn take_arrivals(&mut self) -> usize {
        let mut taken = 0;
        while taken < MAX_ARRIVALS
            && self.verdict.is_none()
            && (self.take_from_parent() || self.take_from_successor() || self.take_from_check())
        {
            taken += 1;
        }
        taken
    }

    /// What operators and the body ask for. A stop goes first: an upgrade that came with it is refused.
    ///
    /// What is asked is read before what has arrived, and answered after it. Whoever has seen the predecessor end and asks
    /// for an upgrade therefore finds its end noted: the kernel closes the channel of a process before anybody can see
    /// that it is dead. Read the other way round, the two could come in between, and the request be refused for the sake
    /// of a process that was gone before it was made.
    fn take_requests(&mut self) {
        self.look_at_signals();
        let notes = self.shared.take_notes();
        self.take_arrivals();
        self.take_stops();
        if std::mem::take(&mut self.signals.upgrades) > 0 {
            self.feed(Event::Upgrade);
        }
        let mut ready_was_dropped = false;
        for note in notes {
            match note {
                Note::Ready => self.body.ready = true,
                Note::ReadyDropped => {
                    self.body.ready_dropped = true;
                    ready_was_dropped = true;
                }
                Note::BodyReturned(end) => {
                    self.body.returned = true;
                    self.body.end = end;
                }
                Note::Upgrade(reply) => {
                    self.asking = Some(reply);
                    self.feed(Event::Upgrade);
                }
                Note::Stop => self.stop(None),
                // Whoever had called before the socket was handed over means the service, which the successor serves by now.
                Note::StopService => {
                    if self.successor.as_ref().is_some_and(|successor| successor.active_after.is_some()) {
                        self.say_down(&Message::Stop);
                    }
                    self.stop(None);
                }
                Note::Alive => self.hear_pulse(),
                Note::Status(reply) => {
                    reply.set(self.status());
                    self.wake_control();
                }
                Note::Listener { held, doors, adopted } => {
                    self.have(held.map(|held| *held), doors);
                    self.have_adopted(adopted);
                }
                Note::Control { held, control } => {
                    self.have(Some(*held), vec![control.clone()]);
                    self.control = Some(control);
                    self.answer_alone();
                }
                Note::Prepared(prepared) => self.have_prepared(*prepared),
                Note::StartFailed { reason } => {
                    self.preparation = Preparation::Failed;
                    self.reason.get_or_insert(reason);
                    self.feed(Event::NotReady);
                }
            }
        }
        if ready_was_dropped && !self.body.returned {
            // As a rule the body returns an error or panics at this moment, which says more than that `Ready` was dropped.
            self.shared.waker().clear();
            let mut fds = [PollFd::new(self.shared.waker().as_fd(), PollFlags::POLLIN)];
            match poll::until(&mut fds, Some(Instant::now() + UNWIND_TIMEOUT)) {
                Ok(()) | Err(_) => self.take_requests(),
            }
        }
    }

    /// A request to stop. Only a second signal is a second one. A program that says it twice means it once; and the stop
    /// of a service reaches a process by a signal and by way of the other process, in either order.
    fn stop(&mut self, signal: Option<Signal>) {
        let is_under_way =
            self.stopping.is_some() || matches!(self.state.phase, Phase::Draining(Drain::Stop { .. }));
        let is_second = signal.is_some_and(|signal| self.stops.is_second(signal, Instant::now()));
        let is_known = is_under_way && !is_second;
        let name = signal.map(Signal::as_str);
        // A second request is said in any case: it ends the process.
        if self.asked_to_stop.line(name.unwrap_or_default()).is_some() || !is_known {
            tell!(self.shared, INFO, phase = "stop", signal = name, "asked to stop");
        }
        self.stopping = Some(signal.unwrap_or(Signal::SIGTERM));
        if !is_known {
            self.feed(Event::Stop);
        }
    }

    /// Notes the signals that have come since the last look.
    fn look_at_signals(&mut self) {
        if self.is_process {
            self.signals.add(signals::take());
        }
    }

    /// Stops for each signal that has been noted.
    ///
    /// Ctrl-C first: with a SIGTERM that it has caused somebody to send it is one request, which the order of the two would
    /// make two.
    fn take_stops(&mut self) {
        for _ in 0..std::mem::take(&mut self.signals.interrupts) {
            self.stop(Some(Signal::SIGINT));
        }
        for _ in 0..std::mem::take(&mut self.signals.terminates) {
            self.stop(Some(Signal::SIGTERM));
        }
    }

    fn look_at_body(&mut self) {
        let is_prepared = self.preparation == Preparation::Done;
        if self.verdict.is_none() && is_prepared && self.state.phase == Phase::Starting {
            // Whoever binds at run time is ready when it has bound something, and serves it.
            let nothing_yet =
                self.doors.iter().all(|door| door.name() == control::NAME) && self.shared.pool().is_some();
            let all_asked = self.doors.iter().all(|door| door.asked());
            if self.body.ready || (!self.manual_ready && all_asked && !nothing_yet) {
                let offered = match self.shared.close_pool() {
                    Ok(offered) => offered,
                    Err(error) => {
                        self.reason = Some(error.to_string());
                        return self.feed(Event::NotReady);
                    }
                };
                systemd::let_go(offered, &self.shared, self.told.as_mut().map(|told| &mut told.manager));
                self.take_requests();
                self.feed(Event::Ready);
            } else if self.body.ready_dropped && matches!(self.body.end, BodyEnd::Returned) {
                self.feed(Event::NotReady);
            } else {
                self.tell_unserved(self.unserved());
            }
        }
        // In a drain it is `Drained` that counts: the tasks and threads that a body has left behind finish first.
        let draining = matches!(self.state.phase, Phase::Draining(_));
        if self.verdict.is_none() && self.body.returned && !self.body.returned_told && !draining {
            self.body.returned_told = true;
            self.tell_unasked_end();
            self.feed(Event::BodyReturned);
        }
        if self.verdict.is_none() && self.is_drained() {
            self.feed(Event::Drained);
        }
    }

    fn is_drained(&self) -> bool {
        let asked = match self.state.phase {
            Phase::Draining(Drain::Rescue { finished, .. }) => !finished,
            Phase::Draining(Drain::Last { .. }) => false,
            Phase::Draining(_) => true,
            _ => false,
        };
        // There is nothing to finish, and nobody would: the body never runs.
        if self.preparation != Preparation::Done {
            return asked;
        }
        asked && self.shared.counted() == 0 && (self.body.returned || !self.shared.waits_for_body())
    }

    /// The listeners that the body has not asked for a connection yet, be it that it has not taken them.
    pub(super) fn unserved(&self) -> Vec<String> {
        if self.preparation != Preparation::Done {
            return self.held_by_body().iter().map(|held| held.name.clone()).collect();
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
            // A signal to stop that came before a step of the handover means the service, which this process still has. Fed after
            // it, the stop would mean this process alone.
            if matches!(event, Event::Prepared | Event::Paused | Event::Active) {
                self.look_at_signals();
                self.take_stops();
            }
            let before = self.state.phase;
            let (state, actions) = self.state.step(event);
            self.state = state;
            if before != state.phase {
                self.phase_since = Instant::now();
                // One that comes in another phase is news, be it of the same words.
                self.refused = Thinned::default();
                tell!(self.shared, DEBUG, ?event, phase = ?state.phase, "step");
            }
            // Whoever only outlives the other process has drained.
            let is_last = matches!(before, Phase::Draining(Drain::Last { .. }));
            if event == Event::Expired(Timer::Drain) && !is_last {
                self.name_what_is_left();
            }
            for action in actions {
                events.extend(self.carry_out(action));
            }
            // Of an upgrade that is over at once as well: a manager may wait for its begin and its end.
            self.tell_manager();
        }
        self.answer_alone();
        self.tell_phase();
        self.wake_control();
    }

    /// The start is through, and what it has come to is here.
    fn have_prepared(&mut self, prepared: Prepared) {
        let Prepared { doors, manual_ready, adopted, told, warnings } = prepared;
        self.preparation = Preparation::Done;
        self.have(None, doors);
        self.have_adopted(adopted);
        (self.manual_ready, self.told, self.warnings) = (manual_ready, told, warnings);
    }

    fn have_adopted(&mut self, adopted: impl IntoIterator<Item = usize>) {
        if let Some(parent) = &mut self.parent {
            parent.adopted.extend(adopted);
        }
    }

    /// Opens the control socket of a start that has no predecessor to answer there: to an operator this is when it matters
    /// most, and what waited in its queue would be carried out later.
    fn answer_alone(&self) {
        let is_start = matches!(self.state.phase, Phase::Starting | Phase::Prepared | Phase::TakingOver);
        if let Some(control) = self.control.as_ref().filter(|_| is_start && self.parent.is_none()) {
            control.open();
        }
    }

    /// After whatever somebody at the control socket may wait for.
    fn wake_control(&self) {
        if let Some(control) = &self.control {
            control.wake();
        }
    }

    /// Carries out one action. One that has a result returns it as an event.
    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Refuse(refusal) => self.refuse(refusal),
            Action::Postpone => self.postpone(),
            Action::ReportActive => self.report_active(),
            Action::Report(outcome) => self.report(outcome),
            Action::WarnNotReady if self.not_ready.is_due() => {
                let after = humantime::format_duration(self.settings.timeouts.upgrade);
                let because = match self.preparation {
                    Preparation::UnderWay => "it still binds its listeners, or prepares its body".to_owned(),
                    _ => not_ready_because(Some(&self.unserved())),
                };
                complain!(self.shared, "not ready after {after}: {because}");
            }
            Action::WarnNotReady => {}
            Action::Check => return self.check(),
            Action::EndCheck => self.end_check(),
            Action::Spawn => return self.spawn(What::Release),
            Action::SpawnRescue => {
                let how = self.reason.take().unwrap_or_else(|| "is dead".to_owned());
                let more = self.of_dead_successor();
                complain!(
                    self.shared,
                    "the successor {how}{more}; this process's own executable is started in its place",
                );
                self.requested = Instant::now();
                return self.spawn(What::OwnImage);
            }
            Action::SendCommit => self.say_down(&Message::Commit),
            Action::SendStop => self.say_down(&Message::Stop),
            Action::SendPrepared => return self.send_prepared(),
            Action::SendActive => self.say_up(&Message::Active),
            Action::SendFailed(failure) => {
                let reason = self.start_failure(failure);
                self.say_up(&Message::Failed { reason });
            }
            Action::SendLeaving => self.say_up(&Message::Leaving),
            Action::SendHasten => self.say_up(&Message::Hasten),
            Action::SendFollowed => self.say_down(&Message::Followed),
            Action::SendPing => self.say_down(&Message::Ping),
            Action::Announce => return self.announce(),
            Action::Kill => {
                if let Some(successor) = &mut self.successor {
                    successor.kill();
                }
            }
            Action::Pause => {
                self.stage_the_way_back();
                return Some(self.pause());
            }
            Action::Open => self.open(),
            Action::TakeOver => return Some(self.take_over()),
            Action::TakeBack => self.take_back(),
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
            Timer::Remnant => self.settings.timeouts.drain.saturating_add(REMNANT_TIMEOUT),
        }
    }
}
