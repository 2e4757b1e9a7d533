//! What must hold in every world.

use super::{CONNECTIONS, End, Id, Life, Verdict, World};

pub(super) const ONE_OWNER: &str = "two processes own a connection";
pub(super) const NO_TOUCH: &str = "a process touches a connection without the verdict";
pub(super) const DESCRIPTOR: &str = "a process owns a connection whose descriptor it has closed";
pub(super) const NO_WAIT: &str = "the drain waits for a taker that hangs";
pub(super) const NOT_LOST: &str = "no process owns a connection";
pub(super) const NOT_LEFT: &str = "a process keeps the descriptor of a connection that it does not own";

pub(super) const ALL: [&str; 6] = [ONE_OWNER, NO_TOUCH, DESCRIPTOR, NO_WAIT, NOT_LOST, NOT_LEFT];

impl World {
    /// The promises that are broken. `is_settled`: nothing more happens by itself.
    pub(super) fn broken(&self, is_settled: bool) -> Vec<&'static str> {
        let is_of_giver = |id: &Id| matches!(self.verdict(*id), Verdict::None | Verdict::Giver);
        let is_of_taker = |id: &Id| self.verdict(*id) == Verdict::Taker;
        let giver_lives = self.giver_life == Life::Alive;
        let taker_lives = self.taker_life == Life::Alive;
        let has_owner =
            |id: &Id| giver_lives && self.by_giver.contains(id) || taker_lives && self.by_taker.contains(id);
        let giver_has_all = !giver_lives || self.by_giver.is_subset(&self.of_giver);
        let taker_has_all = !taker_lives || self.by_taker.is_subset(&self.of_taker);
        let giver_has_more = giver_lives && self.of_giver != self.by_giver;
        let taker_has_more = taker_lives && self.of_taker != self.by_taker;
        let promises = [
            (self.by_giver.is_disjoint(&self.by_taker), ONE_OWNER),
            (self.by_giver.iter().all(is_of_giver) && self.by_taker.iter().all(is_of_taker), NO_TOUCH),
            (giver_has_all && taker_has_all, DESCRIPTOR),
            (!giver_lives || self.settles_without_the_taker(), NO_WAIT),
            (!is_settled || CONNECTIONS.iter().all(|id| has_owner(id) || self.is_excused(*id)), NOT_LOST),
            (!is_settled || !giver_has_more && !taker_has_more, NOT_LEFT),
        ];
        promises.into_iter().filter(|(holds, _)| !holds).map(|(_, promise)| promise).collect()
    }

    /// Whether a connection may be without an owner.
    fn is_excused(&self, id: Id) -> bool {
        let verdict = self.verdict(id);
        // The giver has finished it in its drain.
        let is_finished =
            self.giver_life == Life::Drained && matches!(verdict, Verdict::None | Verdict::Giver);
        // It died with the process that had it. A dead giver has not sent an offer that is without a verdict.
        let died = match verdict {
            Verdict::None | Verdict::Open | Verdict::Giver => self.giver_life == Life::Dead,
            Verdict::Taker => self.taker_life == Life::Dead,
        };
        // The body did not want it, and the giver cannot have it back.
        let is_giver_lost = self.giver_end == End::Lost;
        let is_unwanted = self.refused.contains(&id) && is_giver_lost;
        let are_both_lost = is_giver_lost && self.taker_end == End::Lost;
        is_finished || died || is_unwanted || are_both_lost
    }
}
