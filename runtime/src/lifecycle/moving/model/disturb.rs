//! The faults.

use super::{End, GiverAction, GiverEvent, Life, TakerAction, TakerEvent, World};

impl World {
    /// Every world that follows from a fault.
    pub(super) fn disturb(&self) -> Vec<World> {
        let mut next = Vec::new();
        if self.faults == 0 {
            return next;
        }
        let faulty = self.after(|world| world.faults -= 1);
        if self.giver_life == Life::Alive {
            next.push(faulty.after(|world| world.end_giver(Life::Dead)));
            if let Some(&GiverAction::SendOffer(id)) = self.giver_todo.front() {
                next.push(faulty.after(|world| {
                    world.giver_todo.pop_front();
                    world.fail_offer(id);
                }));
            }
        }
        // A process closes its end between two steps.
        if self.giver_end == End::Open && self.giver_todo.is_empty() {
            next.push(faulty.after(|world| {
                world.close_giver(End::Lost);
                world.giver_hears(GiverEvent::Closed);
            }));
        }
        if self.taker_life == Life::Alive {
            next.push(faulty.after(World::kill_taker));
            match self.taker_todo.front() {
                Some(&TakerAction::SendTaken(id)) => next.push(faulty.after(|world| {
                    world.taker_todo.pop_front();
                    world.taker_hears(TakerEvent::NotSent(id));
                })),
                Some(TakerAction::SendRefused(_)) => {
                    next.push(faulty.after(|world| _ = world.taker_todo.pop_front()));
                }
                _ => {}
            }
        }
        if self.taker_end == End::Open {
            next.push(faulty.after(|world| {
                world.close_taker();
                world.taker_hears(TakerEvent::Closed);
            }));
        }
        next
    }
}
