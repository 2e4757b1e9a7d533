//! An exhaustive search over two processes, the link between them, and the connections that move through it.
//!
//! Both ends run the real `step`. The search takes every order of offers, answers, the decisions of the body and the deadline, and
//! tries these faults at any moment, also between any two actions:
//!
//! * the death of either process;
//! * an end of the link that its process closes by mistake;
//! * an offer or an answer that cannot be sent.
//!
//! [`Wrong`] has the orders that look natural and are wrong. The search finds each of them.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::{Giver, GiverAction, GiverEvent, Id, Taker, TakerAction, TakerEvent};

mod disturb;
mod progress;
mod promises;
mod wrong;

use wrong::Wrong;

const CONNECTIONS: [Id; 2] = [0, 1];

/// The numbers of messages that find room in the link to the taker: the last place is that of `withdrawn`.
const ROOMS: [usize; 2] = [2, 3];

/// More worlds than there are: a machine that is wrong may have no end of them.
const MOST_WORLDS: usize = 200_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ToTaker {
    Offer(Id),
    Withdrawn(Vec<Id>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ToGiver {
    Taken(Id),
    Refused(Id),
}

/// What the link says of a connection. The first verdict is the only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Verdict {
    /// The giver has not offered the connection.
    None,
    /// The connection is offered, and neither process may touch it.
    Open,
    Giver,
    Taker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Alive,
    Dead,
    /// The drain of the process is over: it has ended as it should.
    Drained,
}

/// An end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Open,
    /// Closed at the end of the drain.
    Closed,
    /// Closed by mistake, or by the death of its process.
    Lost,
}

/// Both processes and the link between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    giver: Giver,
    taker: Taker,
    giver_life: Life,
    taker_life: Life,
    giver_end: End,
    taker_end: End,
    /// The giver has shut its end down for reading.
    is_shut_down: bool,
    to_taker: VecDeque<ToTaker>,
    to_giver: VecDeque<ToGiver>,
    /// The actions that each process has still to carry out.
    giver_todo: VecDeque<GiverAction>,
    taker_todo: VecDeque<TakerAction>,
    /// The connections that each process may touch. Those of a dead process stay: it may have touched them.
    by_giver: BTreeSet<Id>,
    by_taker: BTreeSet<Id>,
    /// The connections that each process has a descriptor of.
    of_giver: BTreeSet<Id>,
    of_taker: BTreeSet<Id>,
    /// By the number of the connection.
    verdicts: [Verdict; CONNECTIONS.len()],
    /// The connections that the body of the taker did not want.
    refused: BTreeSet<Id>,
    faults: u8,
    room: usize,
    wrong: Option<Wrong>,
}

impl World {
    fn new(faults: u8, room: usize, wrong: Option<Wrong>) -> Self {
        Self {
            giver: Giver::new(),
            taker: Taker::new(),
            giver_life: Life::Alive,
            taker_life: Life::Alive,
            giver_end: End::Open,
            taker_end: End::Open,
            is_shut_down: false,
            to_taker: VecDeque::new(),
            to_giver: VecDeque::new(),
            giver_todo: VecDeque::new(),
            taker_todo: VecDeque::new(),
            by_giver: BTreeSet::from(CONNECTIONS),
            by_taker: BTreeSet::new(),
            of_giver: BTreeSet::from(CONNECTIONS),
            of_taker: BTreeSet::new(),
            verdicts: [Verdict::None; CONNECTIONS.len()],
            refused: BTreeSet::new(),
            faults,
            room,
            wrong,
        }
    }

    fn is_link_open(&self) -> bool {
        self.giver_end == End::Open && self.taker_end == End::Open
    }

    fn verdict(&self, id: Id) -> Verdict {
        CONNECTIONS.iter().zip(self.verdicts).find(|(at, _)| **at == id).expect("a connection").1
    }

    fn judge(&mut self, id: Id, from: Verdict, to: Verdict) {
        for (at, verdict) in CONNECTIONS.iter().zip(&mut self.verdicts) {
            if *at == id && *verdict == from {
                *verdict = to;
            }
        }
    }

    /// The end of the giver is closed. What is in the link, or has arrived, is the taker's.
    fn close_giver(&mut self, end: End) {
        let is_open = self.is_link_open();
        for id in CONNECTIONS.into_iter().filter(|_| is_open) {
            if self.to_taker.contains(&ToTaker::Offer(id)) || self.of_taker.contains(&id) {
                self.judge(id, Verdict::Open, Verdict::Taker);
            }
        }
        self.giver_end = end;
        self.to_giver.clear();
    }

    /// The end of the taker is closed. What it has not answered is the giver's.
    fn close_taker(&mut self) {
        let is_open = self.is_link_open();
        for id in CONNECTIONS.into_iter().filter(|_| is_open) {
            self.judge(id, Verdict::Open, Verdict::Giver);
        }
        self.taker_end = End::Lost;
        self.to_taker.clear();
    }

    /// The giver ends: its messages stay in the link.
    fn end_giver(&mut self, life: Life) {
        if self.giver_end == End::Open {
            self.close_giver(if life == Life::Dead { End::Lost } else { End::Closed });
        }
        self.giver_life = life;
        self.giver_todo.clear();
        self.of_giver.clear();
    }

    fn kill_taker(&mut self) {
        if self.taker_end == End::Open {
            self.close_taker();
        }
        self.taker_life = Life::Dead;
        self.taker_todo.clear();
        self.of_taker.clear();
    }
}

#[test]
fn no_order_breaks_a_promise() {
    for room in ROOMS {
        let first = World::new(3, room, None);
        let worlds = search(first, &promises::ALL).unwrap_or_else(|violation| panic!("{violation}"));
        println!("room for {room} messages: {worlds} worlds");
        assert!(worlds > 10_000, "the search did not get anywhere: {worlds} worlds");
    }
}

#[test]
fn every_wrong_order_breaks_its_promises() {
    for (wrong, promises) in wrong::ALL {
        for promise in promises {
            let violation = search(World::new(1, ROOMS[0], Some(wrong)), &[promise]);
            let is_broken = violation.is_err_and(|violation| violation.starts_with(promise));
            assert!(is_broken, "{wrong:?} does not break: {promise}");
        }
    }
}

/// Explores every world, and returns their number, or the first of these promises that is broken with the shortest way there.
fn search(first: World, promises: &[&str]) -> Result<usize, String> {
    let mut worlds = vec![first];
    let mut came_from = vec![0];
    let mut seen: HashSet<World> = worlds.iter().cloned().collect();
    let mut at = 0;
    while at < worlds.len() {
        if at == MOST_WORLDS {
            return Err("the search does not end".to_owned());
        }
        let world = worlds[at].clone();
        let progress: Vec<_> = world.progress().into_iter().filter(|next| *next != world).collect();
        let broken = world.broken(progress.is_empty());
        if let Some(promise) = broken.into_iter().find(|promise| promises.contains(promise)) {
            let mut trail = vec![at];
            while *trail.last().expect("a world") != 0 {
                trail.push(came_from[*trail.last().expect("a world")]);
            }
            let trail: Vec<_> = trail.iter().rev().map(|at| format!("{:?}", worlds[*at])).collect();
            return Err(format!("{promise}\n{}", trail.join("\n")));
        }
        for next in progress.into_iter().chain(world.end_drain()).chain(world.disturb()) {
            if seen.insert(next.clone()) {
                worlds.push(next);
                came_from.push(at);
            }
        }
        at += 1;
    }
    Ok(worlds.len())
}
