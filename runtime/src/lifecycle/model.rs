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
//! * a channel that breaks while both processes live;
//! * if the budget says so: a stopped successor (SIGSTOP), a successor that forks and whose first process exits, and an end of
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

/// Some of each kind, in a few seconds.
const SMALL: [Budget; 11] = [
    (2, 2, 1, Overlap::Refuse, false, NONE),
    (1, 1, 2, Overlap::Refuse, false, NONE),
    (2, 0, 2, Overlap::Wait, false, NONE),
    (3, 1, 1, Overlap::Hasten, false, NONE),
    (1, 1, 2, Overlap::Refuse, true, NONE),
    (3, 3, 0, Overlap::Refuse, true, NONE),
    (1, 1, 1, Overlap::Refuse, false, STALL),
    (1, 1, 1, Overlap::Refuse, true, FORK),
    (1, 0, 2, Overlap::Refuse, false, FORK),
    (2, 1, 1, Overlap::Wait, false, CUT),
    (1, 0, 2, Overlap::Refuse, false, Faults { stall: true, fork: true, cut: true }),
];

/// More of each kind: all of them take some minutes without optimisation.
const LARGE: [Budget; 14] = [
    (2, 0, 3, Overlap::Refuse, false, NONE),
    (2, 3, 1, Overlap::Refuse, false, NONE),
    (3, 2, 2, Overlap::Refuse, false, NONE),
    (3, 1, 2, Overlap::Wait, false, NONE),
    (3, 1, 2, Overlap::Hasten, false, NONE),
    (2, 1, 2, Overlap::Refuse, true, NONE),
    (2, 2, 1, Overlap::Hasten, true, NONE),
    (2, 1, 2, Overlap::Refuse, false, STALL),
    (1, 1, 2, Overlap::Refuse, true, STALL),
    (2, 1, 2, Overlap::Refuse, false, FORK),
    (1, 1, 2, Overlap::Refuse, true, FORK),
    (2, 1, 2, Overlap::Wait, false, CUT),
    (1, 1, 2, Overlap::Refuse, true, CUT),
    (1, 0, 3, Overlap::Refuse, false, Faults { stall: true, fork: true, cut: true }),
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
    let (upgrades, stops, faults, overlap, managed, extra) = budget;
    let (states, settled) = explore(World::new(budget));
    println!(
        "{upgrades} upgrades, {stops} stops, {faults} faults of {extra:?}, {overlap:?}, managed {managed}: {states} states, \
         {settled} settled"
    );
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
