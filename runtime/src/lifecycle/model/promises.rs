//! What must hold in every world.

use super::world::{Process, World};
use crate::lifecycle::Followed;
use crate::lifecycle::phase::{Drain, Phase as P};

fn check(holds: bool, violation: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(violation) }
}

impl World {
    /// What must hold at every moment.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let open = self.alive().filter(|process| process.open).count();
        let is_starting =
            |process: &&Process| matches!(process.state.phase, P::Starting | P::Prepared | P::TakingOver);
        check(open <= 1, "two processes accept at once")?;
        check(self.alive().count() <= 2, "more than two processes")?;
        check(self.alive().filter(is_starting).count() <= 1, "two processes that are not ready")?;
        check(self.alive().all(|process| process.open == process.state.is_open()), "gates and phase differ")?;
        check(!self.main_ended_first, "the process that the manager follows ends beside another")?;
        let has_body = |process: &Process| process.state.phase != P::Serving || !process.state.body_gone;
        check(self.alive().all(has_body), "a process without a body serves")?;
        let may_lack_paths = self.message_lost || self.stopped && self.disturbed;
        check(
            open == 0 || !self.paths_removed || may_lack_paths,
            "a process serves whose paths are removed",
        )?;
        check(!self.false_report, "a success was reported that is none")?;
        self.check_moving()
    }

    /// Connections move exactly while an upgraded process drains, and its successor serves after its probation.
    fn check_moving(&self) -> Result<(), &'static str> {
        check(!self.killed_while_moving, "a successor is killed while connections move to it")?;
        for (who, process) in self.processes.iter().enumerate().filter(|(_, process)| process.alive) {
            let is_reverted = process.state.phase == P::Draining(Drain::Reverted { stop: false });
            if is_reverted {
                let parent = self.living_parent(who).map(|parent| &self.processes[parent]);
                let serves = parent.is_none_or(|parent| {
                    parent.open || parent.draining || parent.is_over() || parent.stalled
                });
                check(process.moving, "no connection moves back")?;
                check(serves, "connections move back to a process that does not serve")?;
                continue;
            }
            let drains = process.state.phase == P::Draining(Drain::Replaced { stop: false });
            check(drains || !process.moving, "connections move outside of the drain after an upgrade")?;
            check(process.child.is_some() || !process.moving, "connections move without a successor")?;
            let Some(child) = self.living_child(who) else { continue };
            let successor = &self.processes[child];
            let has_passed = successor.has_answered && !successor.is_rescue;
            check(has_passed || !process.moving, "connections move to a successor that has not passed")?;
            let is_known = process.from_child.is_empty() && !process.channel_broken;
            let serves = successor.open || !is_known;
            check(serves || !process.moving, "connections move to a successor that does not serve")?;
            let may_move = drains && has_passed && successor.open && !process.channel_broken;
            check(process.moving || !may_move, "no connection moves to a successor that serves")?;
        }
        Ok(())
    }

    /// What must also hold in a settled world.
    pub(super) fn check_settled(&self) -> Result<(), &'static str> {
        let serving = self.processes.iter().position(|process| process.open);
        let serves = serving.is_some();
        check(serves || self.stopped || self.unrecoverable, "no process serves")?;
        check(
            !serves || !self.server_stopped || self.disturbed,
            "a process serves after the stop of the service",
        )?;
        let is_stalled = self.alive().any(|process| process.stalled);
        check(is_stalled || self.alive().count() <= 1, "an old process stays")?;
        check(
            !serves || !self.main_stopped || self.disturbed,
            "a process serves after the stop by the manager",
        )?;
        let is_followed = |who: usize| {
            self.main_process == Some(who) && self.processes[who].state.followed == Followed::This
        };
        check(
            !self.managed || self.disturbed || serving.is_none_or(is_followed),
            "the manager follows a process that does not serve",
        )?;
        check(self.alive().all(|process| !process.state.pending), "an upgrade waits for no process")?;
        match self.pidfile {
            // A crash of the only process leaves its pid file behind.
            Some(pid) => check(
                self.processes[pid].open || self.unrecoverable || self.pidfile_fault || is_stalled,
                "the pid file names a process that does not serve",
            ),
            None => check(!serves || self.pidfile_fault, "a process serves and no pid file names it"),
        }
    }
}
