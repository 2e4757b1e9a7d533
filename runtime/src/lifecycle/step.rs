//! The entry of the life cycle. The files of the phases have the table.

use super::action::{Action as A, Actions, NoRevert, Refusal};
use super::event::Event as E;
use super::phase::Phase as P;
use super::state::{Predecessor, State};

impl State {
    /// One step. Every pair of phase and event has an answer. An event without a meaning in a phase changes nothing.
    #[must_use]
    pub(crate) fn step(mut self, event: E) -> (State, Actions) {
        // Facts that hold in every phase are noted here, so that the table is about phases alone.
        match event {
            E::PredecessorGone => {
                self.predecessor = Predecessor::Gone;
                self.become_followed();
            }
            E::PredecessorOver if self.has_predecessor() => self.predecessor = Predecessor::Over,
            // After the death or the last message of the predecessor, the end of the channel is expected.
            E::PredecessorOver | E::PredecessorLost if !self.has_predecessor() => return self.stay(),
            E::Followed => self.become_followed(),
            E::BodyReturned => self.body_gone = true,
            E::Hasten => self.hastened = true,
            E::Exited => {
                self.hastened = false;
                self.remnant = false;
            }
            _ => {}
        }
        match event {
            // Only a process in standby can serve again, and only one that serves can ask it to.
            E::Revert if !self.may_revert() => return self.refuse_revert(NoRevert::NoStandby),
            E::AskedBack if !matches!(self.phase, P::Standby(_) | P::Recalling { .. }) => {
                return self.act([A::SendDeclined]);
            }
            _ => {}
        }
        match self.phase {
            P::Starting => self.starting(event),
            P::Prepared => self.prepared(event),
            P::TakingOver => self.taking_over(event),
            P::Serving => self.serving(event),
            P::Checking => self.checking(event),
            P::Upgrading => self.upgrading(event),
            P::Probing => self.probing(event),
            P::Pausing => self.pausing(event),
            P::Committed { stop } => self.committed(event, stop),
            P::Standby(probation) => self.standby(event, probation),
            P::Recalling { stop, failure } => self.recalling(event, stop, failure),
            P::Yielding => self.yielding(event),
            P::Yielded => self.yielded(event),
            P::Announcing { stop, leaving } => self.announcing(event, stop, leaving),
            P::Reverting { paused, then_stop, failure } => self.reverting(event, paused, then_stop, failure),
            P::Draining(drain) => self.draining(event, drain),
            P::Ended => match event {
                E::Upgrade => self.refuse(Refusal::Terminating),
                _ => self.stay(),
            },
        }
    }
}
