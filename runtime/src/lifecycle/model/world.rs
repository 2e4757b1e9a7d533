//! The processes of a service, and the world around them.

use std::collections::{BTreeSet, VecDeque};

use crate::lifecycle::action::Action as A;
use crate::lifecycle::event::Timer;
use crate::lifecycle::phase::{Drain, Phase as P};
use crate::lifecycle::{Overlap, Predecessor, State};

/// The faults, besides crashes and the like, that a search tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Faults {
    /// SIGSTOP of a successor, or of a predecessor that recalls the service.
    pub(super) stall: bool,
    /// A successor that forks, and whose first process exits.
    pub(super) fork: bool,
    /// An end of the channel although both processes live.
    pub(super) cut: bool,
}

/// The bounds of a search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) upgrades: u8,
    pub(super) stops: u8,
    pub(super) reverts: u8,
    pub(super) faults: u8,
    pub(super) overlap: Overlap,
    /// There is a service manager.
    pub(super) managed: bool,
    pub(super) extra: Faults,
}

impl Budget {
    pub(super) const fn and_reverts(self, reverts: u8) -> Self {
        Self { reverts, ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Message {
    // To the successor.
    Commit,
    Stop,
    Followed,
    Ping,
    Recall,
    Resumed,
    Declined,
    // To the predecessor.
    Prepared,
    Active,
    Failed,
    Leaving,
    Alive,
    AskedBack,
    Yielded,
    NotYielded,
    // To either.
    Hasten,
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) state: State,
    pub(super) alive: bool,
    pub(super) open: bool,
    /// The index of the successor that is not reaped yet.
    pub(super) child: Option<usize>,
    pub(super) parent: Option<usize>,
    /// Messages on their way to this process.
    pub(super) from_parent: VecDeque<Message>,
    pub(super) from_child: VecDeque<Message>,
    pub(super) channel_broken: bool,
    pub(super) timers: BTreeSet<Timer>,
    /// The gates are closed, and a thread is still inside one.
    pub(super) pausing: bool,
    pub(super) draining: bool,
    /// The probe of the successor has no answer yet.
    pub(super) probing: bool,
    /// The verification of the successor goes on.
    pub(super) verifying: bool,
    /// Open connections may move to the successor.
    pub(super) moving: bool,
    /// The predecessor has started this process in a rescue.
    pub(super) is_rescue: bool,
    /// This process has given its predecessor the sign of life at the end of the probation.
    pub(super) has_answered: bool,
    /// The manager was asked to follow the successor. `true`: it has confirmed, and this process does not know it yet.
    pub(super) announced: Option<bool>,
    /// Every process that this process has reaped.
    pub(super) reaped: BTreeSet<usize>,
    /// SIGSTOP: the process lives and does nothing.
    pub(super) stalled: bool,
    /// The first process has exited, and this is its fork. `true`: the parent knows it.
    pub(super) forked: Option<bool>,
    /// The channel to the parent has ended although the parent lives. `true`: this process knows it.
    pub(super) cut: Option<bool>,
    /// The parent has found that this process is another service.
    pub(super) refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) processes: Vec<Process>,
    pub(super) pidfile: Option<usize>,
    /// The requests to upgrade, to revert and to stop, and the faults that are left.
    pub(super) upgrades: u8,
    pub(super) reverts: u8,
    pub(super) stops: u8,
    pub(super) faults: u8,
    pub(super) extra_faults: Faults,
    pub(super) managed: bool,
    /// The token of a revert: `true` while no process has taken it.
    pub(super) token: Option<bool>,
    /// The process that the manager follows.
    pub(super) main_process: Option<usize>,
    /// A request to stop has reached any process.
    pub(super) stopped: bool,
    /// A request to stop has reached the process that serves. While none serves, it is the process that the pid file names.
    pub(super) server_stopped: bool,
    /// The manager has asked the process that it follows to stop.
    pub(super) main_stopped: bool,
    /// A fault, or a second request to stop, has happened.
    pub(super) disturbed: bool,
    /// A fault has hit the only process, or every attempt of a rescue: the service cannot survive that.
    pub(super) unrecoverable: bool,
    /// A crash or the end of a channel may have lost a message.
    pub(super) message_lost: bool,
    /// A fault has prevented the write of the pid file.
    pub(super) pidfile_fault: bool,
    /// A process has removed the Unix paths of the service.
    pub(super) paths_removed: bool,
    /// A process has reported a success although it knew of a failure.
    pub(super) false_report: bool,
    /// The process that the manager follows has ended before another one.
    pub(super) main_ended_first: bool,
    /// A process has killed its successor while connections could move to it.
    pub(super) killed_while_moving: bool,
}

fn process(predecessor: Predecessor, parent: Option<usize>, overlap: Overlap, managed: bool) -> Process {
    let (state, actions) = State::new(predecessor, overlap, managed);
    assert_eq!(actions, [A::Arm(Timer::Upgrade)]);
    Process {
        state,
        alive: true,
        open: false,
        child: None,
        parent,
        from_parent: VecDeque::new(),
        from_child: VecDeque::new(),
        channel_broken: false,
        timers: BTreeSet::from([Timer::Upgrade]),
        pausing: false,
        draining: false,
        probing: false,
        verifying: false,
        moving: false,
        is_rescue: false,
        has_answered: false,
        announced: None,
        reaped: BTreeSet::new(),
        stalled: false,
        forked: None,
        cut: None,
        refused: false,
    }
}

impl Process {
    /// Whether the expiry of this timer is, or follows from, a fault: a manager that does not confirm in time, a process that
    /// exceeds its own deadline, or a successor without a sign of life.
    pub(super) fn is_fault(&self, timer: Timer) -> bool {
        let is_late = matches!(timer, Timer::Announce | Timer::Remnant);
        let is_silent = timer == Timer::Upgrade && matches!(self.state.phase, P::Standby(_));
        is_late || is_silent || matches!(self.state.phase, P::Draining(Drain::Last { .. }))
    }

    /// The life cycle has ended, and the process lives.
    pub(super) fn is_over(&self) -> bool {
        self.alive && self.state.phase == P::Ended
    }

    /// Whether the drain of this process is over and its rescue is not.
    pub(super) fn has_drained(&self) -> bool {
        matches!(self.state.phase, P::Draining(Drain::Rescue { finished: true, .. }))
    }
}

impl World {
    pub(super) fn new(budget: Budget) -> World {
        let Budget { upgrades, stops, reverts, faults, overlap, managed, extra: extra_faults } = budget;
        World {
            processes: vec![process(Predecessor::None, None, overlap, managed)],
            pidfile: None,
            upgrades,
            reverts,
            stops,
            faults,
            extra_faults,
            managed,
            token: None,
            main_process: managed.then_some(0),
            stopped: false,
            server_stopped: false,
            main_stopped: false,
            disturbed: false,
            unrecoverable: false,
            message_lost: false,
            pidfile_fault: false,
            paths_removed: false,
            false_report: false,
            main_ended_first: false,
            killed_while_moving: false,
        }
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| process.alive)
    }

    /// The successor of this process, if it lives.
    pub(super) fn living_child(&self, who: usize) -> Option<usize> {
        self.processes[who].child.filter(|child| self.processes[*child].alive)
    }

    /// The predecessor of this process, if it lives.
    pub(super) fn living_parent(&self, who: usize) -> Option<usize> {
        self.processes[who].parent.filter(|parent| self.processes[*parent].alive)
    }

    pub(super) fn add_successor(&mut self, who: usize, is_rescue: bool) {
        assert!(self.processes[who].child.is_none(), "a successor beside a successor: {self:#?}");
        let child = self.processes.len();
        let overlap = self.processes[who].state.overlap;
        self.processes.push(process(Predecessor::Alive, Some(who), overlap, self.managed));
        self.processes[child].is_rescue = is_rescue;
        let parent = &mut self.processes[who];
        parent.child = Some(child);
        parent.channel_broken = false;
        parent.from_child.clear();
    }

    /// A fault of this process. Without another process that can serve, the service cannot survive it.
    pub(super) fn spend_fault(&mut self, who: usize) {
        self.faults -= 1;
        self.disturbed = true;
        let could_serve = |process: &Process| {
            let is_able = !process.stalled && process.cut.is_none() && !process.refused;
            process.alive && !process.is_over() && is_able
        };
        let mut others = self.processes.iter().enumerate().filter(|(at, _)| *at != who);
        self.unrecoverable |= !others.any(|(_, process)| could_serve(process));
    }

    /// A crash: a fault that kills the process, and may lose its messages.
    pub(super) fn crash(&self, who: usize) -> World {
        let mut world = self.clone();
        world.spend_fault(who);
        world.message_lost = true;
        world.die(who);
        world.forget_the_dead();
        world
    }

    pub(super) fn die(&mut self, who: usize) {
        let process = &mut self.processes[who];
        process.alive = false;
        process.open = false;
        process.pausing = false;
        process.probing = false;
        process.verifying = false;
        process.moving = false;
        process.timers.clear();
        process.from_parent.clear();
        process.from_child.clear();
        process.stalled = false;
        process.forked = None;
        process.cut = None;
    }

    /// Drops the dead processes that no other process, file or manager refers to, and what only a dead predecessor asks for. Worlds
    /// that differ in them alone are one state.
    pub(super) fn forget_the_dead(&mut self) {
        let may_need_token = |process: &Process| {
            matches!(process.state.phase, P::Yielding | P::Yielded)
                || process.from_child.contains(&Message::Yielded)
        };
        if !self.alive().any(may_need_token) {
            self.token = None;
        }
        for who in 0..self.processes.len() {
            if self.living_parent(who).is_none() {
                self.processes[who].is_rescue = false;
                self.processes[who].has_answered = false;
            }
        }
        let keep: Vec<bool> = (0..self.processes.len())
            .map(|who| {
                self.processes[who].alive
                    || self.pidfile == Some(who)
                    || self.main_process == Some(who)
                    || self.alive().any(|process| process.child == Some(who) || process.parent == Some(who))
            })
            .collect();
        let to = |who: usize| keep[who].then(|| keep[..who].iter().filter(|kept| **kept).count());
        self.pidfile = self.pidfile.and_then(to);
        self.main_process = self.main_process.and_then(to);
        let mut index = 0..;
        self.processes.retain(|_| index.next().is_some_and(|who| keep[who]));
        for process in &mut self.processes {
            if !process.alive {
                *process = Process {
                    alive: false,
                    timers: BTreeSet::new(),
                    ..self::process(Predecessor::None, None, Overlap::Refuse, false)
                };
            }
            process.child = process.child.and_then(to);
            process.parent = process.parent.and_then(to);
            process.reaped = process.reaped.iter().copied().filter_map(to).collect();
        }
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (who, process) in self.processes.iter().enumerate() {
            let life = if process.alive { "" } else { "dead " };
            let gates = if process.open { " open" } else { "" };
            write!(f, "{who}: {life}{:?}{gates}", process.state.phase)?;
            let marks = [process.stalled, process.forked.is_some(), process.cut.is_some()];
            for (_, mark) in marks.iter().zip([" stalled", " forked", " cut"]).filter(|(is_set, _)| **is_set)
            {
                write!(f, "{mark}")?;
            }
            write!(f, " down {:?} up {:?}; ", process.from_parent, process.from_child)?;
        }
        write!(f, "pid file {:?}, faults left {}", self.pidfile, self.faults)
    }
}
