//! What happens without a fault.

use super::wrong::Wrong;
use super::{CONNECTIONS, End, GiverAction, GiverEvent, Id, Life, TakerAction, TakerEvent};
use super::{ToGiver, ToTaker, Verdict, World};

/// The giver of a few connections takes fewer steps to its end.
const MOST_STEPS: usize = 50;

impl World {
    /// Every world that follows by itself, except the end of the giver.
    pub(super) fn progress(&self) -> Vec<World> {
        let mut next = Vec::new();
        if self.giver_life == Life::Alive {
            next.extend(self.giver_goes_on());
            for id in CONNECTIONS.into_iter().filter(|id| self.verdict(*id) == Verdict::None) {
                next.push(self.after(|world| world.offer(id)));
            }
            next.push(self.after(|world| world.giver_hears(GiverEvent::Deadline)));
        }
        if self.taker_life == Life::Alive {
            next.extend(self.taker_goes_on());
            for id in self.of_taker.difference(&self.by_taker).copied() {
                next.push(self.after(|world| world.taker_hears(TakerEvent::Take(id))));
                next.push(self.after(|world| world.taker_hears(TakerEvent::Refuse(id))));
            }
        }
        next
    }

    pub(super) fn after(&self, change: impl FnOnce(&mut World)) -> World {
        let mut world = self.clone();
        change(&mut world);
        world
    }

    /// The drain ends: this process has finished its connections, and each offer has its verdict.
    pub(super) fn end_drain(&self) -> Option<World> {
        let is_settled = self.giver.is_settled() || self.wrong == Some(Wrong::EndsTheDrainWithOffers);
        let is_over = self.giver_life == Life::Alive && self.giver_todo.is_empty() && is_settled;
        is_over.then(|| self.after(|world| world.end_giver(Life::Drained)))
    }

    fn offer(&mut self, id: Id) {
        self.by_giver.remove(&id);
        self.giver_hears(GiverEvent::Offer(id));
        let is_offered = self.giver.offered.contains(&id);
        self.judge(id, Verdict::None, if is_offered { Verdict::Open } else { Verdict::Giver });
    }

    pub(super) fn giver_hears(&mut self, event: GiverEvent) {
        let actions = match self.wrong {
            Some(wrong) => wrong.giver_step(self, event),
            None => self.giver.step(event),
        };
        self.giver_todo.extend(actions);
    }

    pub(super) fn taker_hears(&mut self, event: TakerEvent) {
        let refused = match event {
            TakerEvent::Refuse(id) => Some(id),
            _ => None,
        };
        let actions = match self.wrong {
            Some(wrong) => wrong.taker_step(self, event),
            None => self.taker.step(event),
        };
        self.refused.extend(refused.filter(|id| actions.contains(&TakerAction::Drop(*id))));
        self.taker_todo.extend(actions);
    }

    /// The giver carries out its next action. Without one it reads the link.
    fn giver_goes_on(&self) -> Option<World> {
        match self.giver_todo.front() {
            Some(action) => Some(self.after(|world| world.giver_acts(action))),
            None => self.giver_reads(),
        }
    }

    fn giver_acts(&mut self, action: &GiverAction) {
        let can_send = self.is_link_open();
        let is_full = self.to_taker.len() == self.room;
        let has_room_for_offers =
            self.to_taker.len() + 1 < self.room || self.wrong == Some(Wrong::FillsTheLink);
        if matches!(action, GiverAction::SendWithdrawn(_)) && can_send && is_full {
            return;
        }
        self.giver_todo.pop_front();
        match *action {
            GiverAction::SendOffer(id) if can_send && has_room_for_offers && !is_full => {
                self.to_taker.push_back(ToTaker::Offer(id));
                if self.wrong == Some(Wrong::ClosesAtTheOffer) {
                    self.of_giver.remove(&id);
                }
            }
            GiverAction::SendOffer(id) => self.fail_offer(id),
            GiverAction::ShutDown => self.is_shut_down = true,
            GiverAction::SendWithdrawn(_) if self.wrong == Some(Wrong::LosesWithdrawn) => {}
            GiverAction::SendWithdrawn(ref ids) => {
                ids.iter().for_each(|id| self.judge(*id, Verdict::Open, Verdict::Giver));
                if can_send {
                    self.to_taker.push_back(ToTaker::Withdrawn(ids.clone()));
                }
            }
            GiverAction::Keep(id) => _ = self.by_giver.insert(id),
            GiverAction::LetGo(id) => _ = self.of_giver.remove(&id),
        }
    }

    pub(super) fn fail_offer(&mut self, id: Id) {
        self.judge(id, Verdict::Open, Verdict::Giver);
        self.giver_hears(GiverEvent::NotSent(id));
    }

    fn giver_reads(&self) -> Option<World> {
        if self.giver_end != End::Open {
            return None;
        }
        let is_reset = self.taker_end != End::Open;
        let is_end = self.to_giver.is_empty() && (is_reset || self.is_shut_down);
        if is_end || is_reset && self.wrong == Some(Wrong::TakesAResetForTheEnd) {
            return Some(self.after(|world| world.giver_hears(GiverEvent::End)));
        }
        let answer = *self.to_giver.front()?;
        Some(self.after(|world| {
            world.to_giver.pop_front();
            world.giver_hears(match answer {
                ToGiver::Taken(id) => GiverEvent::Taken(id),
                ToGiver::Refused(id) => GiverEvent::Refused(id),
            });
        }))
    }

    /// The taker carries out its next action, or reads the link while an answer waits for room there.
    fn taker_goes_on(&self) -> Vec<World> {
        let acts = self.taker_todo.front().map(|action| self.after(|world| world.taker_acts(action)));
        acts.into_iter().chain(self.taker_reads()).collect()
    }

    fn taker_acts(&mut self, action: &TakerAction) {
        let is_open = self.is_link_open();
        let can_send = is_open && !self.is_shut_down;
        self.taker_todo.pop_front();
        match *action {
            TakerAction::SendTaken(id) if can_send => {
                self.to_giver.push_back(ToGiver::Taken(id));
                self.judge(id, Verdict::Open, Verdict::Taker);
                self.taker_hears(TakerEvent::Sent(id));
            }
            TakerAction::SendTaken(id) => self.taker_hears(TakerEvent::NotSent(id)),
            TakerAction::SendRefused(id) if can_send => {
                self.to_giver.push_back(ToGiver::Refused(id));
                self.judge(id, Verdict::Open, Verdict::Giver);
            }
            TakerAction::SendRefused(_) => {}
            TakerAction::Own(id) => _ = self.by_taker.insert(id),
            TakerAction::Drop(id) => _ = self.of_taker.remove(&id),
        }
    }

    fn taker_reads(&self) -> Option<World> {
        if self.taker_end != End::Open {
            return None;
        }
        let is_reset = self.giver_end != End::Open;
        if is_reset && (self.to_taker.is_empty() || self.wrong == Some(Wrong::DecidesBeforeTheEnd)) {
            return Some(self.after(|world| world.taker_hears(TakerEvent::End)));
        }
        let message = self.to_taker.front()?.clone();
        Some(self.after(|world| {
            world.to_taker.pop_front();
            match message {
                ToTaker::Offer(id) => {
                    world.of_taker.insert(id);
                    world.taker_hears(TakerEvent::Arrived(id));
                }
                ToTaker::Withdrawn(ids) => world.taker_hears(TakerEvent::Withdrawn(ids)),
            }
        }))
    }

    /// Whether the giver gives each offer its verdict after its deadline while the taker hangs.
    pub(super) fn settles_without_the_taker(&self) -> bool {
        let mut world = self.after(|world| world.giver_hears(GiverEvent::Deadline));
        for _ in 0..MOST_STEPS {
            if world.giver.is_settled() && world.giver_todo.is_empty() {
                return true;
            }
            match world.giver_goes_on() {
                Some(next) if next != world => world = next,
                _ => return false,
            }
        }
        false
    }
}
