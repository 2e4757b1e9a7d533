//! Orders that look natural and are wrong. Each is a change of one step, or of how an action is carried out.

use super::promises::{DESCRIPTOR, NO_TOUCH, NO_WAIT, NOT_LOST, ONE_OWNER};
use super::{End, GiverAction as GA, GiverEvent as GE, TakerAction as TA, TakerEvent as TE, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wrong {
    /// The giver takes back at its deadline without reading the answers.
    DoesNotReadTheAnswers,
    /// The giver takes back by closing its end.
    ClosesToTakeBack,
    /// The giver says goodbye at its deadline on what it has offered.
    SaysGoodbye,
    /// The giver touches a connection before `withdrawn` is in the link.
    TouchesBeforeWithdrawn,
    /// The giver goes on although `withdrawn` was not sent.
    LosesWithdrawn,
    /// Offers leave no room for `withdrawn` in the link.
    FillsTheLink,
    /// The giver closes its descriptor when the offer is sent.
    ClosesAtTheOffer,
    /// The giver takes the error of a link whose other end is closed for the end of the link.
    TakesAResetForTheEnd,
    /// The giver keeps what it has offered, after it has closed its end itself.
    KeepsAfterClosing,
    /// The drain ends while offers are without a verdict.
    EndsTheDrainWithOffers,
    /// The taker takes EPIPE for the death of the giver.
    TakesEpipeForADeath,
    /// The taker knows that the giver is dead, and decides before it has read the link to its end.
    DecidesBeforeTheEnd,
    /// The taker touches a connection before `taken` is in the link.
    TouchesBeforeTaken,
    /// The taker owns what it holds, after it has closed its end itself.
    OwnsAfterClosing,
}

/// Each wrong order, and the promises that it breaks.
pub(super) const ALL: [(Wrong, &[&str]); 14] = [
    (Wrong::DoesNotReadTheAnswers, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::ClosesToTakeBack, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::SaysGoodbye, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::TouchesBeforeWithdrawn, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::LosesWithdrawn, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::FillsTheLink, &[NO_WAIT]),
    (Wrong::ClosesAtTheOffer, &[DESCRIPTOR]),
    (Wrong::TakesAResetForTheEnd, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::KeepsAfterClosing, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::EndsTheDrainWithOffers, &[NOT_LOST]),
    (Wrong::TakesEpipeForADeath, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::DecidesBeforeTheEnd, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::TouchesBeforeTaken, &[NO_TOUCH, ONE_OWNER]),
    (Wrong::OwnsAfterClosing, &[NO_TOUCH, ONE_OWNER]),
];

impl Wrong {
    /// A step of the giver, with this mistake.
    pub(super) fn giver_step(self, world: &mut World, event: GE) -> Vec<GA> {
        let offered: Vec<_> = world.giver.offered.iter().copied().collect();
        let mut actions = world.giver.step(event);
        match (self, event) {
            (Self::DoesNotReadTheAnswers, GE::Deadline) => actions.extend(world.giver.step(GE::End)),
            (Self::ClosesToTakeBack, GE::Deadline) if world.giver_end == End::Open => {
                world.close_giver(End::Lost);
                actions = world.giver.step(GE::End);
            }
            (Self::SaysGoodbye, GE::Deadline) => actions.extend(offered.into_iter().map(GA::Keep)),
            (Self::TouchesBeforeWithdrawn, _) => actions.reverse(),
            (Self::KeepsAfterClosing, GE::Closed) => {
                actions = offered.into_iter().map(GA::Keep).collect();
            }
            _ => {}
        }
        actions
    }

    /// A step of the taker, with this mistake.
    pub(super) fn taker_step(self, world: &mut World, event: TE) -> Vec<TA> {
        let held: Vec<_> = world.taker.held.keys().copied().collect();
        let mut actions = world.taker.step(event.clone());
        match (self, event) {
            (Self::TakesEpipeForADeath, TE::NotSent(_)) => actions = world.taker.step(TE::End),
            (Self::TouchesBeforeTaken, TE::Take(_)) => {
                if let [TA::SendTaken(id)] = actions[..] {
                    actions.insert(0, TA::Own(id));
                }
            }
            (Self::OwnsAfterClosing, TE::Closed) => actions = held.into_iter().map(TA::Own).collect(),
            _ => {}
        }
        actions
    }
}
