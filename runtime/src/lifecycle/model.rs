//! An exhaustive search over processes that run the real `step` against each other.
//!
//! The model adds what surrounds the machine. The two directions of the channel are queues. An armed timer may expire at any
//! moment. There is a pid file, and each process learns of the death of the other one later. A process whose life cycle has ended
//! lives on for any time, as a `main` does after `Service::run`.
//!
//! Faults come from a budget:
//!
//! * a crash at any moment, between any two actions of a step;
//! * a successor that cannot be spawned, or is another service;
//! * a pid file that cannot be written;
//! * a body that returns, or never becomes ready;
//! * a successor that fails the probe or the verification;
//! * a channel that breaks while both processes live;
//! * if the budget says so: a stopped successor, or a predecessor that is stopped while it recalls the service (SIGSTOP), a successor that forks and whose first process exits, and an end of
//!   the channel that both processes see.
//!
//! A service manager, if there is one, follows another process only on the message of the process that it follows.

use std::collections::HashSet;

use super::Overlap;

mod actions;
mod disturb;
mod progress;
mod promises;
mod world;

use world::{Budget, Faults, World};

const NONE: Faults = Faults { stall: false, fork: false, cut: false };
const STALL: Faults = Faults { stall: true, ..NONE };
const FORK: Faults = Faults { fork: true, ..NONE };
const CUT: Faults = Faults { cut: true, ..NONE };

/// Upgrades, stops, faults, the overlap, a service manager, and the extra faults.
const fn budget(
    upgrades: u8,
    stops: u8,
    faults: u8,
    overlap: Overlap,
    managed: bool,
    extra: Faults,
) -> Budget {
    Budget { upgrades, stops, reverts: 0, faults, overlap, managed, extra }
}

/// Some of each kind, in a few seconds.
const SMALL: [Budget; 16] = [
    budget(2, 2, 1, Overlap::Refuse, false, NONE),
    budget(1, 1, 2, Overlap::Refuse, false, NONE),
    budget(2, 0, 2, Overlap::Wait, false, NONE),
    budget(3, 1, 1, Overlap::Hasten, false, NONE),
    budget(1, 1, 2, Overlap::Refuse, true, NONE),
    budget(3, 3, 0, Overlap::Refuse, true, NONE),
    budget(1, 1, 1, Overlap::Refuse, false, STALL),
    budget(1, 1, 1, Overlap::Refuse, true, FORK),
    budget(1, 0, 2, Overlap::Refuse, false, FORK),
    budget(2, 1, 1, Overlap::Wait, false, CUT),
    budget(1, 0, 2, Overlap::Refuse, false, Faults { stall: true, fork: true, cut: true }),
    budget(1, 1, 1, Overlap::Refuse, false, NONE).and_reverts(2),
    budget(2, 0, 1, Overlap::Hasten, false, NONE).and_reverts(2),
    budget(1, 2, 0, Overlap::Refuse, true, NONE).and_reverts(1),
    budget(1, 0, 1, Overlap::Refuse, false, STALL).and_reverts(1),
    budget(1, 0, 1, Overlap::Refuse, false, Faults { stall: false, fork: true, cut: true }).and_reverts(1),
];

/// More of each kind: all of them take some minutes without optimisation.
const LARGE: [Budget; 21] = [
    budget(2, 0, 3, Overlap::Refuse, false, NONE),
    budget(2, 3, 1, Overlap::Refuse, false, NONE),
    budget(3, 2, 2, Overlap::Refuse, false, NONE),
    budget(3, 1, 2, Overlap::Wait, false, NONE),
    budget(3, 1, 2, Overlap::Hasten, false, NONE),
    budget(2, 1, 2, Overlap::Refuse, true, NONE),
    budget(2, 2, 1, Overlap::Hasten, true, NONE),
    budget(2, 1, 2, Overlap::Refuse, false, STALL),
    budget(1, 1, 2, Overlap::Refuse, true, STALL),
    budget(2, 1, 2, Overlap::Refuse, false, FORK),
    budget(1, 1, 2, Overlap::Refuse, true, FORK),
    budget(2, 1, 2, Overlap::Wait, false, CUT),
    budget(1, 1, 2, Overlap::Refuse, true, CUT),
    budget(1, 0, 3, Overlap::Refuse, false, Faults { stall: true, fork: true, cut: true }),
    budget(1, 1, 2, Overlap::Refuse, false, NONE).and_reverts(2),
    budget(2, 1, 1, Overlap::Wait, false, NONE).and_reverts(2),
    budget(2, 2, 1, Overlap::Refuse, true, NONE).and_reverts(1),
    budget(1, 1, 2, Overlap::Refuse, false, STALL).and_reverts(1),
    budget(1, 1, 1, Overlap::Refuse, true, STALL).and_reverts(2),
    budget(1, 1, 1, Overlap::Refuse, false, CUT).and_reverts(2),
    budget(1, 1, 1, Overlap::Refuse, true, FORK).and_reverts(2),
];

#[test]
fn no_interleaving_breaks_the_promises() {
    SMALL.into_iter().for_each(search);
}

/// With `SLOW_TESTS` or `CI` set it takes a seventh of the large budgets, another one each day. `MODEL=all` takes all.
#[test]
fn no_interleaving_breaks_the_promises_in_a_larger_search() {
    let is_set = |name| std::env::var_os(name).is_some();
    let all = std::env::var_os("MODEL").is_some_and(|value| value == "all");
    if !all && !is_set("SLOW_TESTS") && !is_set("CI") {
        return;
    }
    let began = std::time::UNIX_EPOCH.elapsed().expect("the clock is set");
    let today = usize::try_from(began.as_secs() / 86_400 % 7).expect("it is below 7");
    LARGE
        .into_iter()
        .enumerate()
        .filter(|(at, _)| all || at % 7 == today)
        .for_each(|(_, budget)| search(budget));
}

fn search(budget: Budget) {
    let (states, settled) = explore(World::new(budget));
    println!("{budget:?}: {states} states, {settled} settled");
    assert!(settled > 0 && states > 50, "the search did not get anywhere");
}

/// Explores every world within the budget, and returns the number of worlds and the number of settled ones. For a violation it
/// prints the shortest way to it.
fn explore(first: World) -> (usize, usize) {
    let mut worlds = vec![first];
    let mut came_from = vec![0];
    let mut seen: HashSet<World> = worlds.iter().cloned().collect();
    let mut settled = 0;
    let mut at = 0;
    while at < worlds.len() {
        let world = worlds[at].clone();
        let progress = world.progress();
        // The repeated warning of a slow first start leads to the same world. Everything else leads to another one.
        let is_settled = progress.iter().all(|next| *next == world);
        settled += usize::from(is_settled);
        let promises = world.check().and_then(|()| if is_settled { world.check_settled() } else { Ok(()) });
        if let Err(violation) = promises {
            let mut trail = vec![at];
            while *trail.last().unwrap() != 0 {
                trail.push(came_from[*trail.last().unwrap()]);
            }
            trail.iter().rev().for_each(|step| println!("{}", worlds[*step]));
            panic!("{violation}; the way there is printed above");
        }
        for next in progress.into_iter().chain(world.disturb()) {
            if seen.insert(next.clone()) {
                worlds.push(next);
                came_from.push(at);
            }
        }
        at += 1;
    }
    (worlds.len(), settled)
}
