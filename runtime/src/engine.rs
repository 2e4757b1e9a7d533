//! The thread that feeds the life cycle and carries out its actions.
//!
//! It is plain code around poll(2), so that an upgrade works though the runtime of the body is blocked, and so that
//! the async and the blocking flavour share it. Nothing here runs on the path of a connection.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;

use crate::error::UpgradeError;
use crate::gate::Door;
use crate::handover::channel::{Channel, Received};
use crate::handover::message::{MAX_FDS, Message, Speaker};
use crate::lifecycle::{
    Action, Drain, End, Event, Failure, Phase, Predecessor, Refusal, StartFailure, State, Timer,
};
use crate::pidfile::Pidfile;
use crate::poll;
use crate::report::{complain, printable, tell};
use crate::service::Timeouts;
use crate::shared::{Note, Reply, Shared, Upgraded, Verdict};
use crate::signals;
use crate::sockets::{self, Held};
use crate::spawn::{Child, Spawner, What};

/// How long either side of a handover waits for the other's answer around `COMMIT`. Both are engines, whose answer
/// takes microseconds; while the old one waits nobody accepts.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many peers of connections that are aborted are named.
const NAMED_PEERS: usize = 8;
/// How long a thread may be inside an accept, which does not block.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a successor that said why it fails may take to exit by itself.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts of a rescue.
const RESCUE_BACKOFF: Duration = Duration::from_secs(1);
/// How long after the end of the channel its process may take to be dead: the kernel closes descriptors first.
const DEATH_AFTER_END: Duration = Duration::from_millis(500);
/// How long a panic that has dropped `Ready` may take to unwind the body.
const UNWIND_TIMEOUT: Duration = Duration::from_millis(100);
/// How long `main` may take to return once the process has ended.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The process that started this one.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) channel: Channel,
    pub(crate) pid: u32,
    /// Which of the sockets it offered were adopted.
    pub(crate) adopted: Vec<usize>,
}

/// The process that this one has started.
struct Successor {
    child: Box<dyn Child>,
    /// `None` once it has reached its end or cannot be used.
    channel: Option<Channel>,
    generation: u64,
    requested: Instant,
    /// From the request to `ACTIVE`.
    active_after: Option<Duration>,
    /// The names of the listeners that it keeps.
    adopted: Vec<String>,
    /// The listeners that its body has not asked for a connection yet.
    unserved: Vec<String>,
}

/// What an engine starts with.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    timeouts: Timeouts,
    spawner: Box<dyn Spawner>,
    pidfile: Option<Pidfile>,
    /// Every socket of the service, in the order of an offer.
    held: Vec<Held>,
    /// The ports that the IP sockets among them are bound to.
    ports: Vec<u16>,
    /// The managed listeners.
    doors: Vec<Arc<dyn Door>>,
    /// Whether the body says itself when it is ready.
    manual_ready: bool,
    parent: Option<Parent>,
    /// Whether the service is this process, and not one of several in a test.
    is_process: bool,

    state: State,
    successor: Option<Successor>,
    timers: BTreeMap<Timer, Instant>,
    /// Who asked for the upgrade that is being requested just now, and who waits for the one under way.
    asking: Option<Arc<Reply>>,
    waiting: Vec<Arc<Reply>>,
    /// What the successor that died last had not been asked for.
    unserved_by_successor: Vec<String>,
    /// Processes related to this one that are known to be dead: a pid file that names one of them is stale.
    dead: Vec<u32>,
    body: Body,
    /// The listeners that the predecessor has been told are not served yet.
    told_unserved: Option<Vec<String>>,
    /// Why the upgrade, or the start, under way fails; the first reason is the cause.
    reason: Option<String>,
    stopping: Option<Signal>,
    verdict: Option<Verdict>,
}

/// What the engine has heard from the body.
#[derive(Debug, Default)]
struct Body {
    ready: bool,
    ready_dropped: bool,
    returned: bool,
    returned_told: bool,
    panic: Option<String>,
}

impl Engine {
    #[allow(
        clippy::too_many_arguments,
        reason = "it is made in one place, of what that place has just prepared"
    )]
    pub(crate) fn new(
        shared: Arc<Shared>,
        timeouts: Timeouts,
        spawner: Box<dyn Spawner>,
        pidfile: Option<Pidfile>,
        held: Vec<Held>,
        doors: Vec<Arc<dyn Door>>,
        manual_ready: bool,
        parent: Option<Parent>,
        is_process: bool,
    ) -> Self {
        let predecessor = match (&parent, shared.had_predecessor) {
            (Some(_), _) => Predecessor::Alive,
            (None, true) => Predecessor::Gone,
            (None, false) => Predecessor::None,
        };
        let (state, actions) = State::new(predecessor);
        let ports = held.iter().filter_map(Held::port).collect();
        let mut engine = Self {
            shared,
            timeouts,
            spawner,
            pidfile,
            held,
            ports,
            doors,
            manual_ready,
            parent,
            is_process,
            state,
            successor: None,
            timers: BTreeMap::new(),
            asking: None,
            waiting: Vec::new(),
            unserved_by_successor: Vec::new(),
            dead: Vec::new(),
            body: Body::default(),
            told_unserved: None,
            reason: None,
            stopping: None,
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
                self.doors.iter().for_each(|door| door.retire(deadline));
                return;
            }
            self.round();
        };
        if !self.is_process {
            // As the end of a process closes what it has: whoever waited for this one finds nothing left of it.
            let shared = self.shared.clone();
            drop(self);
            shared.verdict.set(verdict);
            return;
        }
        self.shared.verdict.set(verdict);
        std::thread::sleep(LEAVE_TIMEOUT);
        complain!(self.shared, "the body blocks its thread; the process is ended without it");
        signals::exit_now(if verdict == Verdict::Success { 0 } else { 1 });
    }

    /// Waits for something to happen, and deals with all of it.
    fn round(&mut self) {
        // Before the first wait as well: a signal or a listener that was asked for may have come already.
        self.take_arrivals();
        self.take_requests();
        self.take_arrivals();
        self.look_at_body();
        if self.verdict.is_some() {
            return;
        }
        if let Err(error) = self.wait() {
            // poll(2) fails for want of memory only.
            complain!(self.shared, "the engine cannot wait: {error}");
            std::thread::sleep(Duration::from_millis(100));
        }
        self.shared.waker().clear();
        // A deadline never wins against what has arrived already.
        if !self.take_arrivals() {
            self.fire_timers();
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let deadline = self.timers.values().min().copied();
        let mut fds = vec![PollFd::new(self.shared.waker().as_fd(), PollFlags::POLLIN)];
        let wanted = |channel: &Channel| {
            if channel.wants_to_send() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN }
        };
        if let Some(parent) = &self.parent {
            fds.push(PollFd::new(parent.channel.as_fd(), wanted(&parent.channel)));
        }
        if let Some(successor) = &self.successor {
            fds.push(PollFd::new(successor.child.as_fd(), PollFlags::POLLIN));
            if let Some(channel) = &successor.channel {
                fds.push(PollFd::new(channel.as_fd(), wanted(channel)));
            }
        }
        poll::until(&mut fds, deadline)
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(timer) = self.timers.iter().find(|(_, at)| **at <= now).map(|(timer, _)| *timer) {
            self.timers.remove(&timer);
            self.feed(Event::Expired(timer));
        }
    }

    /// Everything that other processes have said or done. Returns whether there was anything.
    fn take_arrivals(&mut self) -> bool {
        let mut any = false;
        while self.verdict.is_none() && (self.take_from_parent() || self.take_from_successor()) {
            any = true;
        }
        any
    }

    fn take_from_parent(&mut self) -> bool {
        let Some(parent) = &mut self.parent else { return false };
        // A send fails once the other end is closed. What it said before is read all the same, and then its end.
        match parent.channel.flush() {
            Ok(()) | Err(_) => {}
        }
        let event = match parent.channel.receive() {
            Ok(Received::Nothing) => return false,
            Ok(Received::Message(Message::Commit, _)) => Event::Commit,
            Ok(Received::Message(Message::Stop, _)) => {
                self.stop(None);
                return true;
            }
            Ok(Received::Message(Message::NotUnderstood { unknown }, _)) => {
                tell!(
                    self.shared,
                    DEBUG,
                    unknown = printable(&unknown),
                    "the predecessor does not know a message"
                );
                return true;
            }
            Ok(Received::Message(message, _)) => {
                tell!(self.shared, WARN, ?message, "a message that a predecessor does not send");
                return true;
            }
            Ok(Received::Unknown(name)) => {
                tell!(self.shared, DEBUG, name, "a message of a later release");
                return true;
            }
            Ok(Received::End) => {
                self.parent_gone();
                Event::PredecessorGone
            }
            Err(error) => {
                if matches!(self.state.phase, Phase::Starting | Phase::Prepared) {
                    self.reason.get_or_insert(format!("the channel to the predecessor: {error}"));
                    Event::ChannelLost
                } else {
                    self.parent_gone();
                    Event::PredecessorGone
                }
            }
        };
        self.feed(event);
        true
    }

    fn parent_gone(&mut self) {
        if let Some(parent) = self.parent.take() {
            tell!(self.shared, INFO, predecessor = parent.pid, phase = "alone", "the predecessor is gone");
            self.known_dead(parent.pid);
        }
        self.shared.predecessor_gone.set(());
    }

    fn take_from_successor(&mut self) -> bool {
        let Some(successor) = &mut self.successor else { return false };
        // Looked at before the channel: what it said before it died has arrived by then, and is heard first.
        let mut fds = [PollFd::new(successor.child.as_fd(), PollFlags::POLLIN)];
        let is_dead = poll::until(&mut fds, Some(Instant::now())).is_ok() && fds[0].any() == Some(true);
        let mut lost = None;
        if let Some(channel) = &mut successor.channel {
            // What a send that fails means, the read after it tells.
            let flushed = channel.flush();
            match channel.receive() {
                Ok(Received::Nothing) => {
                    if let Err(error) = flushed {
                        lost = Some(format!("the channel to it failed: {error}"));
                    }
                }
                Ok(Received::Message(message, _)) => {
                    self.hear(message);
                    return true;
                }
                Ok(Received::Unknown(name)) => {
                    tell!(self.shared, DEBUG, name, "a message of a later release");
                    return true;
                }
                Ok(Received::End) => {
                    // Its process is dead or about to be; only one that goes on running has broken a promise.
                    let deadline = Instant::now() + DEATH_AFTER_END;
                    let mut fds = [PollFd::new(successor.child.as_fd(), PollFlags::POLLIN)];
                    match poll::until(&mut fds, Some(deadline)) {
                        Ok(()) | Err(_) => {}
                    }
                    lost = Some("it closed the channel and went on running".to_owned());
                }
                Err(error) => lost = Some(error.to_string()),
            }
        }
        let died = if is_dead || lost.is_some() { successor.child.reap() } else { None };
        if let Some(how) = died {
            let pid = successor.child.pid();
            self.unserved_by_successor = std::mem::take(&mut successor.unserved);
            self.successor = None;
            self.known_dead(pid);
            self.restore_nonblocking();
            self.reason.get_or_insert(how);
            self.feed(Event::Exited);
            return true;
        }
        if let Some(how) = lost {
            successor.channel = None;
            self.reason.get_or_insert(how);
            self.feed(Event::ChannelLost);
            return true;
        }
        false
    }

    /// A message of the successor.
    fn hear(&mut self, message: Message) {
        let Some(successor) = &mut self.successor else { return };
        let event = match message {
            Message::Hello { speaker } => match speaker.understands_us() {
                Ok(()) => return,
                Err(refusal) => {
                    self.reason = Some(refusal);
                    Event::ChannelLost
                }
            },
            Message::Unserved { mut listeners } => {
                listeners.truncate(self.held.len());
                successor.unserved = listeners.iter().map(|name| printable(name)).collect();
                return;
            }
            Message::Prepared { adopted } => {
                let mut seen = vec![false; self.held.len()];
                let fits = |at: &usize| seen.get_mut(*at).is_some_and(|seen| !std::mem::replace(seen, true));
                if adopted.iter().all(fits) {
                    successor.adopted = adopted.iter().map(|at| self.held[*at].name.clone()).collect();
                    Event::Prepared
                } else {
                    self.reason = Some("it adopted sockets that were not offered".to_owned());
                    Event::ChannelLost
                }
            }
            Message::Active => {
                successor.active_after = Some(successor.requested.elapsed());
                Event::Active
            }
            Message::Failed { reason } => {
                self.reason = Some(printable(&reason));
                Event::Failed
            }
            Message::Leaving => Event::Leaving,
            Message::NotUnderstood { unknown } => {
                tell!(
                    self.shared,
                    DEBUG,
                    unknown = printable(&unknown),
                    "the successor does not know a message"
                );
                return;
            }
            message @ (Message::Offer { .. }
            | Message::Sockets { .. }
            | Message::Files { .. }
            | Message::Commit
            | Message::Stop) => {
                tell!(self.shared, WARN, ?message, "a message that a successor does not send");
                return;
            }
        };
        self.feed(event);
    }

    /// What operators and the body ask for. A stop goes first: an upgrade that came with it is refused.
    fn take_requests(&mut self) {
        let pending = if self.is_process { signals::take() } else { signals::Pending::default() };
        for _ in 0..pending.terminates {
            self.stop(Some(Signal::SIGTERM));
        }
        for _ in 0..pending.interrupts {
            self.stop(Some(Signal::SIGINT));
        }
        if pending.upgrades > 0 {
            self.feed(Event::Upgrade);
        }
        let mut panic_under_way = false;
        for note in self.shared.take_notes() {
            match note {
                Note::Ready => self.body.ready = true,
                Note::ReadyDropped { panicking } => {
                    self.body.ready_dropped = true;
                    panic_under_way |= panicking;
                }
                Note::BodyReturned { panic } => {
                    self.body.returned = true;
                    self.body.panic = panic;
                }
                Note::Upgrade(reply) => {
                    self.asking = Some(reply);
                    self.feed(Event::Upgrade);
                }
                Note::Stop => self.stop(None),
                Note::Listener { held, doors, adopted } => {
                    if let (Some(at), Some(parent)) = (adopted, &mut self.parent) {
                        parent.adopted.push(at);
                    }
                    self.ports.extend(held.port());
                    self.held.push(*held);
                    self.doors.extend(doors);
                }
            }
        }
        if panic_under_way && !self.body.returned {
            // It unwinds the body as a rule, whose message says more; in a task of its own it ends here.
            self.shared.waker().clear();
            let mut fds = [PollFd::new(self.shared.waker().as_fd(), PollFlags::POLLIN)];
            match poll::until(&mut fds, Some(Instant::now() + UNWIND_TIMEOUT)) {
                Ok(()) | Err(_) => self.take_requests(),
            }
        }
    }

    /// A request to stop. Only a signal counts as a second one: a program that says it twice means it once.
    fn stop(&mut self, signal: Option<Signal>) {
        if signal.is_none() && self.stopping.is_some() {
            return;
        }
        tell!(self.shared, INFO, phase = "stop", signal = signal.map(Signal::as_str), "asked to stop");
        self.stopping = Some(signal.unwrap_or(Signal::SIGTERM));
        self.feed(Event::Stop);
    }

    fn look_at_body(&mut self) {
        if self.verdict.is_none() && self.state.phase == Phase::Starting {
            let unserved = self.unserved();
            // Whoever binds at run time is ready when it has bound something, and serves it.
            let nothing_yet = self.doors.is_empty() && self.shared.pool().is_some();
            if self.body.ready || (!self.manual_ready && unserved.is_empty() && !nothing_yet) {
                // From now on nothing is bound or adopted. What was a moment ago has been posted by then.
                *self.shared.pool() = None;
                self.take_requests();
                self.feed(Event::Ready);
            } else if self.body.ready_dropped && self.body.panic.is_none() {
                self.feed(Event::NotReady);
            } else {
                self.tell_unserved(unserved);
            }
        }
        // In a drain it is `Drained` that counts: the tasks and threads that a body has left behind finish first.
        let draining = matches!(self.state.phase, Phase::Draining(_));
        if self.verdict.is_none() && self.body.returned && !self.body.returned_told && !draining {
            self.body.returned_told = true;
            self.feed(Event::BodyReturned);
        }
        if self.verdict.is_none() && self.is_drained() {
            self.feed(Event::Drained);
        }
    }

    fn is_drained(&self) -> bool {
        let asked = match self.state.phase {
            Phase::Draining(Drain::Rescue { finished, .. }) => !finished,
            Phase::Draining(_) => true,
            _ => false,
        };
        // A body that awaited `Shutdown` is written to return, and is waited for.
        let awaited = self.shared.awaited.load(Ordering::Acquire);
        asked && self.shared.counted() == 0 && (self.body.returned || !awaited)
    }

    fn unserved(&self) -> Vec<String> {
        self.doors.iter().filter(|door| !door.asked()).map(|door| door.name().to_owned()).collect()
    }

    fn tell_unserved(&mut self, unserved: Vec<String>) {
        let Some(parent) = &mut self.parent else { return };
        if self.told_unserved.as_ref() != Some(&unserved) {
            let message = Message::Unserved { listeners: unserved.clone() };
            // A predecessor that is gone is noticed by the read that follows.
            match parent.channel.send(&message) {
                Ok(()) | Err(_) => self.told_unserved = Some(unserved),
            }
        }
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
            Action::Refuse(refusal) => self.refuse(refusal),
            Action::ReportActive => self.report_active(),
            Action::Report(outcome) => self.report(outcome),
            Action::WarnNotReady => {
                let unserved = self.unserved();
                let after = humantime::format_duration(self.timeouts.upgrade);
                complain!(self.shared, "not ready after {after}: {}", self.not_ready_because(&unserved));
            }
            Action::Spawn => return self.spawn(What::Release),
            Action::SpawnRescue => {
                complain!(
                    self.shared,
                    "the successor {}; this process's own executable is started in its place",
                    self.reason.take().unwrap_or_else(|| "is dead".to_owned()),
                );
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
            Action::Kill => {
                if let Some(successor) = &self.successor {
                    successor.child.kill();
                }
            }
            Action::Pause => return Some(self.pause()),
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
            Action::End(end) => self.end(end),
        }
        None
    }

    fn duration(&self, timer: Timer) -> Duration {
        match timer {
            Timer::Upgrade => self.timeouts.upgrade,
            Timer::Handover => HANDOVER_TIMEOUT,
            Timer::Probation => self.timeouts.probation,
            Timer::Drain => self.timeouts.drain,
            Timer::Exit => EXIT_TIMEOUT,
            Timer::Backoff => RESCUE_BACKOFF,
        }
    }

    // Towards the operator.

    fn refuse(&mut self, refusal: Refusal) {
        let error = match refusal {
            Refusal::NotReady => UpgradeError::NotReady,
            Refusal::InProgress => UpgradeError::InProgress,
            Refusal::PredecessorDraining => UpgradeError::PredecessorDraining,
            Refusal::Terminating => UpgradeError::Terminating,
        };
        complain!(self.shared, WARN, "upgrade refused: {error}");
        if let Some(reply) = self.asking.take() {
            reply.set(Err(error));
        }
    }

    fn report_active(&mut self) {
        self.shared.set_handed_over(true);
        let Some(successor) = &self.successor else { return };
        tell!(
            self.shared,
            INFO,
            phase = "standby",
            successor = successor.child.pid(),
            elapsed = ?successor.active_after.unwrap_or_default(),
            "the successor serves"
        );
    }

    fn report(&mut self, outcome: Result<(), Failure>) {
        let answer = match (outcome, &self.successor) {
            (Ok(()), Some(successor)) => {
                let elapsed = successor.active_after.unwrap_or_else(|| successor.requested.elapsed());
                let pid = successor.child.pid();
                tell!(self.shared, INFO, phase = "draining", successor = pid, ?elapsed, "upgraded");
                Ok(Upgraded { generation: successor.generation, pid, elapsed })
            }
            // It passed its probation and died in the same instant; the death is the next event.
            (Ok(()), None) => Err(UpgradeError::Failed { reason: "the successor exited".to_owned() }),
            (Err(failure), _) => {
                let reason = self.failure(failure);
                let serves = match self.state.phase {
                    Phase::Serving => "; this process serves on",
                    _ => "",
                };
                complain!(self.shared, "upgrade failed: {reason}{serves}");
                Err(UpgradeError::Failed { reason })
            }
        };
        for reply in self.waiting.drain(..) {
            reply.set(answer.clone());
        }
    }

    /// Why an upgrade failed, in words; `reason` has what was heard of it.
    fn failure(&mut self, failure: Failure) -> String {
        let heard = self.reason.take();
        let heard = |otherwise: &str| heard.unwrap_or_else(|| otherwise.to_owned());
        match failure {
            Failure::Spawn => heard("the successor could not be started"),
            Failure::Exited => format!("the successor {} before it served", heard("exited")),
            Failure::Reported => format!("the successor could not start: {}", heard("it did not say why")),
            Failure::ChannelLost => {
                format!("the successor cannot be talked to: {}", heard("it broke the protocol"))
            }
            Failure::NotReady => {
                format!(
                    "the successor was not ready within {}: {}",
                    humantime::format_duration(self.timeouts.upgrade),
                    self.not_ready_because(&self.unserved_by_successor),
                )
            }
            Failure::NoAnswer => format!(
                "the successor was told to serve and did not answer within {}",
                humantime::format_duration(HANDOVER_TIMEOUT),
            ),
            Failure::Probation => format!("the successor {} in its probation", heard("exited")),
            Failure::Stopped => "the service was told to stop".to_owned(),
        }
    }

    /// What keeps a start from being ready: the first place to look.
    fn not_ready_because(&self, unserved: &[String]) -> String {
        if unserved.is_empty() {
            return "its body has not called `Ready::notify`".to_owned();
        }
        let names: Vec<_> = unserved.iter().map(|name| format!("`{name}`")).collect();
        format!("its body has not asked for a connection of {}", names.join(", "))
    }

    fn start_failure(&mut self, failure: StartFailure) -> String {
        if let Some(reason) = &self.reason {
            return reason.clone();
        }
        let reason = match failure {
            StartFailure::ReadyDropped => "the body dropped `Ready` without `notify`".to_owned(),
            StartFailure::BodyReturned => match &self.body.panic {
                Some(message) => format!("the body panicked: {}", printable(message)),
                None => "the body returned before it was ready".to_owned(),
            },
            StartFailure::Pidfile => "cannot write the pid file".to_owned(),
            StartFailure::Channel => "the channel to the predecessor failed".to_owned(),
            StartFailure::NoCommit => "the predecessor did not answer".to_owned(),
            StartFailure::Stopped => "it was told to stop".to_owned(),
        };
        self.reason.insert(reason).clone()
    }

    /// The deadline of the drain has passed.
    fn name_what_is_left(&self) {
        let count = self.shared.counted();
        let body = if self.body.returned { "" } else { "; the body has not returned" };
        let peers = sockets::peers(&self.ports, NAMED_PEERS);
        let peers = if peers.is_empty() { String::new() } else { format!(" (from {})", peers.join(", ")) };
        complain!(
            self.shared,
            "not drained within {}: {count} connections and guards are open{peers}{body}; what is left is aborted",
            humantime::format_duration(self.timeouts.drain),
        );
    }

    // Towards the successor.

    fn spawn(&mut self, what: What) -> Option<Event> {
        self.waiting.extend(self.asking.take());
        self.reason = None;
        match self.start_successor(what) {
            Ok(successor) => {
                tell!(
                    self.shared,
                    INFO,
                    phase = "upgrading",
                    successor = successor.child.pid(),
                    executable = ?self.spawner.executable(),
                    "started a successor"
                );
                self.successor = Some(successor);
                None
            }
            Err(reason) => {
                self.reason = Some(reason);
                Some(Event::SpawnFailed)
            }
        }
    }

    fn start_successor(&mut self, what: What) -> Result<Successor, String> {
        let requested = Instant::now();
        let cannot = |error: io::Error| format!("cannot make the handover channel: {error}");
        let (mut channel, theirs): (Channel, OwnedFd) = Channel::pair().map_err(cannot)?;
        // The offer is in the socket before there is anybody to read it, so that one who inherits the descriptor
        // by mistake finds out at once.
        let speaker = Speaker::us(self.shared.generation);
        let executable = self.spawner.executable().and_then(|path| Some(path.to_str()?.to_owned()));
        let files: Vec<_> = self.shared.passed_on().clone().into_iter().collect();
        let offer = Message::Offer { speaker, sockets: self.held.len(), files: files.len(), executable };
        channel.send(&offer).map_err(cannot)?;
        for part in self.held.chunks(MAX_FDS) {
            let entries = part.iter().map(Held::entry).collect();
            let fds = part.iter().map(|held| held.fd.clone()).collect();
            channel.send_with(&Message::Sockets { entries }, fds).map_err(cannot)?;
        }
        for part in files.chunks(MAX_FDS) {
            let (names, fds) = part.iter().cloned().unzip();
            channel.send_with(&Message::Files { names }, fds).map_err(cannot)?;
        }
        let child = self.spawner.spawn(what, theirs)?;
        Ok(Successor {
            child,
            channel: Some(channel),
            generation: self.shared.generation + 1,
            requested,
            active_after: None,
            adopted: Vec::new(),
            unserved: self.doors.iter().map(|door| door.name().to_owned()).collect(),
        })
    }

    fn say_down(&mut self, message: &Message) {
        if let Some(channel) = self.successor.as_mut().and_then(|successor| successor.channel.as_mut()) {
            // A successor that is gone is noticed by the read that follows.
            match channel.send(message) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    // Towards the predecessor.

    fn say_up(&mut self, message: &Message) {
        if let Some(parent) = &mut self.parent {
            // A predecessor that is gone is noticed by the read that follows.
            match parent.channel.send(message) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn send_prepared(&mut self) -> Option<Event> {
        if let Some(pidfile) = &self.pidfile {
            if let Err(error) = pidfile.stage() {
                self.reason = Some(pidfile_error(pidfile, &error));
                return Some(Event::PidfileFailed);
            }
        }
        tell!(self.shared, INFO, phase = "prepared", "ready");
        let adopted = self.parent.as_ref().map(|parent| parent.adopted.clone()).unwrap_or_default();
        self.say_up(&Message::Prepared { adopted });
        None
    }

    // Towards the listeners.

    fn adopted_by_successor(&self) -> impl Fn(&str) -> bool + '_ {
        let adopted = self.successor.as_ref().map_or(&[][..], |successor| &successor.adopted);
        move |name| adopted.iter().any(|adopted| adopted == name)
    }

    /// Only what the successor adopted is paused: on a listener that it does not know nobody else would accept, and
    /// its clients would wait in the queue for nothing.
    fn pause(&mut self) -> Event {
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        let adopted = self.adopted_by_successor();
        let stuck = self.doors.iter().find(|door| adopted(door.name()) && !door.close(deadline));
        let stuck = stuck.map(|door| door.name().to_owned());
        drop(adopted);
        match stuck {
            None => Event::Paused,
            Some(name) => {
                self.reason = Some(format!("a thread of this process is stuck in an accept of `{name}`"));
                Event::ChannelLost
            }
        }
    }

    fn open(&mut self) {
        self.restore_nonblocking();
        self.shared.set_handed_over(false);
        self.doors.iter().for_each(|door| door.open());
    }

    /// A successor that is dead may have cleared it.
    fn restore_nonblocking(&self) {
        for held in &self.held {
            match held.restore_nonblocking() {
                Ok(false) => {}
                Ok(true) => complain!(
                    self.shared,
                    "listener `{}`: another process had cleared O_NONBLOCK; it is set again",
                    held.name
                ),
                Err(error) => complain!(self.shared, "listener `{}`: {error}", held.name),
            }
        }
    }

    /// Closes every listener. Their paths go with them, unless a successor still has them and removes them itself.
    fn let_go(&mut self) {
        let ours = self.state.phase == Phase::Draining(Drain::Stop { owner: true });
        for held in std::mem::take(&mut self.held) {
            if ours {
                unlink(&self.shared, &held);
            }
        }
    }

    fn drain(&mut self) {
        self.shared.start_draining();
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        self.doors.iter().for_each(|door| door.retire(deadline));
        // Before it ever served, what it inherited is its predecessor's.
        let ours = self.state.phase != Phase::Draining(Drain::Stop { owner: false });
        let held = std::mem::take(&mut self.held);
        let adopted = self.adopted_by_successor();
        let (kept, given_up): (Vec<_>, Vec<_>) = held.into_iter().partition(|held| adopted(&held.name));
        drop(adopted);
        for held in given_up {
            if ours || held.created {
                unlink(&self.shared, &held);
            }
        }
        self.held = kept;
        let open = self.shared.counted();
        tell!(self.shared, INFO, phase = "draining", open, timeout = ?self.timeouts.drain, "draining");
    }

    // The pid file.

    fn take_over(&mut self) -> Event {
        if let Some(pidfile) = &self.pidfile {
            if let Err(error) = pidfile.publish() {
                let problem = pidfile_error(pidfile, &error);
                // Where it does not fail the start, which says why, the service goes on without.
                if self.state.predecessor == Predecessor::Gone {
                    complain!(self.shared, "{problem}");
                }
                self.reason = Some(problem);
                return Event::PidfileFailed;
            }
        }
        tell!(self.shared, INFO, phase = "serving", listeners = self.held.len(), "serving");
        self.shared.serving.set(true);
        Event::TookOver
    }

    fn take_back(&self) {
        let Some(pidfile) = &self.pidfile else { return };
        if pidfile.named() != Some(self.shared.pid) {
            if let Err(error) = pidfile.publish() {
                complain!(self.shared, "{}", pidfile_error(pidfile, &error));
            }
        }
    }

    /// Notes that a related process is dead, and removes the pid file that it may have staged.
    fn known_dead(&mut self, pid: u32) {
        self.dead.push(pid);
        if let Some(pidfile) = &self.pidfile {
            pidfile.unstage_of(pid);
        }
    }

    // The end.

    fn end(&mut self, end: End) {
        self.bury_successor();
        if let End::NotStarted(_) = end {
            self.held.iter().filter(|held| held.created).for_each(|held| unlink(&self.shared, held));
        } else if matches!(end, End::Final | End::RescueFailed) {
            self.held.iter().for_each(|held| unlink(&self.shared, held));
        }
        if let Some(pidfile) = &self.pidfile {
            pidfile.unstage();
            let ours: Vec<u32> = self.dead.iter().copied().chain([self.shared.pid]).collect();
            if let Err(error) = pidfile.remove_if_names(&ours) {
                complain!(self.shared, "cannot remove the pid file {}: {error}", pidfile.path().display());
            }
        }
        for reply in self.waiting.drain(..) {
            reply.set(Err(UpgradeError::Terminating));
        }
        self.verdict = Some(match end {
            End::Final | End::Replaced | End::NotStarted(None) => Verdict::Success,
            End::NotStarted(Some(failure)) => {
                let reason = self.start_failure(failure);
                complain!(self.shared, "cannot start: {reason}");
                Verdict::Failure
            }
            End::RescueFailed => {
                complain!(self.shared, "the service is down: no attempt to start it again worked");
                Verdict::Failure
            }
            // It takes a second signal, which only a process gets.
            End::AtOnce => {
                complain!(self.shared, "told to stop a second time; ending at once");
                signals::die_of(self.stopping.unwrap_or(Signal::SIGTERM));
            }
        });
        tell!(self.shared, INFO, phase = "ended", "exiting");
    }

    /// Reaps a successor that is dead or has just been killed, and asks whether the predecessor still lives, so
    /// that a pid file which names one of them is known to be stale.
    fn bury_successor(&mut self) {
        if let Some(parent) = &mut self.parent {
            while let Ok(Received::Message(..) | Received::Unknown(_)) = parent.channel.receive() {}
            if let Ok(Received::End) = parent.channel.receive() {
                let pid = parent.pid;
                self.known_dead(pid);
            }
        }
        let Some(successor) = &self.successor else { return };
        let unwanted = self.stopping.is_some() && successor.active_after.is_none();
        let deadline = Instant::now() + if unwanted { DEATH_AFTER_END } else { Duration::ZERO };
        let mut fds = [PollFd::new(successor.child.as_fd(), PollFlags::POLLIN)];
        match poll::until(&mut fds, Some(deadline)) {
            Ok(()) | Err(_) => {}
        }
        if successor.child.reap().is_some() {
            let pid = successor.child.pid();
            self.known_dead(pid);
        }
    }
}

fn unlink(shared: &Shared, held: &Held) {
    if let Err(error) = held.unlink() {
        complain!(shared, "cannot remove {}: {error}", held.address.identity());
    }
}

fn pidfile_error(pidfile: &Pidfile, error: &io::Error) -> String {
    format!("cannot write the pid file {}: {error}", pidfile.path().display())
}
