//! The sweeps of connections that move. A point is a service with open connections, one upgrade of it, and one fault between the
//! begin of the drain and the end of the old process.
//!
//! Afterwards each connection is served by one process, with no line lost or answered twice; or a process that kept it has said
//! goodbye; or it was the killed process's. `ledger.rs` knows the owner of each at every moment, by the packets of the link.
//!
//! * `clients.rs`: the clients, and what they see.
//! * `ledger.rs`: the owners.

mod clients;
mod ledger;

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use self::clients::MANNERS;
pub(crate) use self::clients::{Clients, End, Manner, Story};
use self::ledger::calls_of_a_move;
pub(crate) use self::ledger::{Ledger, Owner};
use crate::fault::{Fault, Hit, Side};
use crate::point::is_empty;
use crate::release::Release;
use crate::scene::{Scene, Setup, descriptors};
use crate::{DELAY, MAX_POINTS};

/// The connections move right after the upgrade.
const PROBATION: Duration = Duration::from_millis(1);

/// How often the other client of the service connects, by which a scene knows who serves.
const PACE: Duration = Duration::from_millis(5);

/// Longer than an offer may be without an answer.
const UNANSWERED: Duration = Duration::from_millis(1300);

/// The stages of the clients after the fault, and after a further upgrade.
const AFTERWARDS: usize = 2;
const FURTHER: usize = 3;

/// What came of the connections of a point, or of a sweep.
#[derive(Clone, Debug, Default)]
struct Fates {
    /// Served by the successor, or by a later one.
    moved: usize,
    /// The old process kept it, and said goodbye or served on.
    stayed: usize,
    /// The process was killed that owned it.
    lost: usize,
}

/// A point that was reached.
struct Point {
    call: String,
    fates: Fates,
}

/// What the conditions of a connection depend on.
struct Facts {
    old: i32,
    victim: Option<i32>,
    /// The process that served at the end of the scene, if any.
    last: Option<i32>,
    /// Every process, in order.
    processes: Vec<i32>,
    fault: Fault,
    ledger: Ledger,
}

#[derive(Default)]
struct Report {
    points: usize,
    violations: usize,
    fates: Fates,
}

/// `None` if the upgrade was over before the fault.
type Outcome = Result<Option<Point>, String>;

pub(crate) fn kill(side: Side, slice: (usize, usize)) -> bool {
    at_every_call("kill", side, slice, |at| Fault::Kill { at })
}

pub(crate) fn delay(side: Side, slice: (usize, usize)) -> bool {
    at_every_call("delay", side, slice, |at| Fault::Delay { at, by: DELAY })
}

/// A system call of the successor is so late that offers may be taken back meanwhile.
pub(crate) fn late(side: Side, slice: (usize, usize)) -> bool {
    at_every_call("late", side, slice, |at| Fault::Delay { at, by: UNANSWERED })
}

fn at_every_call(
    what: &str,
    side: Side,
    (first, step): (usize, usize),
    fault: impl Fn(usize) -> Fault,
) -> bool {
    let mut report = Report::default();
    for at in (first..MAX_POINTS).step_by(step) {
        let outcome = point(side, fault(at));
        if matches!(outcome, Ok(None)) {
            println!("move-{what} {side:?}: over before system call {at}");
            break;
        }
        report.add(&format!("move-{what}, system call {at} of the {side:?} process"), outcome);
    }
    report.print(what, side)
}

pub(crate) fn errors(side: Side, (first, step): (usize, usize)) -> bool {
    let ledger = match undisturbed() {
        Ok(ledger) => ledger,
        Err(violation) => {
            println!("VIOLATION without any fault: {violation}");
            return false;
        }
    };
    let points = calls_of_a_move().flat_map(|(call, error)| {
        let count = ledger.calls(side == Side::Old, call);
        // The first packet of the successor is the sign of life, which is not sent over the link. An old process that lives and does not
        // get it would wait for ever, and no channel is broken while both of its ends are open.
        let first = 1 + usize::from(side == Side::New && error == Errno::EPIPE);
        (first..=count).map(move |nth| Fault::Error { call, error, nth })
    });
    let mut report = Report::default();
    for fault in points.skip(first - 1).step_by(step) {
        report.add(&format!("{fault:?} of the {side:?} process"), point(side, fault));
    }
    report.print("errors", side)
}

impl Report {
    /// One that was not reached is none: no two upgrades make the same calls.
    fn add(&mut self, name: &str, outcome: Result<Option<Point>, String>) {
        match outcome {
            Ok(None) => {}
            Ok(Some(point)) => {
                self.points += 1;
                self.fates.moved += point.fates.moved;
                self.fates.stayed += point.fates.stayed;
                self.fates.lost += point.fates.lost;
                if point.fates.stayed > 0 {
                    eprintln!("{} connections stayed, {name} ({})", point.fates.stayed, point.call);
                }
            }
            Err(violation) => {
                self.points += 1;
                self.violations += 1;
                println!("VIOLATION at {name}: {violation}");
            }
        }
    }

    /// Returns whether all was well.
    fn print(&self, what: &str, side: Side) -> bool {
        let Fates { moved, stayed, lost } = self.fates;
        println!(
            "move-{what} {side:?}: {} points tried; {moved} connections moved, {stayed} stayed and were told so, {lost} lost \
             that the process had which was hit; {} violations",
            self.points, self.violations
        );
        self.violations == 0 && self.points > 0
    }
}

/// An upgrade without a fault: each connection moves.
fn undisturbed() -> Result<Ledger, String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut scene = Scene::start(dir.path(), setup(), None)?;
    let (clients, _) = begin(&mut scene)?;
    let never = Fault::Kill { at: usize::MAX };
    if scene.break_it(Side::Old, never, None)?.is_some() {
        return Err("an upgrade has as many system calls as there are numbers".to_owned());
    }
    scene.settle()?;
    scene.until("an answer on each connection", |_| clients.have_done(1))?;
    let ledger = scene.ledger().clone();
    for owner in clients.ports().map(|port| ledger.owner(port, None)) {
        if !matches!(owner, Owner::Taker(_)) {
            return Err(format!("without a fault a connection is left as {owner:?}"));
        }
    }
    Ok(ledger)
}

fn setup() -> Setup {
    Setup { release: Release::Plain, probation: PROBATION, upgrade_timeout: None }
}

fn point(side: Side, fault: Fault) -> Outcome {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut scene = Scene::start(dir.path(), setup(), None)?;
    play(&mut scene, dir.path(), side, fault).map_err(|violation| format!("{violation}\n{}", scene.log()))
}

/// Opens the connections, and puts the service under load. Returns how many descriptors it has without them.
fn begin(scene: &mut Scene) -> Result<(Clients, usize), String> {
    let old = scene.named().unwrap_or_default();
    let open = scene.descriptors_without_clients(old)?;
    let clients = Clients::start(scene.address(), &MANNERS);
    scene.until("the first answers", |_| clients.have_done(1))?;
    scene.trace(old)?;
    scene.follow_connections(old);
    scene.put_under_load(1, PACE)?;
    Ok((clients, open))
}

fn play(scene: &mut Scene, dir: &Path, side: Side, fault: Fault) -> Outcome {
    let old = scene.named().unwrap_or_default();
    let (clients, open) = begin(scene)?;
    let hit = scene.break_it(side, fault, None)?;
    let victim = scene.killed().first().copied();
    let (hit, last) = match (hit, victim) {
        (None, None) => return Ok(None),
        // The old process had decided to exit, and the successor has died alone.
        (None, Some(_)) => {
            scene.until("the end of every process", |scene| scene.alive().is_empty())?;
            (None, None)
        }
        (Some(hit), _) => {
            let serving = scene.outcome(&hit)?;
            (Some(hit), Some(serving))
        }
    };
    let ledger = scene.ledger().clone();
    // Nothing is decided later: what follows is another upgrade.
    scene.follow_no_connections();
    clients.begin(AFTERWARDS);
    scene.until("an answer on each connection, or its end", |_| clients.have_done(AFTERWARDS))?;
    let last = match last {
        Some(serving) => Some(upgrade_once_more(scene, &clients, serving, open)?),
        None => None,
    };
    clients.finish();
    if let Some(last) = last {
        scene.stop(last)?;
    }
    scene.until("the end of each connection", |_| clients.are_over())?;
    if let Some(hit) = &hit {
        is_empty(dir, hit, Release::Plain)?;
    }
    let facts = Facts { old, victim, last, processes: scene.processes().to_vec(), fault, ledger };
    let fates = judge_all(&clients.stories(), &facts, hit.as_ref())?;
    let call = hit.map(|hit| hit.call).unwrap_or_default();
    Ok(Some(Point { call, fates }))
}

/// What is left moves once more. Nothing is left open of the upgrade that the fault has hit.
fn upgrade_once_more(scene: &mut Scene, clients: &Clients, serving: i32, open: usize) -> Result<i32, String> {
    scene.reload(serving);
    scene.until("a further upgrade", |scene| scene.named() != Some(serving))?;
    let last = scene.settle()?;
    clients.begin(FURTHER);
    scene.until("an answer of the further successor", |_| clients.have_done(FURTHER))?;
    scene.load.stop();
    scene.until("the last answer", |scene| scene.load.is_finished())?;
    let open = open + clients.open();
    scene.until("as many descriptors as before", |_| descriptors(last) == open)?;
    Ok(last)
}

fn judge_all(stories: &[Story], facts: &Facts, hit: Option<&Hit>) -> Result<Fates, String> {
    let mut fates = Fates::default();
    // tokio closes a connection that it cannot register, docs/reliability.md.
    let mut excused = usize::from(hit.is_some_and(|hit| hit.is_unregistered) && is_error(facts.fault));
    for story in stories {
        let fate = judge(story, facts, &mut excused).map_err(|wrong| {
            let owner = facts.ledger.owner(story.port, facts.victim);
            let Facts { old, victim, last, processes, .. } = facts;
            format!(
                "{wrong}: {story:?}, owner {owner:?}; old {old}, killed {victim:?}, last {last:?} of {processes:?}"
            )
        })?;
        *match fate {
            Fate::Moved => &mut fates.moved,
            Fate::Stayed => &mut fates.stayed,
            Fate::Lost => &mut fates.lost,
        } += 1;
    }
    Ok(fates)
}

enum Fate {
    Moved,
    Stayed,
    Lost,
}

fn judge(story: &Story, facts: &Facts, excused: &mut usize) -> Result<Fate, String> {
    let owner = facts.ledger.owner(story.port, facts.victim);
    let place = |process| facts.processes.iter().position(|it| *it == process);
    if !story.answered.is_sorted_by(|one, next| place(*one) < place(*next)) {
        return Err("a process has answered after a later one".to_owned());
    }
    match &story.end {
        End::Wrong(what) => Err(what.clone()),
        End::Cut => {
            let is_of_victim = match owner {
                Owner::Giver | Owner::Back { .. } => facts.victim == Some(facts.old),
                Owner::Taker(taker) => facts.victim == Some(taker),
                // Whichever lives has it.
                Owner::Offered => false,
                Owner::Undecided => facts.victim.is_some(),
            };
            if !is_of_victim && *excused == 0 {
                return Err("cut off, and its owner was not killed".to_owned());
            }
            *excused -= usize::from(!is_of_victim);
            Ok(Fate::Lost)
        }
        // A client that was about to send a line.
        End::Goodbye(process) if Some(*process) == facts.last && story.stage >= FURTHER => {
            served_on(owner, facts)
        }
        End::Goodbye(process) => {
            let may_stay = match owner {
                Owner::Taker(_) => false,
                Owner::Back { is_refused: true } => is_error(facts.fault),
                Owner::Back { is_refused: false } => true,
                Owner::Giver | Owner::Offered | Owner::Undecided => {
                    facts.victim.is_some_and(|victim| victim != facts.old) || is_error(facts.fault)
                }
            };
            match *process == facts.old && may_stay {
                true => Ok(Fate::Stayed),
                false => Err(format!("{process} has said goodbye without a reason")),
            }
        }
        End::Stopped(process) if Some(*process) != facts.last => {
            Err(format!("{process} has it, which is not who served in the end"))
        }
        End::Stopped(_) => served_on(owner, facts),
    }
}

/// A connection that was open to the end.
fn served_on(owner: Owner, facts: &Facts) -> Result<Fate, String> {
    let old_lives = facts.victim != Some(facts.old);
    match owner {
        Owner::Taker(taker) if facts.victim != Some(taker) => Ok(Fate::Moved),
        Owner::Offered | Owner::Undecided if !old_lives => Ok(Fate::Moved),
        // The upgrade has failed before anything was offered, and a later one has moved it.
        Owner::Giver if old_lives && (facts.victim.is_some() || is_error(facts.fault)) => Ok(Fate::Stayed),
        owner => Err(format!("served on, and its owner was {owner:?}")),
    }
}

fn is_error(fault: Fault) -> bool {
    matches!(fault, Fault::Error { .. })
}
