//! The rescue: the successor died while this process drains, or in the probation after the body of this process had returned. So this
//! process starts its own executable image as the next successor.

use super::action::{Action as A, Actions, End};
use super::event::{Event as E, Timer};
use super::phase::{Drain, Phase as P, Probation, Rescue};
use super::state::{State, prepend};

/// The number of attempts of a rescue. They are `Timer::Backoff` apart.
pub(super) const RESCUE_ATTEMPTS: u8 = 5;

impl State {
    pub(super) fn rescue(self, event: E, step: Rescue, attempt: u8, finished: bool) -> (State, Actions) {
        match event {
            // This process keeps the sockets until a successor serves, even if it has drained.
            E::BodyReturned | E::Drained | E::Expired(Timer::Drain) => {
                self.to(P::Draining(Drain::Rescue { step, attempt, finished: true }), [])
            }
            E::Stop => self.stop_in_rescue(step, attempt, finished),
            _ => match step {
                Rescue::Initialising => self.rescue_initialising(event, attempt, finished),
                Rescue::Committed => self.rescue_committed(event, attempt, finished),
                Rescue::Probation(probation) => self.rescue_probation(event, probation, attempt, finished),
                Rescue::Killing { stop } => self.rescue_killing(event, stop, attempt, finished),
                Rescue::Waiting if event == E::Expired(Timer::Backoff) => {
                    self.start_rescue(attempt, finished)
                }
                Rescue::Waiting => self.stay(),
            },
        }
    }

    fn stop_in_rescue(self, step: Rescue, attempt: u8, finished: bool) -> (State, Actions) {
        match step {
            Rescue::Killing { stop: true } => self.end(End::AtOnce),
            Rescue::Waiting => prepend([A::Disarm(Timer::Backoff)], self.stop_without_successor(finished)),
            // The successor serves, so the stop means this process alone, as in standby.
            Rescue::Probation(_) if finished => self.end(End::Replaced),
            Rescue::Probation(probation) => {
                self.to(P::Draining(Drain::Replaced { stop: true }), [A::Disarm(probation.timer())])
            }
            Rescue::Initialising | Rescue::Committed | Rescue::Killing { stop: false } => {
                let step = Rescue::Killing { stop: true };
                self.to(
                    P::Draining(Drain::Rescue { step, attempt, finished }),
                    [A::Disarm(Timer::Upgrade), A::Disarm(Timer::Handover), A::Kill, A::Arm(Timer::Exit)],
                )
            }
        }
    }

    fn rescue_initialising(self, event: E, attempt: u8, finished: bool) -> (State, Actions) {
        match event {
            E::Prepared => {
                let step = Rescue::Committed;
                self.to(
                    P::Draining(Drain::Rescue { step, attempt, finished }),
                    [A::Disarm(Timer::Upgrade), A::Arm(Timer::Handover), A::SendCommit],
                )
            }
            E::Failed => self.await_rescue_exit(attempt, finished),
            // The protocol forbids `ACTIVE` and `LEAVING` before `COMMIT`.
            E::Active | E::Leaving | E::Expired(Timer::Upgrade) => self.kill_rescue(attempt, finished),
            _ => self.fail_rescue(event, attempt, finished),
        }
    }

    fn rescue_committed(self, event: E, attempt: u8, finished: bool) -> (State, Actions) {
        match event {
            E::Active => {
                // The verification is for a new release, and this is the former one.
                let step = Rescue::Probation(Probation::Verified);
                self.to(
                    P::Draining(Drain::Rescue { step, attempt, finished }),
                    [A::Disarm(Timer::Handover), A::Arm(Timer::Probation)],
                )
            }
            E::Leaving => self.leave_rescue(finished),
            E::Failed => self.await_rescue_exit(attempt, finished),
            E::Expired(Timer::Handover) => self.kill_rescue(attempt, finished),
            _ => self.fail_rescue(event, attempt, finished),
        }
    }

    fn rescue_probation(
        self,
        event: E,
        probation: Probation,
        attempt: u8,
        finished: bool,
    ) -> (State, Actions) {
        let at =
            |probation| P::Draining(Drain::Rescue { step: Rescue::Probation(probation), attempt, finished });
        match (event, probation) {
            (E::Expired(Timer::Probation), Probation::Verified) => {
                self.to(at(Probation::Asked), [A::Arm(Timer::Upgrade), A::SendPing])
            }
            (E::Alive, Probation::Asked) => {
                self.to(at(Probation::Passed), [A::Disarm(Timer::Upgrade), A::Arm(Timer::Quiet)])
            }
            (E::Expired(Timer::Quiet), Probation::Passed) if finished => self.end(End::Replaced),
            (E::Expired(Timer::Quiet), Probation::Passed) => {
                self.to(P::Draining(Drain::Replaced { stop: false }), [])
            }
            (E::Expired(Timer::Upgrade), Probation::Asked) => self.kill_rescue(attempt, finished),
            (E::Leaving, _) => self.leave_rescue(finished),
            _ => self.fail_rescue(event, attempt, finished),
        }
    }

    fn rescue_killing(self, event: E, stop: bool, attempt: u8, finished: bool) -> (State, Actions) {
        match event {
            E::Exited if stop => {
                prepend([A::Disarm(Timer::Exit), A::TakeBack], self.stop_without_successor(finished))
            }
            E::Exited => self.end_rescue_attempt(attempt, finished),
            E::Forked => self.act([A::Kill]),
            E::Expired(Timer::Exit) => self.act([A::Kill, A::Arm(Timer::Exit)]),
            _ => self.stay(),
        }
    }

    /// The events that end an attempt in each of its steps.
    fn fail_rescue(self, event: E, attempt: u8, finished: bool) -> (State, Actions) {
        match event {
            E::SpawnFailed | E::Exited => self.end_rescue_attempt(attempt, finished),
            E::ChannelLost | E::Forked | E::SuccessorOver => self.kill_rescue(attempt, finished),
            _ => self.stay(),
        }
    }

    pub(super) fn start_rescue(self, attempts: u8, finished: bool) -> (State, Actions) {
        let drain = Drain::Rescue { step: Rescue::Initialising, attempt: attempts + 1, finished };
        self.to(P::Draining(drain), [A::Arm(Timer::Upgrade), A::SpawnRescue])
    }

    /// The successor has failed and exits by itself.
    fn await_rescue_exit(self, attempt: u8, finished: bool) -> (State, Actions) {
        let step = Rescue::Killing { stop: false };
        self.to(
            P::Draining(Drain::Rescue { step, attempt, finished }),
            [A::Disarm(Timer::Upgrade), A::Disarm(Timer::Handover), A::Arm(Timer::Exit)],
        )
    }

    fn kill_rescue(self, attempt: u8, finished: bool) -> (State, Actions) {
        let step = Rescue::Killing { stop: false };
        let timers = [Timer::Upgrade, Timer::Handover, Timer::Probation, Timer::Quiet].map(A::Disarm);
        self.to(
            P::Draining(Drain::Rescue { step, attempt, finished }),
            timers.into_iter().chain([A::Kill, A::Arm(Timer::Exit)]),
        )
    }

    /// The successor has served and stops on request: the service ends.
    fn leave_rescue(self, finished: bool) -> (State, Actions) {
        if finished {
            return self.end(End::Replaced);
        }
        let timers = [Timer::Handover, Timer::Probation, Timer::Upgrade, Timer::Quiet].map(A::Disarm);
        self.to(P::Draining(Drain::Leaving { stop: false }), timers.into_iter().chain([A::LetGo]))
    }

    /// The successor is dead, or was never started: the next attempt follows after a pause, or the service is down.
    fn end_rescue_attempt(self, attempt: u8, finished: bool) -> (State, Actions) {
        let timers =
            [Timer::Upgrade, Timer::Handover, Timer::Exit, Timer::Probation, Timer::Quiet].map(A::Disarm);
        let next = if attempt == RESCUE_ATTEMPTS {
            prepend([A::TakeBack], self.end(End::RescueFailed))
        } else {
            let drain = Drain::Rescue { step: Rescue::Waiting, attempt, finished };
            self.to(P::Draining(drain), [A::TakeBack, A::Arm(Timer::Backoff)])
        };
        prepend(timers, next)
    }

    /// A stop in a rescue without a successor.
    fn stop_without_successor(self, finished: bool) -> (State, Actions) {
        if finished {
            self.end(End::Final)
        } else {
            self.to(P::Draining(Drain::Stop { owner: true }), [A::LetGo])
        }
    }
}
