//! The drain: a stop of the service, or the end of a predecessor.

use super::action::{Action as A, Actions, End, Refusal, StartFailure};
use super::event::{Event as E, Timer};
use super::phase::{Drain, Phase as P};
use super::state::{Followed, State, prepend};

impl State {
    pub(super) fn draining(self, event: E, drain: Drain) -> (State, Actions) {
        if event == E::Upgrade {
            return self.refuse(Refusal::Terminating);
        }
        match drain {
            Drain::Stop { owner } => self.draining_stop(event, owner),
            Drain::Replaced { stop } => self.draining_replaced(event, stop),
            Drain::Leaving { stop } => self.draining_leaving(event, stop),
            Drain::Reverted { stop } => self.draining_reverted(event, stop),
            Drain::Last { stop } => self.draining_last(event, stop),
            Drain::Rescue { step, attempt, finished } => self.rescue(event, step, attempt, finished),
        }
    }

    fn draining_stop(self, event: E, owner: bool) -> (State, Actions) {
        match event {
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain)
                if self.followed == Followed::This && self.has_other_process() =>
            {
                self.wait_to_exit_last(true)
            }
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) => {
                self.end(if owner { End::Final } else { End::NotStarted(None) })
            }
            E::Stop => self.end(End::AtOnce),
            E::PredecessorGone | E::PredecessorOver => self.to(P::Draining(Drain::Stop { owner: true }), []),
            _ => self.stay(),
        }
    }

    fn draining_replaced(self, event: E, stop: bool) -> (State, Actions) {
        // A stop has ended the move already.
        let keep = (!stop).then_some(A::KeepConnections);
        match event {
            // What is offered and not withdrawn when this process ends is the successor's.
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) => self.end(End::Replaced),
            // A service manager sends SIGTERM to every process of the unit. The first one means only that no rescue is to follow:
            // open connections are still finished.
            E::Stop if !stop => self.to(P::Draining(Drain::Replaced { stop: true }), keep),
            E::Stop => self.end(End::AtOnce),
            E::Leaving => prepend(keep, self.to(P::Draining(Drain::Leaving { stop }), [A::LetGo])),
            E::Hasten => self.act([A::Hasten]),
            // The successor serves no more, but lives. A rescue can start only after its death.
            E::SuccessorOver | E::ChannelLost => prepend(keep, self.act([A::Kill])),
            E::Exited if stop => self.to(P::Draining(Drain::Stop { owner: true }), [A::TakeBack, A::LetGo]),
            E::Exited => prepend([A::KeepConnections, A::TakeBack], self.start_rescue(0, false)),
            _ => self.stay(),
        }
    }

    fn draining_leaving(self, event: E, stop: bool) -> (State, Actions) {
        match event {
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) if self.followed == Followed::This => {
                self.wait_to_exit_last(stop)
            }
            // This process is the last one now.
            E::Exited if self.followed == Followed::This => {
                self.to(P::Draining(Drain::Stop { owner: true }), [])
            }
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) => self.end(End::Replaced),
            // A service manager sends SIGTERM to every process of the unit.
            E::Stop if !stop => self.to(P::Draining(Drain::Leaving { stop: true }), []),
            E::Stop => self.end(End::AtOnce),
            _ => self.stay(),
        }
    }

    fn draining_last(self, event: E, stop: bool) -> (State, Actions) {
        match event {
            E::Exited | E::PredecessorGone | E::Expired(Timer::Drain) => self.end(End::Final),
            E::Stop if !stop => self.to(P::Draining(Drain::Last { stop: true }), []),
            E::Stop => self.end(End::AtOnce),
            _ => self.stay(),
        }
    }

    /// Waits for the death of the other process, whose drain ends at about the same time.
    fn wait_to_exit_last(self, stop: bool) -> (State, Actions) {
        self.to(P::Draining(Drain::Last { stop }), [A::Arm(Timer::Drain)])
    }

    /// Begins a drain. If another process serves and no stop was requested, connections move to it. That is a successor that has
    /// passed its probation, or a predecessor that serves again. The body hears of the drain only when they can move.
    pub(super) fn drain(self, drain: Drain) -> (State, Actions) {
        let moves = matches!(drain, Drain::Replaced { stop: false } | Drain::Reverted { stop: false });
        let mut actions = vec![A::Arm(Timer::Drain)];
        actions.extend(moves.then_some(A::MoveConnections));
        actions.push(A::Drain);
        actions.extend(self.hastened.then_some(A::Hasten));
        self.to(P::Draining(drain), actions)
    }

    /// Begins a drain while the successor stops as well. `Drain` closes the listeners that the successor does not have, and
    /// removes their paths. `LetGo` closes the others, so it comes after `Drain`.
    pub(super) fn leave(self, stop: bool) -> (State, Actions) {
        let (state, mut actions) = self.drain(Drain::Leaving { stop });
        actions.push(A::LetGo);
        (state, actions)
    }

    /// A stop before this process serves. While the predecessor lives, the sockets belong to it.
    pub(super) fn stop_before_serving(self) -> (State, Actions) {
        let owner = !self.has_predecessor();
        let report = (!owner).then_some(A::SendFailed(StartFailure::Stopped));
        let disarm = [A::Disarm(Timer::Upgrade), A::Disarm(Timer::Handover)];
        prepend(report.into_iter().chain(disarm), self.drain(Drain::Stop { owner }))
    }

    /// A stop of the process that serves. A predecessor that lives receives `LEAVING`: it would take the exit for a crash, and
    /// serve again.
    pub(super) fn stop_as_owner(self) -> (State, Actions) {
        let report = self.has_predecessor().then_some(A::SendLeaving);
        prepend(report, self.drain(Drain::Stop { owner: true }))
    }
}
