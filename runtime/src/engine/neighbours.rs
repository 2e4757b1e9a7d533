//! The processes around this one, as the engine knows them: the predecessor, the successor, the service manager and the clients of the
//! control socket; and the upgrade that is under way. Data, and what each can say of itself: the engine's part is in `upgrade/`.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::base::identity::{Identity, PredecessorOffer};
use crate::base::report::{RateLimit, printable};
use crate::base::status::{self, LastDrain, Release, UpgradeRecord, Upgrades};
use crate::between::gate_control::ControlSocket;
use crate::between::note::{Order, RevertReply, UpgradeReply};
use crate::lifecycle::{Known, Predecessor};
use crate::outside::handover::channel::Channel;
use crate::outside::preflight::Check;
use crate::outside::probe::ProbeClient;
use crate::outside::spawner::{Child, Spawner};
use crate::outside::systemd::Manager;
use crate::sys::pidfd::{Holder, is_dead};
use crate::sys::poll;
use crate::sys::token::Token;

/// How long after the end of its channel a successor may take to be dead: the kernel closes descriptors first.
pub(super) const DEATH_AFTER_END: Duration = Duration::from_millis(500);

/// What a process needs for an upgrade, and what it knows of the other processes.
pub(crate) struct Neighbours {
    pub(crate) spawner: Box<dyn Spawner>,
    pub(crate) predecessor: Option<PredecessorLink>,
    pub(crate) successor: Option<Successor>,
    pub(crate) manager: Option<ManagerLink>,
    /// The service manager follows the generations itself, and not a supervisor.
    pub(crate) follows: bool,
    pub(crate) control: Option<Arc<dyn ControlSocket>>,
    pub(crate) upgrade: Upgrade,
    pub(crate) revert: Revert,
    /// Predecessors and successors that are dead: a pid file that names one of them is stale.
    pub(crate) dead: Vec<u32>,
    /// The phase that the clients of the control socket were last told.
    pub(crate) told_phase: status::Phase,
    /// What the successor was told of the connections that are open here.
    pub(crate) told_open: Option<ToldOpen>,
    /// The last upgrades of the service, the oldest first.
    pub(crate) history: VecDeque<UpgradeRecord>,
    /// The drain of a neighbour that has told it.
    pub(crate) last_drain: Option<LastDrain>,
    /// How many connections and guards the drains of other generations have cut.
    pub(crate) aborted: u64,
    /// Warnings of the start, logged once this process serves.
    pub(crate) warnings: Vec<String>,
    pub(crate) cannot_wait: RateLimit,
    /// A neighbour has sent a message that it does not send at this point.
    pub(crate) unexpected: RateLimit,
    /// A process that a successor has left behind cannot be ended.
    pub(crate) cannot_end: RateLimit,
}

impl Neighbours {
    pub(crate) fn new(
        spawner: Box<dyn Spawner>,
        predecessor: Option<PredecessorLink>,
        follows: bool,
    ) -> Self {
        let aborted = predecessor.as_ref().map_or(0, |predecessor| predecessor.offered.aborted);
        Self {
            spawner,
            predecessor,
            successor: None,
            manager: None,
            follows,
            control: None,
            upgrade: Upgrade::default(),
            revert: Revert::default(),
            dead: Vec::new(),
            told_phase: status::Phase::Starting,
            told_open: None,
            history: VecDeque::new(),
            last_drain: None,
            aborted,
            warnings: Vec::new(),
            cannot_wait: RateLimit::default(),
            unexpected: RateLimit::default(),
            cannot_end: RateLimit::default(),
        }
    }

    /// The predecessor as the life cycle knows it at the beginning.
    pub(crate) fn first(&self, had_predecessor: bool) -> Predecessor {
        match (&self.predecessor, had_predecessor) {
            (Some(_), _) => Predecessor::Alive,
            (None, true) => Predecessor::Gone,
            (None, false) => Predecessor::None,
        }
    }
}

/// What a successor was told of the connections that are open here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToldOpen {
    /// The number, and the deadline of the drain, as the successor knows them. `None` if no message fitted into the socket.
    pub(crate) told: Option<(u64, DrainEnd)>,
    /// When it was last tried.
    pub(crate) at: Instant,
}

/// The end of a drain, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainEnd {
    /// There is no drain, or the release that drains does not say it.
    NotTold,
    At(Instant),
    /// The drain has no deadline.
    Never,
}

/// The upgrade that is under way, and what is left of those before it.
#[derive(Default)]
pub(crate) struct Upgrade {
    /// The check that is under way, and the checks that were ended and are not reaped yet.
    pub(crate) check: Option<Check>,
    pub(crate) ended_checks: Vec<Check>,
    /// The probe that is under way.
    pub(crate) probe: Option<ProbeClient>,
    /// The command that checks the successor on probation.
    pub(crate) verification: Option<Verification>,
    /// The time of the request.
    pub(crate) requested: Option<Instant>,
    /// The request that is made at this moment. A signal has no caller that waits for an answer.
    pub(crate) asking: Option<(Option<Arc<UpgradeReply>>, Order)>,
    /// The callers that wait for the outcome of the upgrade under way.
    pub(crate) waiting: Vec<Arc<UpgradeReply>>,
    /// What the last request that was not refused asks for.
    pub(crate) order: Order,
    /// The file that was to be started.
    pub(crate) target: Option<String>,
    /// The successor that died last.
    pub(crate) dead_successor: DeadSuccessor,
    pub(crate) counts: Upgrades,
}

/// The runs of the command that checks a successor on probation.
pub(crate) struct Verification {
    pub(crate) command: OsString,
    /// The run that is under way.
    pub(crate) run: Option<VerifyRun>,
    /// When the next one begins.
    pub(crate) next: Option<Instant>,
    /// A run has ended well.
    pub(crate) has_passed: bool,
}

/// A run, and the end of its time.
pub(crate) struct VerifyRun {
    pub(crate) check: Check,
    pub(crate) deadline: Option<Instant>,
}

impl Upgrade {
    /// The time since the request.
    pub(crate) fn elapsed(&self) -> Duration {
        self.requested.map(|requested| requested.elapsed()).unwrap_or_default()
    }
}

/// The revert that is under way.
#[derive(Default)]
pub(crate) struct Revert {
    /// The caller that asks at this moment, and the callers that wait for the outcome, each with the time of its request.
    pub(crate) asking: Option<(Arc<RevertReply>, Instant)>,
    pub(crate) waiting: Vec<(Arc<RevertReply>, Instant)>,
    /// Why the successor does not give the service back.
    pub(crate) not_yielded: Option<String>,
    /// The token of this process, from the moment when its gates are to close.
    pub(crate) token: Option<Token>,
}

/// The process that started this one, and the channel to it.
#[derive(Debug)]
pub(crate) struct PredecessorLink {
    pub(crate) channel: Channel,
    pub(crate) offered: PredecessorOffer,
    /// How many connections and guards are open in it, as it said last.
    pub(crate) open: Option<u64>,
    /// The end of its drain, as it said last.
    pub(crate) drain_end: DrainEnd,
    /// The places in its offer of the sockets that were adopted, and the names of their listeners here.
    pub(crate) adopted: Vec<(usize, String)>,
    /// Readable, or hung up, once it is dead. Without it the end of the channel counts as its death.
    pub(crate) watch: Option<OwnedFd>,
    /// The channel has reached its end.
    pub(crate) is_at_its_end: bool,
    /// When it must be dead, after the end of the channel. `None` if it is over.
    pub(crate) dead_by: Option<Instant>,
    /// The unserved listeners that it was last told.
    pub(crate) told_unserved: Option<Vec<String>>,
    /// It has asked for a sign of life: the probation is over.
    pub(crate) was_pinged: bool,
    /// It waits for a sign of life.
    pub(crate) waits_for_pulse: bool,
}

impl PredecessorLink {
    pub(crate) fn new(offered: PredecessorOffer, channel: Channel, watch: Option<OwnedFd>) -> Self {
        let (open, adopted, told_unserved, dead_by) = (None, Vec::new(), None, None);
        Self {
            channel,
            offered,
            open,
            drain_end: DrainEnd::NotTold,
            adopted,
            watch,
            is_at_its_end: false,
            dead_by,
            told_unserved,
            was_pinged: false,
            waits_for_pulse: false,
        }
    }

    /// The reason of a start that fails because the predecessor has closed the channel.
    pub(crate) fn lost(&self) -> String {
        format!(
            "the predecessor, process {}, closed the channel and lives; it may still serve",
            self.offered.pid
        )
    }
}

/// The process that this one has started in an upgrade or a rescue.
pub(crate) struct Successor {
    pub(crate) child: Box<dyn Child>,
    /// How the started process ended, once it is reaped.
    pub(crate) exited: Option<String>,
    /// The life cycle knows that the started process is reaped while the channel is open.
    pub(crate) is_forked: bool,
    /// The process that sends its messages, if it is not the started one: behind a wrapper, or a fork.
    pub(crate) speaker: Option<Holder>,
    /// The numbers of the other processes that have sent its messages or had its end of the channel. None of them outlives the channel.
    pub(crate) others: HashSet<u32>,
    pub(crate) channel: Channel,
    /// The inode of its end of the channel, and that of this process's end.
    pub(crate) inodes: [u64; 2],
    pub(crate) is_killed: bool,
    /// The channel is unusable. It stays open until the successor is dead, which would take its end for the death of this process.
    pub(crate) is_cut_off: bool,
    /// No process has its end of the channel any more.
    pub(crate) is_at_its_end: bool,
    /// When the processes that it has left behind are looked for next, once its known processes are dead.
    pub(crate) next_look: Option<Instant>,
    pub(crate) generation: u64,
    /// The time from the request to `ACTIVE`.
    pub(crate) active_after: Option<Duration>,
    /// How long it may drain, once it has given the service back.
    pub(crate) drain: Option<Duration>,
    /// Its name, program and version.
    pub(crate) identity: Identity,
    /// The file that it runs, once it has said who it is.
    pub(crate) executable: Option<String>,
    /// Why its body ended, if it served by then.
    pub(crate) last_words: Option<String>,
    /// What the service loses by the upgrade. Logged when the upgrade has succeeded.
    pub(crate) warnings: Vec<String>,
    /// The names of the listeners that it has adopted.
    pub(crate) adopted: HashSet<String>,
    /// The listeners that its body has not asked for a connection yet. `None` before its first message.
    pub(crate) unserved: Option<Vec<String>>,
}

/// What an outcome says of a dead successor.
#[derive(Debug, Default)]
pub(crate) struct DeadSuccessor {
    /// This process has killed it.
    pub(crate) is_killed: bool,
    /// `None` in a test, where all services are one process.
    pub(crate) pid: Option<u32>,
    pub(crate) release: Release,
    pub(crate) last_words: Option<String>,
    pub(crate) unserved: Option<Vec<String>>,
}

impl Successor {
    /// A successor that was just started.
    pub(crate) fn new(child: Box<dyn Child>, channel: Channel, inodes: [u64; 2], generation: u64) -> Self {
        Self {
            child,
            exited: None,
            is_forked: false,
            speaker: None,
            others: HashSet::new(),
            channel,
            inodes,
            is_killed: false,
            is_cut_off: false,
            is_at_its_end: false,
            next_look: None,
            generation,
            active_after: None,
            drain: None,
            identity: Identity::default(),
            executable: None,
            last_words: None,
            warnings: Vec::new(),
            adopted: HashSet::new(),
            unserved: None,
        }
    }

    /// What it runs, as far as it has said it.
    pub(crate) fn release(&self) -> Release {
        Release { version: self.identity.version.clone(), executable: self.executable.clone() }
    }

    /// The process that sends its messages. Before the first one, the started process.
    pub(crate) fn pid(&self) -> u32 {
        self.speaker.as_ref().map_or_else(|| self.child.pid(), |speaker| speaker.pid)
    }

    /// The pidfds of its known processes that live. Each is readable once its process is dead.
    pub(crate) fn living(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let child = self.exited.is_none().then(|| self.child.as_fd());
        let speaker = self.speaker.as_ref().map(Holder::as_fd).filter(|speaker| !is_dead(*speaker));
        child.into_iter().chain(speaker)
    }

    /// The number of the process that has sent its messages, if that is dead.
    pub(crate) fn dead_speaker(&self) -> Option<u32> {
        self.speaker.as_ref().filter(|speaker| is_dead(speaker.as_fd())).map(|speaker| speaker.pid)
    }

    /// Sends SIGKILL to its known processes. The processes that these have forked are killed later.
    pub(crate) fn kill(&mut self) {
        self.is_killed = true;
        if self.exited.is_none() {
            self.child.kill();
        }
        if let Some(speaker) = &self.speaker {
            speaker.kill();
        }
    }

    /// Reaps the process that was started, if it is dead.
    pub(crate) fn reap(&mut self) {
        if self.exited.is_none() {
            self.exited = self.child.reap();
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.living().next().is_none()
    }

    /// Notes the sender of the last message. If it lives, it has the end of the channel.
    pub(crate) fn learn_speaker(&mut self) {
        let Some(sender) = self.channel.sender().filter(|sender| *sender != self.pid()) else { return };
        self.speaker = if sender == self.child.pid() {
            None
        } else {
            // It may be dead when its message is read. Only this set knows its number then.
            self.others.insert(sender);
            Holder::of(sender, self.inodes[0])
        };
    }

    pub(crate) fn wait_until_dead(&mut self, deadline: Instant) {
        self.reap();
        while !self.is_dead() && Instant::now() < deadline {
            let mut fds: Vec<_> = self.living().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match poll::until(&mut fds, Some(deadline)) {
                Ok(()) | Err(_) => {}
            }
            self.reap();
        }
    }
}

/// The service manager, and what it was told.
pub(crate) struct ManagerLink {
    pub(crate) manager: Manager,
    pub(crate) known: Known,
    /// Why the last upgrade failed, until the next.
    pub(crate) failure: Option<String>,
    pub(crate) stored: bool,
    /// The names and addresses of the listeners that the predecessor has offered, and may have stored.
    pub(crate) offered: Vec<(String, String)>,
    pub(crate) next_sign: Option<Instant>,
    pub(crate) next_extension: Option<Instant>,
    /// When it is told once more what it may have refused, and the time since the last try.
    pub(crate) next_try: Option<(Instant, Duration)>,
}

impl ManagerLink {
    pub(crate) fn new(manager: Manager, offered: Vec<(String, String)>) -> Self {
        Self {
            manager,
            known: Known::Starting,
            failure: None,
            stored: false,
            offered,
            next_sign: None,
            next_extension: None,
            next_try: None,
        }
    }

    /// Sends READY=1 again later. The process that the manager follows has died without a MAINPID message. The manager finds this one by the pid
    /// file, if the unit has `PIDFile=`. Until then it refuses the messages of this process. It does not say when it has.
    pub(crate) fn retry_ready(&mut self) {
        self.next_try = Some((Instant::now() + FIRST_TRY, FIRST_TRY));
    }

    /// The time of the next message.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let next_try = self.next_try.map(|(at, _)| at);
        self.next_sign.into_iter().chain(self.next_extension).chain(next_try).min()
    }

    /// Whether this process serves, and sends the messages of the service.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.known, Known::Ready | Known::Reloading)
    }

    pub(crate) fn tell_ready(&mut self, generation: u64) {
        let failure = self.failure.as_deref();
        let failure = failure.map(|reason| format!("; the last upgrade failed: {}", printable(reason)));
        let failure = failure.unwrap_or_default();
        self.manager.tell(format!("READY=1\nSTATUS=generation {generation} serves{failure}"));
    }

    pub(crate) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let barrier = self.manager.barrier().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let blocked = self.manager.blocked().map(|fd| PollFd::new(fd, PollFlags::POLLOUT));
        barrier.into_iter().chain(blocked)
    }
}

/// The first and the last pause before `READY=1` is sent again to a manager that may have refused it. Each pause is four times the one
/// before.
const FIRST_TRY: Duration = Duration::from_millis(100);

pub(super) const LAST_TRY: Duration = Duration::from_secs(10);
