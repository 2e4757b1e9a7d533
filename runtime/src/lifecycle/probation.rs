//! The successor serves on probation, and this process can still resume.

use super::action::{Action as A, Actions, End, Failure, Refusal};
use super::event::{Event as E, Timer};
use super::phase::{Drain, Phase as P, Probation};
use super::state::{Followed, State, prepend};

impl State {
    pub(super) fn standby(self, event: E, probation: Probation) -> (State, Actions) {
        let leave = [A::Disarm(probation.timer()), A::EndVerify];
        match event {
            E::Upgrade => self.refuse(Refusal::InProgress),
            // Some units send the stop of the service only to the process that the manager follows.
            E::Stop if self.followed == Followed::This => {
                let actions = [A::SendStop, A::Report(Err(Failure::Stopped))];
                prepend(leave, prepend(actions, self.leave(true)))
            }
            // The pid file names the successor, so this stop means this process alone. The outcome of the probation stays
            // unknown, because no process watches the successor any more.
            E::Stop => prepend(
                leave,
                prepend([A::Report(Err(Failure::Unwatched))], self.drain(Drain::Replaced { stop: true })),
            ),
            E::Verified if probation == Probation::Running => self.to(P::Standby(Probation::Verified), []),
            // The first run of the verification takes longer than the probation.
            E::Expired(Timer::Probation) if probation == Probation::Running => {
                self.to(P::Standby(Probation::Unverified), [A::Arm(Timer::Upgrade)])
            }
            E::Expired(Timer::Probation) if probation == Probation::Verified => self.ask_for_sign_of_life(),
            E::Verified if probation == Probation::Unverified => self.ask_for_sign_of_life(),
            // A run has a deadline of its own, which is earlier.
            E::Expired(Timer::Upgrade) if probation == Probation::Unverified => self.reject(probation),
            E::VerifyFailed => self.reject(probation),
            E::Revert => self.recall(probation, Failure::Reverted),
            E::AskedBack if self.body_gone => self.act([A::SendDeclined]),
            E::AskedBack => self.recall(probation, Failure::Reverted),
            E::Alive if probation == Probation::Asked => {
                self.to(P::Standby(Probation::Passed), [A::Disarm(Timer::Upgrade), A::Arm(Timer::Quiet)])
            }
            E::Expired(Timer::Quiet) if probation != Probation::Passed => self.stay(),
            // The manager takes the death of the followed process for the end of the service, so it follows the successor only
            // after the probation. The successor learns it first: the manager may act as soon as it has the message.
            E::Expired(Timer::Quiet) if self.followed == Followed::This => self.to(
                P::Announcing { stop: false, leaving: false },
                [A::EndVerify, A::Arm(Timer::Announce), A::SendFollowed, A::Announce],
            ),
            E::Expired(Timer::Quiet) => {
                prepend([A::EndVerify, A::Report(Ok(()))], self.drain(Drain::Replaced { stop: false }))
            }
            E::Expired(Timer::Upgrade) if probation == Probation::Asked => {
                prepend([A::EndVerify], self.revert(true, false, Failure::Silent))
            }
            // The service was asked to stop before the end of the probation.
            E::Leaving => prepend(leave, prepend([A::Report(Err(Failure::Stopped))], self.leave(false))),
            E::SuccessorOver => prepend(leave, self.resume_beside_remnant(false, Failure::Over)),
            E::Exited => prepend(leave, self.after_death(true, false, Failure::Probation)),
            // The protocol forbids to yield unasked.
            E::ChannelLost | E::Yielded | E::YieldedInVain | E::NotYielded => {
                prepend(leave, self.revert(true, false, Failure::ChannelLost))
            }
            // A fork has one thread of its process. It would yield, and never finish the connections of a body that it does not have.
            E::Forked => prepend(leave, self.revert(true, false, Failure::Background)),
            _ => self.stay(),
        }
    }

    /// A successor that lives may still hang. Its sign of life proves that it answers, and may take as long as a start.
    fn ask_for_sign_of_life(self) -> (State, Actions) {
        self.to(P::Standby(Probation::Asked), [A::Arm(Timer::Upgrade), A::SendPing])
    }

    /// The verification has failed. Without a body this process cannot serve again: it starts its own executable image.
    fn reject(self, probation: Probation) -> (State, Actions) {
        if self.body_gone {
            let leave = [A::Disarm(probation.timer()), A::EndVerify];
            return prepend(leave, self.revert(true, false, Failure::Verify));
        }
        self.recall(probation, Failure::Verify)
    }

    pub(super) fn announcing(mut self, event: E, stop: bool, leaving: bool) -> (State, Actions) {
        let disarm = [A::Disarm(Timer::Announce)];
        match event {
            E::Upgrade => self.refuse(Refusal::InProgress),
            // As in standby, the stop means the service. The manager may have sent it to this process alone, and does not repeat
            // it to the successor that it follows meanwhile.
            E::Stop if !stop => self.to(P::Announcing { stop: true, leaving: true }, [A::SendStop]),
            E::Stop => self.end(End::AtOnce),
            E::Leaving => self.to(P::Announcing { stop, leaving: true }, []),
            // A manager that does not confirm in time is not waited for: the service goes on without this process.
            E::Announced | E::Expired(Timer::Announce) => {
                self.followed = Followed::Other;
                let (outcome, next) = if leaving {
                    (Err(Failure::Stopped), self.leave(stop))
                } else {
                    (Ok(()), self.drain(Drain::Replaced { stop }))
                };
                prepend([A::Disarm(Timer::Announce), A::Report(outcome)], next)
            }
            E::SuccessorOver if !leaving => prepend(disarm, self.resume_beside_remnant(stop, Failure::Over)),
            E::Exited if leaving => prepend(
                [A::Disarm(Timer::Announce), A::Report(Err(Failure::Stopped)), A::TakeBack, A::LetGo],
                self.drain(Drain::Stop { owner: true }),
            ),
            E::Exited => prepend(disarm, self.after_death(true, stop, Failure::Probation)),
            E::ChannelLost if !leaving => prepend(disarm, self.revert(true, stop, Failure::ChannelLost)),
            E::Forked if !leaving => prepend(disarm, self.revert(true, stop, Failure::Background)),
            _ => self.stay(),
        }
    }
}
