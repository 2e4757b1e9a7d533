//! What happens without an operator and without a fault.

use super::world::{Message, World};
use crate::lifecycle::Predecessor;
use crate::lifecycle::event::{Event as E, Timer};
use crate::lifecycle::phase::Phase as P;

impl World {
    /// Every world that follows by itself. A world is settled when no other world follows.
    pub(super) fn progress(&self) -> Vec<World> {
        let mut next = Vec::new();
        for (who, process) in self.processes.iter().enumerate() {
            if !process.alive || process.stalled {
                continue;
            }
            if process.is_over() {
                let mut world = self.clone();
                world.exit(who);
                world.forget_the_dead();
                next.push(world);
                continue;
            }
            let mut arrivals = self.receive_from_predecessor(who);
            arrivals.extend(self.receive_from_successor(who));
            // The engine fires a timer, or accepts the end of the drain, only when nothing has arrived: a message, an end of file
            // and a death come first.
            let has_arrivals = !arrivals.is_empty();
            next.extend(arrivals);
            next.extend(self.go_on(who));
            if !has_arrivals {
                next.extend(self.end_drain(who));
                next.extend(self.fire_timers(who));
            }
        }
        next
    }

    fn receive_from_predecessor(&self, who: usize) -> Vec<World> {
        let process = &self.processes[who];
        if let Some(message) = process.from_parent.front() {
            let mut world = self.clone();
            world.processes[who].from_parent.pop_front();
            return match message {
                Message::Commit => world.feed(who, E::Commit),
                Message::Stop => world.feed(who, E::Stop),
                Message::Followed => world.feed(who, E::Followed),
                Message::Over => world.feed(who, E::PredecessorOver),
                Message::Recall => world.feed(who, E::Recall),
                Message::Resumed => world.feed(who, E::Resumed),
                Message::Declined => world.feed(who, E::Declined),
                Message::Hasten => world.feed(who, E::Hasten),
                // The engine answers in every phase.
                Message::Ping => {
                    world.processes[who].has_answered = true;
                    world.send_to_predecessor(who, Message::Alive);
                    vec![world]
                }
                other => unreachable!("{other:?} to a successor"),
            };
        }
        let runs = matches!(process.state.predecessor, Predecessor::Alive | Predecessor::Over);
        if runs && self.living_parent(who).is_none() {
            return self.feed(who, E::PredecessorGone);
        }
        if process.cut == Some(false) {
            let mut world = self.clone();
            world.processes[who].cut = Some(true);
            return world.feed(who, E::PredecessorLost);
        }
        Vec::new()
    }

    fn receive_from_successor(&self, who: usize) -> Vec<World> {
        let process = &self.processes[who];
        if let Some(message) = process.from_child.front() {
            let mut world = self.clone();
            world.processes[who].from_child.pop_front();
            let event = match message {
                Message::Prepared => E::Prepared,
                Message::Active => E::Active,
                Message::Failed => E::Failed,
                Message::Leaving => E::Leaving,
                Message::Hasten => E::Hasten,
                Message::Alive => E::Alive,
                Message::AskedBack => E::AskedBack,
                Message::NotYielded => E::NotYielded,
                // The engine takes the token only of a successor that it has asked.
                Message::Yielded if !matches!(process.state.phase, P::Recalling { .. }) => E::Yielded,
                Message::Yielded if world.token.replace(false) == Some(true) => E::Yielded,
                Message::Yielded => E::YieldedInVain,
                Message::Over => E::SuccessorOver,
                other => unreachable!("{other:?} to a predecessor"),
            };
            return world.feed(who, event);
        }
        let Some(child) = process.child else { return Vec::new() };
        let mut next = Vec::new();
        if self.processes[child].alive {
            if self.processes[child].forked == Some(false) {
                let mut world = self.clone();
                world.processes[child].forked = Some(true);
                next.extend(world.feed(who, E::Forked));
            }
            return next;
        }
        // The end of the channel may arrive before the death.
        if !process.channel_broken {
            let mut world = self.clone();
            world.processes[who].channel_broken = true;
            world.message_lost = true;
            next.extend(world.feed(who, E::ChannelLost));
        }
        let mut world = self.clone();
        world.processes[who].child = None;
        world.processes[who].reaped.insert(child);
        next.extend(world.feed(who, E::Exited));
        next
    }

    /// The service manager, the threads of the body and the body itself go on.
    fn go_on(&self, who: usize) -> Vec<World> {
        let process = &self.processes[who];
        let mut next = Vec::new();
        if process.announced == Some(false) {
            let mut world = self.clone();
            world.processes[who].announced = Some(true);
            if world.main_process == Some(who) {
                world.main_process = process.child;
            }
            next.push(world);
        }
        if process.announced == Some(true) {
            let mut world = self.clone();
            world.processes[who].announced = None;
            next.extend(world.feed(who, E::Announced));
        }
        if process.pausing {
            let mut world = self.clone();
            world.processes[who].pausing = false;
            next.extend(world.feed(who, E::Paused));
        }
        if process.probing {
            let mut world = self.clone();
            world.processes[who].probing = false;
            next.extend(world.feed(who, E::Probed));
        }
        if process.verifying {
            next.extend(self.feed(who, E::Verified));
        }
        match process.state.phase {
            P::Starting => next.extend(self.feed(who, E::Ready)),
            P::Checking => next.extend(self.feed(who, E::Checked)),
            _ => {}
        }
        next
    }

    fn end_drain(&self, who: usize) -> Vec<World> {
        let process = &self.processes[who];
        if !process.draining || process.has_drained() {
            return Vec::new();
        }
        let mut next = self.feed(who, E::Drained);
        if !process.state.body_gone {
            next.extend(self.feed(who, E::BodyReturned));
        }
        next
    }

    fn fire_timers(&self, who: usize) -> Vec<World> {
        let process = &self.processes[who];
        let may_fire = |timer: &Timer| self.disturbed || !process.is_fault(*timer);
        let timers = process.timers.iter().copied().filter(may_fire);
        timers.flat_map(|timer| self.fire(who, timer)).collect()
    }

    pub(super) fn fire(&self, who: usize, timer: Timer) -> Vec<World> {
        let mut world = self.clone();
        world.processes[who].announced.take_if(|_| timer == Timer::Announce);
        world.processes[who].timers.remove(&timer);
        world.feed(who, E::Expired(timer))
    }
}
