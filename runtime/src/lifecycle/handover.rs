//! The handover, from the start of the successor until it serves.

use super::action::{Action as A, Actions, End, Failure, Refusal};
use super::event::{Event as E, Timer};
use super::phase::{Phase as P, Probation};
use super::state::{State, prepend};

impl State {
    pub(super) fn upgrading(self, event: E) -> (State, Actions) {
        match event {
            E::Upgrade => self.refuse(Refusal::InProgress),
            E::SpawnFailed => {
                self.to(P::Serving, [A::Disarm(Timer::Upgrade), A::Report(Err(Failure::Spawn))])
            }
            E::Exited => self.to(P::Serving, [A::Disarm(Timer::Upgrade), A::Report(Err(Failure::Exited))]),
            E::Prepared => self.to(P::Probing, [A::Probe]),
            E::Stop => self.revert(false, true, Failure::Stopped),
            // This process ends by itself. The successor receives `OVER` and serves.
            E::BodyReturned => self.end(End::Replaced),
            _ => self.fail_handover(event, false),
        }
    }

    pub(super) fn probing(self, event: E) -> (State, Actions) {
        match event {
            E::Upgrade => self.refuse(Refusal::InProgress),
            E::Probed => self.to(P::Pausing, [A::Pause]),
            // No request to stop: if this process died now, the successor would obey, and no process would serve.
            E::ProbeFailed => self.revert(false, false, Failure::Probe),
            E::Expired(Timer::Upgrade) => prepend([A::EndProbe], self.revert(false, false, Failure::Probe)),
            E::Exited => {
                self.to(P::Serving, [A::EndProbe, A::Disarm(Timer::Upgrade), A::Report(Err(Failure::Exited))])
            }
            E::Stop => prepend([A::EndProbe], self.revert(false, true, Failure::Stopped)),
            E::BodyReturned => prepend([A::EndProbe], self.end(End::Replaced)),
            _ => {
                let (next, actions) = self.fail_handover(event, false);
                let ends = (next.phase != self.phase).then_some(A::EndProbe);
                prepend(ends, (next, actions))
            }
        }
    }

    pub(super) fn pausing(self, event: E) -> (State, Actions) {
        match event {
            E::Upgrade => self.refuse(Refusal::InProgress),
            E::Paused => self.to(
                P::Committed { stop: false },
                [A::Disarm(Timer::Upgrade), A::Arm(Timer::Handover), A::SendCommit],
            ),
            E::Exited => self.to(
                P::Serving,
                [A::Disarm(Timer::Upgrade), A::TakeBack, A::Open, A::Report(Err(Failure::Exited))],
            ),
            E::Stop => self.revert(true, true, Failure::Stopped),
            E::BodyReturned => self.end(End::Replaced),
            _ => self.fail_handover(event, true),
        }
    }

    /// The events that end a handover before `COMMIT`, whether the gates are paused or not.
    fn fail_handover(self, event: E, paused: bool) -> (State, Actions) {
        match event {
            // The successor has reported its reason and exits by itself. Without SIGKILL it can clean up.
            E::Failed => self.to(
                P::Reverting { paused, then_stop: false, failure: Failure::Reported },
                [A::Disarm(Timer::Upgrade), A::Arm(Timer::Exit)],
            ),
            // The protocol forbids `ACTIVE` and `LEAVING` before `COMMIT`.
            E::ChannelLost | E::Active | E::Leaving => self.revert(paused, false, Failure::ChannelLost),
            E::Forked => self.revert(paused, false, Failure::Background),
            // Another service works as it should: it stops on request, and removes the paths that it has bound.
            E::Refused => self.to(
                P::Reverting { paused, then_stop: false, failure: Failure::Refused },
                [A::Disarm(Timer::Upgrade), A::SendStop, A::Arm(Timer::Exit)],
            ),
            E::Expired(Timer::Upgrade) => self.revert(paused, false, Failure::NotReady),
            _ => self.stay(),
        }
    }

    pub(super) fn committed(self, event: E, stop: bool) -> (State, Actions) {
        match event {
            E::Upgrade if stop => self.refuse(Refusal::Terminating),
            E::Upgrade => self.refuse(Refusal::InProgress),
            // The successor may have accepted connections already, and SIGKILL would lose them. It is asked to stop after
            // `ACTIVE`.
            E::Stop if !stop => self.to(P::Committed { stop: true }, []),
            E::Stop => prepend([A::Kill], self.end(End::AtOnce)),
            E::Active if stop => {
                let actions = [A::Disarm(Timer::Handover), A::SendStop, A::Report(Err(Failure::Stopped))];
                prepend(actions, self.leave(stop))
            }
            E::Active => {
                let actions =
                    [A::Disarm(Timer::Handover), A::Arm(Timer::Probation), A::ReportActive, A::Verify];
                self.to(P::Standby(Probation::Running), actions)
            }
            E::Leaving => {
                prepend([A::Disarm(Timer::Handover), A::Report(Err(Failure::Stopped))], self.leave(stop))
            }
            E::Exited => prepend([A::Disarm(Timer::Handover)], self.after_death(true, stop, Failure::Exited)),
            E::Failed => self.to(
                P::Reverting { paused: true, then_stop: stop, failure: Failure::Reported },
                [A::Disarm(Timer::Handover), A::Arm(Timer::Exit)],
            ),
            E::ChannelLost => self.revert(true, stop, Failure::ChannelLost),
            E::Forked => self.revert(true, stop, Failure::Background),
            E::Expired(Timer::Handover) => self.revert(true, stop, Failure::NoAnswer),
            _ => self.stay(),
        }
    }
}
