//! The end of a successor that failed, and the return to serving.

use super::action::{Action as A, Actions, End, Failure, Refusal};
use super::event::{Event as E, Timer};
use super::phase::Phase as P;
use super::state::{State, prepend};

impl State {
    pub(super) fn reverting(
        self,
        event: E,
        paused: bool,
        then_stop: bool,
        failure: Failure,
    ) -> (State, Actions) {
        match event {
            E::Upgrade if then_stop => self.refuse(Refusal::Terminating),
            E::Upgrade => self.refuse(Refusal::InProgress),
            E::Exited => prepend([A::Disarm(Timer::Exit)], self.after_death(paused, then_stop, failure)),
            // The forks of the successor are killed as well.
            E::Forked => self.act([A::Kill]),
            E::Expired(Timer::Exit) => self.act([A::Kill, A::Arm(Timer::Exit)]),
            E::Stop if then_stop => prepend([A::Kill], self.end(End::AtOnce)),
            E::Stop => self.to(P::Reverting { paused, then_stop: true, failure }, [A::Kill]),
            _ => self.stay(),
        }
    }

    /// Kills the successor and waits for its death. `paused`: the gates of this process are closed.
    pub(super) fn revert(self, paused: bool, then_stop: bool, failure: Failure) -> (State, Actions) {
        self.to(
            P::Reverting { paused, then_stop, failure },
            [A::Disarm(Timer::Upgrade), A::Disarm(Timer::Handover), A::Kill, A::Arm(Timer::Exit)],
        )
    }

    /// The successor is dead: this process resumes, or stops if `then_stop`. Without a body it cannot resume, and starts its own
    /// executable image.
    pub(super) fn after_death(self, paused: bool, then_stop: bool, failure: Failure) -> (State, Actions) {
        let resumes = paused && !then_stop && !self.body_gone;
        let next = if then_stop {
            self.stop_as_owner()
        } else if self.body_gone && paused {
            self.start_rescue(0, true)
        } else if self.body_gone {
            // The successor never served, and the body has ended the service.
            self.end(End::Final)
        } else {
            self.to(P::Serving, [])
        };
        let mut actions = Actions::new();
        actions.extend(paused.then_some(A::TakeBack));
        actions.extend(resumes.then_some(A::Open));
        actions.push(A::Report(Err(failure)));
        prepend(actions, next)
    }
}
