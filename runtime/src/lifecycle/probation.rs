//! The successor serves on probation, and this process can still resume.

use super::action::{Action as A, Actions, End, Failure, Refusal};
use super::event::{Event as E, Timer};
use super::phase::{Drain, Phase as P, Probation};
use super::state::{Followed, State, prepend};

impl State {
    pub(super) fn standby(self, event: E, probation: Probation) -> (State, Actions) {
        let timer = probation.timer();
        match event {
            E::Upgrade => self.refuse(Refusal::InProgress),
            // Some units send the stop of the service only to the process that the manager follows.
            E::Stop if self.followed == Followed::This => {
                prepend([A::Disarm(timer), A::SendStop, A::Report(Err(Failure::Stopped))], self.leave(true))
            }
            // The pid file names the successor, so this stop means this process alone. The outcome of the probation stays
            // unknown, because no process watches the successor any more.
            E::Stop => prepend(
                [A::Disarm(timer), A::Report(Err(Failure::Unwatched))],
                self.drain(Drain::Replaced { stop: true }),
            ),
            // A successor that lives may still hang. Its sign of life proves that it answers, and may take as long as a start.
            E::Expired(Timer::Probation) if probation == Probation::Running => {
                self.to(P::Standby(Probation::Asked), [A::Arm(Timer::Upgrade), A::SendPing])
            }
            E::Alive if probation == Probation::Asked => {
                self.to(P::Standby(Probation::Passed), [A::Disarm(Timer::Upgrade), A::Arm(Timer::Quiet)])
            }
            E::Expired(Timer::Quiet) if probation != Probation::Passed => self.stay(),
            // The manager takes the death of the followed process for the end of the service, so it follows the successor only
            // after the probation. The successor learns it first: the manager may act as soon as it has the message.
            E::Expired(Timer::Quiet) if self.followed == Followed::This => self.to(
                P::Announcing { stop: false, leaving: false },
                [A::Arm(Timer::Announce), A::SendFollowed, A::Announce],
            ),
            E::Expired(Timer::Quiet) => {
                prepend([A::Report(Ok(()))], self.drain(Drain::Replaced { stop: false }))
            }
            E::Expired(Timer::Upgrade) if probation == Probation::Asked => {
                self.revert(true, false, Failure::Silent)
            }
            // The service was asked to stop before the end of the probation.
            E::Leaving => prepend([A::Disarm(timer), A::Report(Err(Failure::Stopped))], self.leave(false)),
            E::SuccessorOver => prepend([A::Disarm(timer)], self.resume_beside_remnant(false)),
            E::Exited => prepend([A::Disarm(timer)], self.after_death(true, false, Failure::Probation)),
            E::ChannelLost => prepend([A::Disarm(timer)], self.revert(true, false, Failure::ChannelLost)),
            E::Forked => prepend([A::Disarm(timer)], self.revert(true, false, Failure::Background)),
            _ => self.stay(),
        }
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
            E::SuccessorOver if !leaving => prepend(disarm, self.resume_beside_remnant(stop)),
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

    /// Serves again while the successor is over and still lives; `Timer::Remnant` limits the time for its exit. Without a body,
    /// or for a stop, this process cannot serve, and the successor is killed at once.
    fn resume_beside_remnant(self, stop: bool) -> (State, Actions) {
        if stop || self.body_gone {
            return self.revert(true, stop, Failure::Over);
        }
        let actions = [A::TakeBack, A::Open, A::Arm(Timer::Remnant), A::Report(Err(Failure::Over))];
        State { remnant: true, ..self }.to(P::Serving, actions)
    }
}
