//! The sweeps of a revert. A point is a service under load, one upgrade of it into a long probation, one request to revert, and one
//! fault between the request and the end of the rejected process.
//!
//! Afterwards one process serves and the pid file names it, unless the service was told to stop. Each connection is where it has to
//! be, and each operator has a true answer, or the end of the connection to a process that is dead.
//!
//! `operator.rs`: a connection to the control socket.

mod judge;
mod operator;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use processes::proc::is_running;

use self::judge::{Answers, Facts, Fates};
use self::operator::Operator;
use crate::errors::all as all_errors;
use crate::fault::{Fault, Hit, Side};
use crate::moving::{Clients, Manner};
use crate::point::is_empty;
use crate::release::Release;
use crate::scene::{Broken, Scene, Setup, Words, descriptors};
use crate::tracer::send;
use crate::{DELAY, MAX_POINTS};

/// No point is as long.
const PROBATION: Duration = Duration::from_secs(60 * 60);

/// How often the other client of the service connects, by which a scene knows who serves.
const PACE: Duration = Duration::from_millis(5);

/// How long a process is stopped that goes on.
const PAUSE: Duration = Duration::from_millis(300);

/// Longer than a process waits for the other one in a handover.
const SILENCE: Duration = Duration::from_secs(11);

/// How often a process is asked for its phase.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How a process says that it could not write the pid file.
const NO_PIDFILE: &str = "cannot write the pid file";

/// What the clients of the new process do, and those of the old one.
const DURING: [Manner; 4] = [Manner::Idle, Manner::Half, Manner::Busy, Manner::Long];
const BEFORE: [Manner; 2] = [Manner::Idle, Manner::Half];

/// The stage of the clients after the fault.
const AFTERWARDS: usize = 2;

/// What came of a point, or of several.
#[derive(Debug, Default)]
struct Tally {
    points: usize,
    violations: usize,
    /// The old process serves again.
    reverted: usize,
    /// The new process served on, and a second request has reverted the upgrade.
    refused: usize,
    /// The new process or its own successor serves, because the old one is gone.
    kept: usize,
    stopped: usize,
    /// The old process serves again, and could not write the pid file.
    unnamed: usize,
    /// The only process was hit.
    alone: usize,
    fates: Fates,
    /// Connections of the other client that were lost.
    lost: u64,
    answered: u64,
}

/// How a point has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Reverted,
    Refused,
    Kept,
    Stopped,
    Unnamed,
    Alone,
}

struct Point {
    call: String,
    ending: Ending,
    fates: Fates,
    lost: u64,
    answered: u64,
}

/// `Err`: how often each process has made each call, if the revert was over before the fault.
type Outcome = Result<Result<Point, BTreeMap<(bool, i64), usize>>, String>;

pub(crate) fn kill(side: Side, slice: (usize, usize)) -> bool {
    at_every_call("kill", side, slice, |at| Fault::Kill { at })
}

pub(crate) fn delay(side: Side, slice: (usize, usize)) -> bool {
    at_every_call("delay", side, slice, |at| Fault::Delay { at, by: DELAY })
}

pub(crate) fn stop(side: Side, slice: (usize, usize)) -> bool {
    at_every_call("stop", side, slice, |at| Fault::Stop { at })
}

/// Half of the processes go on, and the others are killed when nothing more happens.
pub(crate) fn stall(side: Side, slice: (usize, usize)) -> bool {
    at_every_call("stall", side, slice, |at| match at / 2 % 2 {
        0 => Fault::Pause { at, by: PAUSE },
        _ => Fault::Stall { at },
    })
}

fn at_every_call(
    what: &str,
    side: Side,
    (first, step): (usize, usize),
    fault: impl Fn(usize) -> Fault,
) -> bool {
    let mut tally = Tally::default();
    for at in (first..MAX_POINTS).step_by(step) {
        let outcome = point(side, fault(at), at % 2 == 0);
        if matches!(outcome, Ok(Err(_))) {
            println!("revert-{what} {side:?}: over before system call {at}");
            break;
        }
        tally.add(&format!("revert-{what}, system call {at} of the {side:?} process"), outcome);
    }
    tally.print(what, side)
}

pub(crate) fn errors(side: Side, (first, step): (usize, usize)) -> bool {
    let mut calls = BTreeMap::new();
    for asks_old in [false, true] {
        match point(side, Fault::Kill { at: usize::MAX }, asks_old) {
            Ok(Err(counted)) => {
                for (call, count) in counted {
                    let most = calls.entry(call).or_default();
                    *most = count.max(*most);
                }
            }
            Ok(Ok(_)) => unreachable!("no revert has so many system calls"),
            Err(violation) => {
                println!("VIOLATION without any fault: {violation}");
                return false;
            }
        }
    }
    // No channel is broken while both of its ends are open, a child that has not been waited for is there, and so is the descriptor of a
    // connection.
    const IMPOSSIBLE: [(i64, Errno); 3] = [
        (libc::SYS_sendmsg, Errno::EPIPE),
        (libc::SYS_waitid, Errno::ECHILD),
        (libc::SYS_ioctl, Errno::EBADF),
    ];
    let is_possible = |point: &(i64, Errno)| !IMPOSSIBLE.contains(point);
    let points = all_errors().filter(is_possible).flat_map(|(call, error)| {
        let count = calls.get(&(side == Side::Old, call)).copied().unwrap_or(0);
        (1..=count).map(move |nth| Fault::Error { call, error, nth })
    });
    let mut tally = Tally::default();
    for (number, fault) in points.enumerate().skip(first - 1).step_by(step) {
        // One that was not reached is none: no two reverts make the same calls.
        let outcome = point(side, fault, number % 2 == 0);
        if !matches!(outcome, Ok(Err(_))) {
            tally.add(&format!("{fault:?} of the {side:?} process, point {}", number + 1), outcome);
        }
    }
    tally.print("errors", side)
}

impl Tally {
    fn add(&mut self, name: &str, outcome: Outcome) {
        self.points += 1;
        match outcome {
            Ok(Err(_)) => unreachable!("a point that was not reached is none"),
            Ok(Ok(point)) => {
                *match point.ending {
                    Ending::Reverted => &mut self.reverted,
                    Ending::Refused => &mut self.refused,
                    Ending::Kept => &mut self.kept,
                    Ending::Stopped => &mut self.stopped,
                    Ending::Unnamed => &mut self.unnamed,
                    Ending::Alone => &mut self.alone,
                } += 1;
                self.fates.add(point.fates);
                self.lost += point.lost;
                self.answered += point.answered;
                if point.ending == Ending::Refused || point.fates.lost > 0 {
                    eprintln!("{name} ({}): {:?}, {:?}", point.call, point.ending, point.fates);
                }
            }
            Err(violation) => {
                self.violations += 1;
                println!("VIOLATION at {name}: {violation}");
            }
        }
    }

    /// Returns whether all was well.
    fn print(&self, what: &str, side: Side) -> bool {
        let Self {
            points,
            violations,
            reverted,
            refused,
            kept,
            stopped,
            unnamed,
            alone,
            fates,
            lost,
            answered,
        } = self;
        let Fates { moved, stayed, lost: cut } = fates;
        println!(
            "revert-{what} {side:?}: {points} points tried; {reverted} reverted, {refused} by a second request, {kept} with \
             the old process gone, {stopped} stopped, {unnamed} without a pid file, {alone} with nobody else to serve; {moved} connections moved back, \
             {stayed} stayed, {cut} ended with the process that had them; {answered} requests answered, {lost} lost that \
             the process had accepted which was hit; {violations} violations"
        );
        *violations == 0 && *points > 0
    }
}

fn point(side: Side, fault: Fault, asks_old: bool) -> Outcome {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let setup = Setup { release: Release::Plain, probation: PROBATION, upgrade_timeout: None };
    let mut scene = Scene::start(dir.path(), setup, None)?;
    let asked = if asks_old { "old" } else { "new" };
    play(&mut scene, dir.path(), side, fault, asks_old)
        .map_err(|violation| format!("{violation}; the {asked} process was asked\n{}", scene.log()))
}

/// A service whose successor is on probation, with its connections and operators.
struct Standby {
    old: i32,
    new: i32,
    /// How many descriptors the service has without clients.
    open: usize,
    before: Clients,
    during: Clients,
    /// Has asked the old process for the upgrade.
    upgrading: Operator,
    /// Asks for the revert.
    asking: Operator,
    asks_old: bool,
    /// Asks the old process for its phase.
    looking: Operator,
}

impl Standby {
    fn begin(scene: &mut Scene, dir: &Path, asks_old: bool) -> Result<Self, String> {
        let old = scene.named().unwrap_or_default();
        let open = scene.descriptors_without_clients(old)?;
        let before = Clients::start(scene.address(), &BEFORE);
        scene.until("the answers of the old process", |_| before.have_done(1))?;
        let [upgrading, mut asking, looking] = [connect(dir)?, connect(dir)?, connect(dir)?];
        upgrading.ask("upgrade");
        scene.until("the standby", |_| upgrading.has_seen("standby"))?;
        let new = scene.named().unwrap_or_default();
        scene.know(new);
        let during = Clients::start(scene.address(), &DURING);
        scene.until("the answers of the new process", |_| during.have_done(1))?;
        if !asks_old {
            asking = connect(dir)?;
            // Until a process has answered it has not accepted.
            asking.ask_for_status();
            scene.until("the status", |_| asking.phase().is_some())?;
        }
        scene.trace_revert(old, new)?;
        scene.put_under_load(1, PACE)?;
        Ok(Self { old, new, open, before, during, upgrading, asking, asks_old, looking })
    }

    /// Whether the revert was given up: both processes are as before.
    fn is_again(&self, scene: &Scene) -> bool {
        self.asking.is_answered()
            && is_running(self.old)
            && scene.is_served_by(self.new)
            && self.looking.phase().as_deref() == Some("standby")
    }
}

fn connect(dir: &Path) -> Result<Operator, String> {
    Operator::connect(dir).ok_or_else(|| "the control socket cannot be connected to".to_owned())
}

fn play(scene: &mut Scene, dir: &Path, side: Side, fault: Fault, asks_old: bool) -> Outcome {
    let standby = Standby::begin(scene, dir, asks_old)?;
    let asking = &standby.asking;
    let (hit, words) = match scene.break_revert(side, fault, || asking.ask("revert"))? {
        Broken::Hit(hit, words) => (hit, words),
        Broken::TooLate(calls) if scene.killed().is_empty() => {
            scene.until("the answers", |_| asking.is_answered() && standby.upgrading.is_answered())?;
            if fault.number() == usize::MAX {
                let hit = Hit::none(standby.old, scene.log().len());
                finish(scene, dir, standby, fault, &hit, Words::default())?;
            }
            return Ok(Err(calls));
        }
        Broken::TooLate(calls) => return Ok(Err(calls)),
    };
    let call = hit.call.clone();
    finish(scene, dir, standby, fault, &hit, words).map(|point| Ok(Point { call, ..point }))
}

/// Waits for what comes of a fault, and judges it.
fn finish(
    scene: &mut Scene,
    dir: &Path,
    standby: Standby,
    fault: Fault,
    hit: &Hit,
    words: Words,
) -> Result<Point, String> {
    if matches!(fault, Fault::Stall { .. }) && !outlast(scene, &standby, hit)? {
        return Ok(Point::ended(Ending::Alone));
    }
    if matches!(fault, Fault::Error { .. }) && is_unnamed(scene, &standby)? {
        return Ok(Point::ended(Ending::Unnamed));
    }
    let (serving, is_refused) = settle(scene, dir, &standby, hit)?;
    let Standby { old, new, open, before, during, upgrading, asking, asks_old, looking } = standby;
    let over = |operator: &Operator, of: i32| operator.is_answered() || !is_running(of);
    let asked = if asks_old { old } else { new };
    scene.until("the answers", |_| {
        (over(&upgrading, old) && over(&asking, asked)) && serving.is_some()
            || upgrading.is_over() && asking.is_over()
    })?;
    let answers = Answers { upgrading: upgrading.answer(), asking: asking.answer() };
    drop((upgrading, asking, looking));
    let mut facts = Facts {
        old,
        new,
        asks_old,
        serving,
        last: serving,
        is_refused,
        fault,
        victim: hit.victim,
        stopped: hit.stopped,
        ledger: scene.ledger().clone(),
        processes: scene.processes().to_vec(),
        log: scene.said_since(hit),
    };
    facts.judge_end(hit, words)?;
    facts.judge_answers(&answers)?;
    for clients in [&before, &during] {
        clients.begin(AFTERWARDS);
        scene.until("an answer on each connection, or its end", |_| clients.have_done(AFTERWARDS))?;
    }
    if let Some(serving) = serving {
        scene.quieten()?;
        let open_now = open + before.open() + during.open();
        scene
            .until("as many descriptors as before", |_| descriptors(serving) == open_now)
            .map_err(|violation| format!("{violation}; {open_now} expected of {:?}", links(serving)))?;
        scene.load.pause(false);
        before.finish();
        during.finish();
        let last = upgrade_once_more(scene, dir, serving)?;
        scene.load.stop();
        scene.until("the last answer", |scene| scene.load.is_finished())?;
        scene.until("as many descriptors as before, in a successor", |_| descriptors(last) == open)?;
        facts.last = Some(last);
        facts.processes = scene.processes().to_vec();
    }
    scene.until("the end of each connection", |_| before.are_over() && during.are_over())?;
    let lost = match serving {
        Some(_) => scene.judge_losses(&facts.with_losers(hit))?,
        None => 0,
    };
    let answered = scene.load.tally().answers();
    if let Some(last) = facts.last {
        scene.stop(last)?;
    }
    is_empty(dir, hit, Release::Plain)?;
    let fates = facts.judge_connections(&before.stories(), &during.stories(), hit)?;
    let ending = match serving {
        None => Ending::Stopped,
        Some(_) if is_refused => Ending::Refused,
        Some(serving) if serving == old => Ending::Reverted,
        Some(_) => Ending::Kept,
    };
    Ok(Point { ending, lost, answered, fates, ..Point::ended(ending) })
}

/// What the descriptors of a process lead to.
fn links(process: i32) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).collect()
}

impl Point {
    fn ended(ending: Ending) -> Self {
        Self { call: String::new(), ending, fates: Fates::default(), lost: 0, answered: 0 }
    }
}

/// Waits until nothing more happens beside a process that is stopped, and kills that one. Returns false if no other process is left.
fn outlast(scene: &mut Scene, standby: &Standby, hit: &Hit) -> Result<bool, String> {
    let victim = hit.victim.expect("it is stopped");
    let Standby { old, new, asking, .. } = standby;
    let since = Instant::now();
    scene.until("what comes of a stopped process", |scene| {
        !is_running(victim)
            || since.elapsed() > SILENCE
            || victim == *new && scene.is_served_by(*old)
            || victim == *old && (!is_running(*new) || asking.is_answered() && scene.is_served_by(*new))
    })?;
    send(victim, Signal::SIGKILL);
    scene.until("its end", |_| !is_running(victim))?;
    Ok(victim != *old || is_running(*new))
}

/// Whether the old process serves without a pid file, because an error kept it from writing the file. docs/reliability.md promises no
/// pid file then.
fn is_unnamed(scene: &mut Scene, standby: &Standby) -> Result<bool, String> {
    let Standby { old, asking, upgrading, .. } = standby;
    scene.until("the answer to the revert", |_| asking.is_answered())?;
    if !scene.log().contains(NO_PIDFILE) {
        return Ok(false);
    }
    scene.until("the old process alone, with each answer", |scene| {
        scene.alive() == [*old] && scene.load.tally().last == Some(*old) && upgrading.is_answered()
    })?;
    if !asking.has_answered("reverted") {
        return Err(format!("the old process serves, and the revert was answered by {:?}", asking.answer()));
    }
    Ok(true)
}

/// Waits for the process that serves in the end, if any, and whether that is so by a second request alone.
fn settle(
    scene: &mut Scene,
    dir: &Path,
    standby: &Standby,
    hit: &Hit,
) -> Result<(Option<i32>, bool), String> {
    let Standby { old, new, asking, looking, .. } = standby;
    let is_rescued = |scene: &Scene| {
        let third = scene.named().filter(|named| ![*old, *new].contains(named));
        third.is_some_and(|third| {
            scene.is_served_by(third) && scene.alive() == [*new, third] && scene.ledger().is_known_active()
        })
    };
    let is_stopped = |scene: &Scene| hit.stopped.is_some() && scene.alive().is_empty();
    // A stop ends the service, or the rejected process alone. For a moment both are as before.
    let is_again = |scene: &Scene| hit.stopped.is_none() && standby.is_again(scene);
    let mut rest = Rest::new(dir);
    scene.until("the outcome of the revert", |scene| {
        rest.look(looking);
        is_stopped(scene) || rest.is_reached(scene) || is_rescued(scene) || is_again(scene)
    })?;
    if is_stopped(scene) {
        return Ok((None, false));
    }
    if is_rescued(scene) {
        // It waits for the end of a probation. A stop ends it alone.
        send(*new, Signal::SIGTERM);
    }
    let is_again = scene.alive().len() > 1 && is_again(scene);
    if is_again {
        if asking.has_answered("reverted") {
            return Err("a revert was answered as done, and the new process serves".to_owned());
        }
        let once_more = connect(dir)?;
        once_more.ask("revert");
        scene.until("the second revert", |_| once_more.is_answered())?;
        if !once_more.has_answered("reverted") {
            return Err(format!("a second request to revert was answered by {:?}", once_more.answer()));
        }
    }
    Ok((Some(scene.settle()?), is_again))
}

/// Waits until one process serves, beside no other one, and knows that: it may still have to hear of a stop or of a death.
struct Rest<'a> {
    dir: &'a Path,
    operator: Option<Operator>,
    looked: Option<Instant>,
}

impl<'a> Rest<'a> {
    fn new(dir: &'a Path) -> Self {
        Self { dir, operator: None, looked: None }
    }

    /// Asks the process that serves for its status now and then, and another one as well.
    fn look(&mut self, other: &Operator) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        self.operator =
            self.operator.take().filter(|it| !it.is_over()).or_else(|| Operator::connect(self.dir));
        self.operator.iter().chain([other]).for_each(Operator::ask_for_status);
    }

    fn is_reached(&self, scene: &Scene) -> bool {
        self.operator.as_ref().is_some_and(Operator::serves_alone) && scene.comes_to_serve_alone().is_some()
    }
}

/// A further upgrade works. Its predecessor is stopped in the probation, which ends that process alone.
fn upgrade_once_more(scene: &mut Scene, dir: &Path, serving: i32) -> Result<i32, String> {
    let operator = connect(dir)?;
    operator.ask("upgrade");
    scene.until("a further upgrade", |scene| {
        operator.has_seen("standby")
            && scene.named().is_some_and(|named| named != serving && scene.is_served_by(named))
    })?;
    send(serving, Signal::SIGTERM);
    scene.settle()
}
