//! What operators and faults do to the processes.

use super::world::{Message, World};
use crate::lifecycle::event::Event as E;
use crate::lifecycle::phase::Phase as P;

impl World {
    /// Every world that follows from a request of an operator, or from a fault.
    pub(super) fn disturb(&self) -> Vec<World> {
        let mut next = Vec::new();
        for (who, process) in self.processes.iter().enumerate().filter(|(_, process)| process.alive) {
            // SIGCONT.
            if process.stalled {
                let mut world = self.clone();
                world.processes[who].stalled = false;
                next.push(world);
                continue;
            }
            if let Some(parent) = self.living_parent(who).filter(|_| self.faults > 0) {
                next.extend(self.break_successor(who, parent));
            }
            if process.is_over() {
                continue;
            }
            next.extend(self.operate(who));
            if self.faults > 0 {
                next.extend(self.break_process(who));
            }
        }
        next
    }

    /// The requests to upgrade, to revert and to stop.
    fn operate(&self, who: usize) -> Vec<World> {
        let mut next = Vec::new();
        if self.upgrades > 0 {
            let mut world = self.clone();
            world.upgrades -= 1;
            next.extend(world.feed(who, E::Upgrade));
        }
        if self.reverts > 0 {
            let mut world = self.clone();
            world.reverts -= 1;
            next.extend(world.feed(who, E::Revert));
        }
        if self.stops > 0 {
            let mut world = self.clone();
            world.stops -= 1;
            world.stopped = true;
            world.main_stopped |= world.main_process == Some(who);
            let none_serves = world.alive().all(|process| !process.open);
            let is_named = none_serves && world.pidfile == Some(who);
            world.server_stopped |= world.processes[who].open || is_named;
            next.extend(world.feed(who, E::Stop));
        }
        next
    }

    /// The faults that every search tries.
    fn break_process(&self, who: usize) -> Vec<World> {
        let process = &self.processes[who];
        let mut next = vec![self.crash(who)];
        let mut world = self.clone();
        world.spend_fault(who);
        match process.state.phase {
            P::Starting => next.extend(world.feed(who, E::NotReady)),
            P::Checking => next.extend(world.feed(who, E::CheckFailed)),
            P::Probing => {
                let mut world = world.clone();
                world.processes[who].probing = false;
                next.extend(world.feed(who, E::ProbeFailed));
            }
            P::Standby(_) if process.verifying => next.extend(world.feed(who, E::VerifyFailed)),
            // A thread is stuck in an accept.
            P::Yielding => {
                let mut world = world.clone();
                world.processes[who].pausing = false;
                next.extend(world.feed(who, E::ChannelLost));
            }
            _ => {}
        }
        if matches!(process.state.phase, P::Starting | P::Prepared) && process.parent.is_some() {
            next.extend(world.feed(who, E::ChannelLost));
        }
        // A prepared successor may turn out to be another service.
        if process.from_child.front() == Some(&Message::Prepared) {
            let mut world = world.clone();
            world.processes[who].from_child.pop_front();
            if let Some(child) = process.child {
                world.processes[child].refused = true;
            }
            next.extend(world.feed(who, E::Refused));
        }
        // In a drain the return of the body is no fault: `end_drain` has it.
        if !process.state.body_gone && !process.draining {
            let mut world = world.clone();
            // The remnant never serves again, so the body ends the service.
            world.stopped |= process.state.remnant && process.open;
            next.extend(world.feed(who, E::BodyReturned));
        }
        if self.extra_faults.stall && matches!(process.state.phase, P::Recalling { .. }) {
            let mut world = world.clone();
            world.processes[who].stalled = true;
            next.push(world);
        }
        let timers = process.timers.iter().filter(|timer| process.is_fault(**timer));
        next.extend(timers.flat_map(|timer| world.fire(who, *timer)));
        if self.living_child(who).is_some() && !process.channel_broken {
            world.break_channel(who);
            next.extend(world.feed(who, E::ChannelLost));
        }
        next
    }

    fn break_channel(&mut self, who: usize) {
        self.processes[who].channel_broken = true;
        self.processes[who].from_child.clear();
        self.message_lost = true;
    }

    /// The faults of a successor that a search tries only if [`World::extra_faults`] has them.
    fn break_successor(&self, who: usize, parent: usize) -> Vec<World> {
        let process = &self.processes[who];
        let predecessor = &self.processes[parent];
        let mut next = Vec::new();
        let mut faulty = self.clone();
        faulty.spend_fault(who);
        let is_on_trial = predecessor.child == Some(who)
            && !matches!(predecessor.state.phase, P::Draining(_) | P::Ended | P::Announcing { .. });
        if self.extra_faults.stall && is_on_trial {
            let mut world = faulty.clone();
            world.processes[who].stalled = true;
            next.push(world);
        }
        if self.extra_faults.fork && !process.is_over() && process.forked.is_none() {
            let mut world = faulty.clone();
            world.processes[who].forked = Some(false);
            next.push(world);
        }
        if self.extra_faults.cut && process.cut.is_none() {
            let mut world = faulty;
            world.processes[who].cut = Some(false);
            world.break_channel(parent);
            if predecessor.is_over() {
                next.push(world);
            } else {
                next.extend(world.feed(parent, E::ChannelLost));
            }
        }
        next
    }
}
