//! From the start of a process until it serves.

use super::action::{Action as A, Actions, End, Refusal, StartFailure};
use super::event::{Event as E, Timer};
use super::phase::Phase as P;
use super::state::{State, prepend};

impl State {
    pub(super) fn starting(self, event: E) -> (State, Actions) {
        match event {
            E::Upgrade => self.refuse(Refusal::NotReady),
            E::Ready if self.has_predecessor() => {
                self.to(P::Prepared, [A::Disarm(Timer::Upgrade), A::Arm(Timer::Handover), A::SendPrepared])
            }
            E::Ready => self.to(P::TakingOver, [A::Disarm(Timer::Upgrade), A::TakeOver]),
            E::NotReady => self.fail_start(StartFailure::ReadyDropped),
            // The predecessor lives and may serve, so this process must not.
            E::ChannelLost | E::PredecessorLost => self.fail_start(StartFailure::Channel),
            E::BodyReturned => self.fail_start(StartFailure::BodyReturned),
            E::Stop => self.stop_before_serving(),
            E::Expired(Timer::Upgrade) => self.act([A::WarnNotReady, A::Arm(Timer::Upgrade)]),
            _ => self.stay(),
        }
    }

    pub(super) fn prepared(self, event: E) -> (State, Actions) {
        match event {
            E::Upgrade => self.refuse(Refusal::NotReady),
            // A predecessor that is dead or over never serves again, so its `COMMIT` is not needed.
            E::Commit | E::PredecessorGone | E::PredecessorOver => {
                self.to(P::TakingOver, [A::Disarm(Timer::Handover), A::TakeOver])
            }
            E::BodyReturned => self.fail_start(StartFailure::BodyReturned),
            E::PidfileFailed => self.fail_start(StartFailure::Pidfile),
            E::ChannelLost | E::PredecessorLost => self.fail_start(StartFailure::Channel),
            E::Expired(Timer::Handover) => self.fail_start(StartFailure::NoCommit),
            E::Stop => self.stop_before_serving(),
            _ => self.stay(),
        }
    }

    pub(super) fn taking_over(self, event: E) -> (State, Actions) {
        match event {
            E::Upgrade => self.refuse(Refusal::NotReady),
            E::TookOver if self.has_predecessor() => self.to(P::Serving, [A::Open, A::SendActive]),
            E::TookOver => self.to(P::Serving, [A::Open]),
            // Only this process can serve: a service without a pid file is better than no service.
            E::PidfileFailed if self.predecessor.never_serves_again() => self.to(P::Serving, [A::Open]),
            E::PidfileFailed => self.fail_start(StartFailure::Pidfile),
            E::BodyReturned => self.fail_start(StartFailure::BodyReturned),
            E::Stop => self.stop_as_owner(),
            _ => self.stay(),
        }
    }

    fn fail_start(self, failure: StartFailure) -> (State, Actions) {
        let report = self.has_predecessor().then_some(A::SendFailed(failure));
        prepend(report, self.end(End::NotStarted(Some(failure))))
    }
}
