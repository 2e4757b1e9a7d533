//! What the actions of a step do to the world.

use super::world::{Message, World};
use crate::lifecycle::End;
use crate::lifecycle::action::Action as A;
use crate::lifecycle::event::{Event as E, Timer};
use crate::lifecycle::phase::Phase as P;

impl World {
    /// Every world that can follow from this event.
    pub(super) fn feed(&self, who: usize, event: E) -> Vec<World> {
        let (state, actions) = self.processes[who].state.step(event);
        let mut world = self.clone();
        world.processes[who].state = state;
        let mut done = Vec::new();
        world.run(who, &actions, &mut done);
        done
    }

    /// Carries out the actions. While faults are left, the process also crashes between any two of them.
    fn run(mut self, who: usize, actions: &[A], done: &mut Vec<World>) {
        let Some((action, rest)) = actions.split_first() else {
            self.forget_the_dead();
            done.push(self);
            return;
        };
        if self.faults > 0 {
            done.push(self.crash(who));
        }
        match *action {
            A::Spawn | A::SpawnRescue => {
                self.run_failed(who, E::SpawnFailed, rest, done);
                self.add_successor(who, *action == A::SpawnRescue);
            }
            A::SendPrepared => {
                self.run_failed(who, E::PidfileFailed, rest, done);
                self.send_to_predecessor(who, Message::Prepared);
            }
            A::TakeOver => {
                self.run_failed(who, E::PidfileFailed, rest, done);
                self.pidfile = Some(who);
                return self.run_result(who, E::TookOver, rest, done);
            }
            A::Reclaim => {
                let is_ours = self.token.replace(false) == Some(true);
                let event = if is_ours { E::Reclaimed } else { E::ReclaimedTooLate };
                return self.run_result(who, event, rest, done);
            }
            action => self.carry_out(who, action),
        }
        self.run(who, rest, done);
    }

    /// While faults are left, the action also fails.
    fn run_failed(&self, who: usize, failure: E, rest: &[A], done: &mut Vec<World>) {
        if self.faults > 0 {
            let mut failed = self.clone();
            failed.spend_fault(who);
            failed.pidfile_fault |= failure == E::PidfileFailed;
            failed.run_result(who, failure, rest, done);
        }
    }

    /// Feeds the result of an action before anything else happens in the process, as the engine does.
    fn run_result(mut self, who: usize, event: E, rest: &[A], done: &mut Vec<World>) {
        assert!(rest.is_empty(), "an action with a result is the last of its step");
        let (state, actions) = self.processes[who].state.step(event);
        self.processes[who].state = state;
        self.run(who, &actions, done);
    }

    fn carry_out(&mut self, who: usize, action: A) {
        match action {
            A::Refuse(_) | A::Postpone | A::ReportActive | A::WarnNotReady | A::LetGo => {}
            A::Check | A::EndCheck => {}
            A::Spawn | A::SpawnRescue | A::SendPrepared | A::TakeOver | A::Reclaim => {
                unreachable!("{action:?} has a result")
            }
            A::Report(outcome) => self.report(who, outcome.is_ok()),
            // In the model an armed timer may expire at any moment, so there is no deadline to shorten.
            A::Hasten => assert!(self.processes[who].timers.contains(&Timer::Drain)),
            A::Arm(timer) => _ = self.processes[who].timers.insert(timer),
            A::Disarm(timer) => _ = self.processes[who].timers.remove(&timer),
            A::SendCommit => self.send_to_successor(who, Message::Commit),
            A::SendStop => self.send_to_successor(who, Message::Stop),
            A::SendFollowed => self.send_to_successor(who, Message::Followed),
            A::SendPing => self.send_to_successor(who, Message::Ping),
            A::SendActive => self.send_to_predecessor(who, Message::Active),
            A::SendFailed(_) => self.send_to_predecessor(who, Message::Failed),
            A::SendLeaving => self.send_to_predecessor(who, Message::Leaving),
            A::SendHasten => {
                self.send_to_predecessor(who, Message::Hasten);
                self.send_to_successor(who, Message::Hasten);
            }
            A::Probe => self.processes[who].probing = true,
            A::EndProbe => self.processes[who].probing = false,
            A::Verify => self.processes[who].verifying = true,
            A::EndVerify => self.processes[who].verifying = false,
            A::SendRecall => self.send_to_successor(who, Message::Recall),
            A::SendResumed => self.send_to_successor(who, Message::Resumed),
            A::SendDeclined => self.send_to_successor(who, Message::Declined),
            A::SendAskedBack => self.send_to_predecessor(who, Message::AskedBack),
            A::SendYielded => {
                self.token = Some(true);
                self.send_to_predecessor(who, Message::Yielded);
            }
            A::SendNotYielded => self.send_to_predecessor(who, Message::NotYielded),
            A::ReportRevert(outcome) => self.report_revert(who, outcome.is_ok()),
            A::Announce => self.processes[who].announced = Some(false),
            A::Kill => {
                self.killed_while_moving |= self.processes[who].moving;
                if let Some(child) = self.processes[who].child {
                    self.die(child);
                }
            }
            A::Pause | A::Yield => {
                self.processes[who].open = false;
                self.processes[who].pausing = true;
            }
            A::Open => self.processes[who].open = true,
            A::TakeBack => self.pidfile = Some(who),
            A::MoveConnections => self.processes[who].moving = true,
            A::KeepConnections => self.processes[who].moving = false,
            A::Drain => {
                self.processes[who].open = false;
                self.processes[who].draining = true;
            }
            A::End(end) => self.end(who, end),
        }
    }

    /// Notes a false success: no message that says otherwise is lost or on its way, and the successor does not serve.
    fn report(&mut self, who: usize, is_success: bool) {
        let process = &self.processes[who];
        let knows_all = process.from_child.is_empty() && !process.channel_broken;
        let serves = process.child.is_none_or(|child| {
            let child = &self.processes[child];
            !child.alive || child.open || child.state.phase == P::TakingOver
        });
        self.false_report |= is_success && knows_all && !serves;
    }

    /// Notes a false success of a revert: no message that says otherwise is on its way, and the predecessor does not serve.
    fn report_revert(&mut self, who: usize, is_success: bool) {
        let process = &self.processes[who];
        let knows_all = process.from_parent.is_empty() && process.cut.is_none();
        let serves = process.parent.is_none_or(|parent| {
            let parent = &self.processes[parent];
            !parent.alive || parent.open || parent.is_over() || parent.draining
        });
        self.false_report |= is_success && knows_all && !serves;
    }

    fn end(&mut self, who: usize, end: End) {
        // In the model each attempt of a rescue fails by its deadline, which takes no fault.
        self.unrecoverable |= end == End::RescueFailed;
        // Before the engine looks at the pid file, it reaps a dead or killed successor, and asks the channel whether the
        // predecessor lives. If the pid file names a dead process, only this process can remove it.
        let is_known_dead = |pid: usize| {
            let process = &self.processes[who];
            let related = process.parent == Some(pid) || process.child == Some(pid);
            related && !self.processes[pid].alive || process.reaped.contains(&pid)
        };
        if self.pidfile.is_some_and(|pid| pid == who || is_known_dead(pid)) {
            self.pidfile = None;
        }
        self.disturbed |= end == End::AtOnce;
        self.paths_removed |= matches!(end, End::Final | End::RescueFailed);
        let process = &mut self.processes[who];
        process.open = false;
        process.pausing = false;
        process.draining = false;
        process.probing = false;
        process.verifying = false;
        process.moving = false;
        process.timers.clear();
        process.from_parent.clear();
        process.from_child.clear();
        if end == End::AtOnce {
            self.exit(who);
        } else {
            self.send_over(who);
        }
    }

    fn send_over(&mut self, who: usize) {
        let process = &self.processes[who];
        let parent_gets_nothing = process.cut.is_some()
            || process.parent.is_some_and(|parent| self.processes[parent].channel_broken);
        // The last message of a process that lives on is lost only after two faults.
        self.unrecoverable |= self.living_parent(who).is_some() && parent_gets_nothing
            || self.living_child(who).is_some() && process.channel_broken;
        self.send_to_successor(who, Message::Over);
        self.send_to_predecessor(who, Message::Over);
    }

    pub(super) fn exit(&mut self, who: usize) {
        let is_main = self.main_process == Some(who);
        self.main_ended_first |= is_main && self.alive().count() > 1 && !self.disturbed;
        self.die(who);
    }

    fn send_to_successor(&mut self, who: usize, message: Message) {
        let Some(child) = self.processes[who].child else { return };
        let to = &self.processes[child];
        if to.alive && to.cut.is_none() && !to.is_over() && !self.processes[who].channel_broken {
            self.processes[child].from_parent.push_back(message);
        }
    }

    pub(super) fn send_to_predecessor(&mut self, who: usize, message: Message) {
        let Some(parent) = self.processes[who].parent else { return };
        let parent = &mut self.processes[parent];
        if parent.alive && !parent.is_over() && parent.child == Some(who) && !parent.channel_broken {
            parent.from_child.push_back(message);
        }
    }
}
