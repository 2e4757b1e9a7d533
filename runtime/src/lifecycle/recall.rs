//! The graceful revert: the successor gives the service back in its probation, and nothing is lost.
//!
//! The predecessor asks for the service with `RECALL`. The successor closes its gates and sends `YIELDED` with a token. The
//! predecessor takes the token, makes the pid file its own, opens its gates and says `RESUMED`; the successor drains. Of the two
//! processes only one gets the token, and that one opens its gates. So neither has to know whether the other one still runs.

use super::action::{Action as A, Actions, End, Failure, NoRevert, Refusal};
use super::event::{Event as E, Timer};
use super::phase::{Drain, Phase as P, Probation};
use super::state::{State, prepend};

/// The predecessor.
impl State {
    /// Asks the successor for the service.
    pub(super) fn recall(self, probation: Probation, failure: Failure) -> (State, Actions) {
        self.to(
            P::Recalling { stop: false, failure },
            [A::Disarm(probation.timer()), A::EndVerify, A::Arm(Timer::Handover), A::SendRecall],
        )
    }

    pub(super) fn recalling(self, event: E, stop: bool, failure: Failure) -> (State, Actions) {
        let disarm = [A::Disarm(Timer::Handover)];
        match event {
            E::Upgrade if stop => self.refuse(Refusal::Terminating),
            E::Upgrade => self.refuse(Refusal::InProgress),
            E::Revert => self.refuse_revert(NoRevert::InProgress),
            // No process accepts, and the service ends here.
            E::Yielded if stop => {
                let actions =
                    [A::Disarm(Timer::Handover), A::TakeBack, A::SendStop, A::Report(Err(Failure::Stopped))];
                prepend(actions, State { remnant: true, ..self }.drain(Drain::Stop { owner: true }))
            }
            // Without a body this process cannot serve: the successor goes on.
            E::Yielded if self.body_gone => self.to(
                P::Committed { stop: false },
                [A::Arm(Timer::Handover), A::SendCommit, A::ReportRevert(Err(NoRevert::Declined))],
            ),
            E::Yielded => prepend(
                [A::Disarm(Timer::Handover), A::TakeBack, A::Open, A::SendResumed],
                self.serve_beside_remnant(failure),
            ),
            E::YieldedInVain if stop => prepend(
                [A::Disarm(Timer::Handover), A::SendStop, A::Report(Err(Failure::Stopped))],
                self.leave(stop),
            ),
            E::YieldedInVain => self.to(
                P::Standby(Probation::Running),
                [
                    A::Disarm(Timer::Handover),
                    A::Arm(Timer::Probation),
                    A::ReportRevert(Err(NoRevert::InVain)),
                    A::Verify,
                ],
            ),
            E::Leaving => {
                prepend([A::Disarm(Timer::Handover), A::Report(Err(Failure::Stopped))], self.leave(stop))
            }
            E::Exited => prepend(disarm, self.after_death(true, stop, failure)),
            E::SuccessorOver => prepend(disarm, self.resume_beside_remnant(stop, failure)),
            E::NotYielded | E::ChannelLost | E::Expired(Timer::Handover) => self.revert(true, stop, failure),
            E::Stop if !stop => self.to(P::Recalling { stop: true, failure }, []),
            E::Stop => prepend([A::Kill], self.end(End::AtOnce)),
            _ => self.stay(),
        }
    }

    /// Serves while a successor that has served still lives. `Timer::Remnant` limits the time for its exit.
    pub(super) fn serve_beside_remnant(self, failure: Failure) -> (State, Actions) {
        let actions = [A::Arm(Timer::Remnant), A::Report(Err(failure))];
        State { remnant: true, ..self }.to(P::Serving, actions)
    }

    /// Serves again while the successor is over and still lives. Without a body, or for a stop, this process cannot serve, and the
    /// successor is killed at once.
    pub(super) fn resume_beside_remnant(self, stop: bool, failure: Failure) -> (State, Actions) {
        if stop || self.body_gone {
            return self.revert(true, stop, failure);
        }
        prepend([A::TakeBack, A::Open], self.serve_beside_remnant(failure))
    }
}

/// The successor.
impl State {
    /// Asks the predecessor to serve again. Only that process knows whether it can.
    pub(super) fn ask_back(self) -> (State, Actions) {
        if self.asking {
            return self.refuse_revert(NoRevert::InProgress);
        }
        State { asking: true, ..self }.act([A::Arm(Timer::Handover), A::SendAskedBack])
    }

    /// The predecessor does not serve again.
    pub(super) fn end_asking(self, reason: NoRevert) -> (State, Actions) {
        let actions = self.answer_asking(Err(reason));
        let disarm = (!actions.is_empty()).then_some(A::Disarm(Timer::Handover));
        State { asking: false, ..self }.act(disarm.into_iter().chain(actions))
    }

    /// The answer to those who have asked this process for a revert, if there are any.
    fn answer_asking(self, outcome: Result<(), NoRevert>) -> Actions {
        self.asking.then_some(A::ReportRevert(outcome)).into_iter().collect()
    }

    /// The predecessor wants to serve again.
    pub(super) fn begin_to_yield(self) -> (State, Actions) {
        let mut actions = Actions::new();
        actions.extend(self.asking.then_some(A::Disarm(Timer::Handover)));
        actions.extend(self.pending.then_some(A::Report(Err(Failure::Reverted))));
        actions.push(A::Yield);
        State { pending: false, ..self }.to(P::Yielding, actions)
    }

    pub(super) fn yielding(self, event: E) -> (State, Actions) {
        match event {
            E::Upgrade => self.refuse(Refusal::InProgress),
            E::Revert => self.refuse_revert(NoRevert::InProgress),
            E::Paused => self.to(P::Yielded, [A::Arm(Timer::Handover), A::SendYielded]),
            // A thread is stuck in an accept, or there is no token. This process cannot give back what it does not let go of: the
            // predecessor is about to kill it. What becomes of the revert is not known here.
            E::ChannelLost => {
                let mut actions = vec![A::Open];
                actions.extend(self.asking.then_some(A::Arm(Timer::Handover)));
                actions.push(A::SendNotYielded);
                self.to(P::Serving, actions)
            }
            E::PredecessorGone | E::PredecessorOver => self.take_again(),
            E::Stop => prepend(
                self.answer_asking(Err(NoRevert::Stopped)),
                State { asking: false, ..self }.stop_as_owner(),
            ),
            E::BodyReturned => self.end(End::Replaced),
            _ => self.stay(),
        }
    }

    pub(super) fn yielded(self, event: E) -> (State, Actions) {
        let disarm = [A::Disarm(Timer::Handover)];
        match event {
            E::Upgrade => self.refuse(Refusal::InProgress),
            E::Revert => self.refuse_revert(NoRevert::InProgress),
            E::Resumed => prepend(disarm, self.give_way(false)),
            // The predecessor has lost its body meanwhile, or is dead or over: this process serves on.
            E::Commit | E::PredecessorGone | E::PredecessorOver | E::Reclaimed => {
                prepend(disarm, self.take_again())
            }
            // The predecessor may have taken the token, and may have not. Only one of the two gets it.
            E::PredecessorLost | E::Expired(Timer::Handover) => {
                self.act([A::Arm(Timer::Handover), A::Reclaim])
            }
            // The predecessor has the service, and may not serve yet: only its death makes this process serve again.
            E::ReclaimedTooLate => self.stay(),
            // The predecessor may serve by now, so the files are its own. It learns that the stop means the service.
            E::Stop => prepend([A::Disarm(Timer::Handover), A::SendLeaving], self.give_way(true)),
            E::BodyReturned => self.end(End::Replaced),
            _ => self.stay(),
        }
    }

    /// Serves again. A process that the pid file does not name makes it its own first.
    fn take_again(self) -> (State, Actions) {
        let mut actions = self.answer_asking(Err(NoRevert::Declined));
        actions.push(A::TakeOver);
        State { asking: false, ..self }.to(P::TakingOver, actions)
    }

    /// The predecessor serves: this process drains.
    fn give_way(self, stop: bool) -> (State, Actions) {
        let outcome = if stop { Err(NoRevert::Stopped) } else { Ok(()) };
        let drain = State { asking: false, ..self }.drain(Drain::Reverted { stop });
        prepend(self.answer_asking(outcome), drain)
    }

    pub(super) fn draining_reverted(self, event: E, stop: bool) -> (State, Actions) {
        // A stop has ended the move already.
        let keep = (!stop).then_some(A::KeepConnections);
        match event {
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) => self.end(End::Replaced),
            E::Stop if !stop => self.to(P::Draining(Drain::Reverted { stop: true }), keep),
            E::Stop => self.end(End::AtOnce),
            E::Hasten => self.act([A::Hasten]),
            // A predecessor that could say that it is over has not crashed: the service ends.
            E::PredecessorOver => prepend(keep, self.to(P::Draining(Drain::Stop { owner: true }), [])),
            E::PredecessorGone if stop => self.to(P::Draining(Drain::Stop { owner: true }), []),
            E::PredecessorGone => prepend([A::KeepConnections, A::TakeBack], self.start_rescue(0, false)),
            _ => self.stay(),
        }
    }
}
