//! The process serves: requests to upgrade and to stop, and the check of a new release.

use super::action::{Action as A, Actions, End, Failure, NoRevert, Refusal};
use super::event::{Event as E, Timer};
use super::phase::Phase as P;
use super::state::{Overlap, State, prepend};

impl State {
    pub(super) fn serving(self, event: E) -> (State, Actions) {
        match event {
            E::Upgrade if self.has_other_process() => self.postpone(),
            E::PredecessorGone if self.pending && !self.remnant => {
                let (state, actions) = self.end_asking(NoRevert::NoStandby);
                prepend(actions, state.upgrade())
            }
            E::PredecessorGone | E::PredecessorOver | E::Declined => self.end_asking(NoRevert::NoStandby),
            E::Expired(Timer::Handover) => self.end_asking(NoRevert::NoAnswer),
            E::Revert => self.ask_back(),
            E::Recall if self.has_predecessor() => self.begin_to_yield(),
            E::Exited if self.pending && !self.has_other_process() => {
                prepend([A::Disarm(Timer::Remnant)], self.upgrade())
            }
            E::Exited => self.act([A::Disarm(Timer::Remnant)]),
            E::Expired(Timer::Remnant) if self.remnant => self.act([A::Kill, A::Arm(Timer::Remnant)]),
            E::Upgrade => self.upgrade(),
            // The predecessor is in standby or drains, and serves again: it needs the pid file and the paths.
            E::BodyReturned => {
                let stop = self.remnant.then_some(A::SendStop);
                prepend(stop, self.end(if self.has_predecessor() { End::Replaced } else { End::Final }))
            }
            E::Stop => self.stop_serving(),
            // The remnant was asked to stop the service before it knew that this process serves.
            E::Leaving if self.remnant => self.stop_serving(),
            _ => self.stay(),
        }
    }

    fn stop_serving(self) -> (State, Actions) {
        let mut actions = Actions::new();
        actions.extend(self.pending.then_some(A::Report(Err(Failure::Stopped))));
        // A remnant that drains would take the exit of this process for a crash, and start another one.
        actions
            .extend(self.remnant.then_some([A::Disarm(Timer::Remnant), A::SendStop]).into_iter().flatten());
        let (state, answer) = self.end_asking(NoRevert::Stopped);
        actions.extend(answer);
        prepend(actions, State { pending: false, ..state }.stop_as_owner())
    }

    fn upgrade(self) -> (State, Actions) {
        State { pending: false, ..self }.to(P::Checking, [A::Arm(Timer::Upgrade), A::Check])
    }

    /// Answers a request to upgrade while the predecessor or a remnant lives.
    fn postpone(self) -> (State, Actions) {
        let pending = State { pending: true, ..self };
        match self.overlap {
            Overlap::Refuse if self.remnant => self.refuse(Refusal::SuccessorDraining),
            Overlap::Refuse => self.refuse(Refusal::PredecessorDraining),
            _ if self.pending => self.refuse(Refusal::InProgress),
            Overlap::Wait => pending.act([A::Postpone]),
            Overlap::Hasten => pending.act([A::Postpone, A::SendHasten]),
        }
    }

    pub(super) fn checking(self, event: E) -> (State, Actions) {
        let end_check = |failure| [A::Disarm(Timer::Upgrade), A::EndCheck, A::Report(Err(failure))];
        match event {
            E::Upgrade => self.refuse(Refusal::InProgress),
            E::Checked => self.to(P::Upgrading, [A::Spawn]),
            E::CheckFailed => self.to(P::Serving, end_check(Failure::Check)),
            E::Expired(Timer::Upgrade) => self.to(P::Serving, end_check(Failure::CheckTime)),
            E::Stop => prepend(end_check(Failure::Stopped), self.stop_as_owner()),
            E::BodyReturned => prepend([A::EndCheck], self.end(End::Final)),
            _ => self.stay(),
        }
    }
}
