//! The state of a process in its life, and the simplest steps.

use super::action::{Action as A, Actions, End, NoRevert, Refusal};
use super::event::Timer;
use super::phase::{Drain, Phase as P};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) phase: P,
    /// The process that started this one.
    pub(crate) predecessor: Predecessor,
    /// The body has returned.
    pub(crate) body_gone: bool,
    /// The answer to a request to upgrade while the predecessor lives.
    pub(crate) overlap: Overlap,
    /// A request to upgrade waits for the death of the predecessor or of the remnant.
    pub(crate) pending: bool,
    /// The successor has asked for a quick end of this process.
    pub(crate) hastened: bool,
    pub(crate) followed: Followed,
    /// A successor that has served still lives, and this process serves again. That one is over, or was reverted and drains.
    pub(crate) remnant: bool,
    /// This process serves, and has asked its predecessor to serve again.
    pub(crate) asking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Predecessor {
    /// This process is the first one of the service.
    None,
    Alive,
    /// The predecessor lives, and never opens a gate again: only this process can serve.
    Over,
    /// The predecessor is dead: only this process can serve.
    Gone,
}

impl Predecessor {
    /// Only this process can serve: it does so whatever fails.
    pub(crate) fn never_serves_again(self) -> bool {
        matches!(self, Self::Over | Self::Gone)
    }
}

/// The answer to a request to upgrade while the predecessor still drains. As text: `refuse`, `wait` or `hasten`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overlap {
    /// The request fails with [`PredecessorOnStandby`](crate::UpgradeError::PredecessorOnStandby) or
    /// [`PredecessorDraining`](crate::UpgradeError::PredecessorDraining); after a revert, with
    /// [`SuccessorDraining`](crate::UpgradeError::SuccessorDraining).
    #[default]
    Refuse,
    /// The upgrade starts once the predecessor is gone.
    Wait,
    /// As `Wait`, and the predecessor ends its drain within 1 s.
    Hasten,
}

/// The process that a service manager follows as the main process of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Followed {
    /// There is no service manager, or it follows a supervisor.
    Nobody,
    This,
    /// The predecessor or the successor.
    Other,
}

/// What the service manager learns of the process that it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Starting,
    Ready,
    Reloading,
    Stopping,
    /// Nothing: the other process reports to the manager.
    Nothing,
}

impl State {
    /// The first state, and the actions at its beginning.
    pub(crate) fn new(predecessor: Predecessor, overlap: Overlap, managed: bool) -> (State, Actions) {
        let followed = match predecessor {
            _ if !managed => Followed::Nobody,
            Predecessor::Alive | Predecessor::Over => Followed::Other,
            Predecessor::None | Predecessor::Gone => Followed::This,
        };
        let state = State {
            phase: P::Starting,
            predecessor,
            body_gone: false,
            overlap,
            pending: false,
            hastened: false,
            followed,
            remnant: false,
            asking: false,
        };
        (state, vec![A::Arm(Timer::Upgrade)])
    }

    /// What the service manager learns of this process.
    pub(crate) fn known(&self) -> Known {
        if self.followed == Followed::Other {
            return Known::Nothing;
        }
        match self.phase {
            P::Starting | P::Prepared | P::TakingOver => Known::Starting,
            P::Serving if !self.pending => Known::Ready,
            P::Serving
            | P::Checking
            | P::Upgrading
            | P::Probing
            | P::Pausing
            | P::Committed { .. }
            | P::Standby(_)
            | P::Recalling { .. }
            | P::Yielding
            | P::Yielded
            | P::Reverting { .. } => Known::Reloading,
            P::Draining(Drain::Stop { owner: true } | Drain::Leaving { .. } | Drain::Last { .. }) => {
                Known::Stopping
            }
            P::Announcing { .. } | P::Draining(_) | P::Ended => Known::Nothing,
        }
    }

    /// Whether the gates are open: the body gets connections and datagrams.
    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        matches!(
            self.phase,
            P::Serving | P::Checking | P::Upgrading | P::Probing | P::Reverting { paused: false, .. }
        )
    }

    /// The predecessor lives and may serve again.
    pub(super) fn has_predecessor(self) -> bool {
        self.predecessor == Predecessor::Alive
    }

    /// A request for a revert has a meaning: this process is in standby, or its predecessor is.
    pub(super) fn may_revert(self) -> bool {
        match self.phase {
            P::Serving => self.has_predecessor(),
            P::Standby(_) => !self.body_gone,
            P::Recalling { .. } | P::Yielding | P::Yielded => true,
            _ => false,
        }
    }

    /// Another process of the service lives. A service has at most two processes, so no successor is started meanwhile.
    pub(super) fn has_other_process(self) -> bool {
        self.remnant || matches!(self.predecessor, Predecessor::Alive | Predecessor::Over)
    }

    /// The service manager follows this process from now on, if it followed the predecessor.
    pub(super) fn become_followed(&mut self) {
        if self.followed == Followed::Other {
            self.followed = Followed::This;
        }
    }

    /// Ignores the event.
    pub(super) fn stay(self) -> (State, Actions) {
        (self, Actions::new())
    }

    /// Stays in the phase, with these actions.
    pub(super) fn act(self, actions: impl IntoIterator<Item = A>) -> (State, Actions) {
        (self, actions.into_iter().collect())
    }

    /// Enters the phase, with these actions.
    pub(super) fn to(self, phase: P, actions: impl IntoIterator<Item = A>) -> (State, Actions) {
        State { phase, ..self }.act(actions)
    }

    pub(super) fn refuse(self, refusal: Refusal) -> (State, Actions) {
        self.act([A::Refuse(refusal)])
    }

    pub(super) fn refuse_revert(self, reason: NoRevert) -> (State, Actions) {
        self.act([A::ReportRevert(Err(reason))])
    }

    pub(super) fn end(self, end: End) -> (State, Actions) {
        self.to(P::Ended, [A::End(end)])
    }
}

/// The same step, with these actions before its own.
pub(super) fn prepend(
    before: impl IntoIterator<Item = A>,
    (state, actions): (State, Actions),
) -> (State, Actions) {
    (state, before.into_iter().chain(actions).collect())
}
