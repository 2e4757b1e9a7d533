//! Upgrades under load, one after the other, with a random fault in every tenth; and the losses.

use std::time::{Duration, Instant};

use fastrand::Rng;
use processes::proc;

use crate::errors;
use crate::fault::{Fault, Side};
use crate::release::Release;
use crate::scene::{Scene, Setup, descriptors};

/// Long enough for every fault: a successor that dies after it dies like any process that is alone.
const PROBATION: Duration = Duration::from_millis(300);

/// The system calls among which a fault chooses: about those that either process makes in an upgrade.
const CALLS: usize = 300;
const CLIENTS: usize = 8;

#[derive(Debug)]
pub(crate) struct Options {
    upgrades: usize,
    /// Connections in a second.
    rate: u32,
    seed: u64,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let mut options = Self { upgrades: 1000, rate: 2000, seed: fastrand::u64(..) };
        let mut words = words.iter();
        while let (Some(option), value) = (words.next(), words.next()) {
            let value = value?;
            match *option {
                "--upgrades" => options.upgrades = value.parse().ok().filter(|count| *count > 0)?,
                "--rate" => options.rate = value.parse().ok().filter(|rate| *rate > 0)?,
                "--seed" => options.seed = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(options)
    }
}

/// What a process that serves has.
struct Footprint {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
    children: usize,
}

impl Footprint {
    fn of(pid: i32) -> Self {
        let resident = proc::status(pid, "VmRSS");
        let resident = resident.and_then(|resident| resident.strip_suffix(" kB")?.parse().ok());
        Self {
            descriptors: descriptors(pid),
            threads: proc::count(pid, "task").unwrap_or(0),
            resident_kib: resident.unwrap_or(0),
            children: proc::children(pid).len(),
        }
    }

    /// Descriptors, threads and children are as many. Of the memory a part is the program's file, and how much of it is there
    /// depends on who has used it.
    fn is_as_small_as(&self, first: &Self) -> bool {
        let counts = |of: &Self| [of.descriptors, of.threads, of.children];
        counts(self) == counts(first) && self.resident_kib <= first.resident_kib * 5 / 4
    }

    fn print(&self, of: &str) {
        let Self { descriptors, threads, resident_kib, children } = self;
        println!(
            "{of}: {descriptors} descriptors, {threads} threads, {resident_kib} KiB resident, {children} children, dead \
             or alive"
        );
    }
}

#[derive(Default)]
struct Report {
    /// What the first and the last process had, with no connection open.
    first: Option<Footprint>,
    last: Option<Footprint>,
    upgraded: usize,
    refused: usize,
    killed_old: usize,
    killed_new: usize,
    delayed: usize,
    failed_calls: usize,
    /// Faults whose moment did not come.
    missed: usize,
    lost_with_the_killed: u64,
    lost_unregistered: u64,
    worst_calm: Duration,
    worst_broken: Duration,
}

/// Returns whether all was well.
pub(crate) fn run(options: &Options) -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let setup = Setup { release: Release::Plain, probation: PROBATION, upgrade_timeout: None };
    let mut scene = match Scene::start(dir.path(), setup, None) {
        Ok(scene) => scene,
        Err(violation) => {
            println!("VIOLATION: {violation}");
            return false;
        }
    };
    let mut report = Report::default();
    println!("seed {}", options.seed);
    let began = Instant::now();
    let result = soak(&mut scene, options, &mut report);
    report.print(&scene, began.elapsed());
    if let Err(violation) = &result {
        println!("VIOLATION: {violation}\n{}", scene.log());
    }
    result.is_ok()
}

fn soak(scene: &mut Scene, options: &Options, report: &mut Report) -> Result<(), String> {
    let mut random = Rng::with_seed(options.seed);
    let clients = u32::try_from(CLIENTS).unwrap_or(u32::MAX);
    scene.put_under_load(CLIENTS, Duration::from_secs(1) * clients / options.rate)?;
    let mut serving = scene.named().unwrap_or_default();
    scene.quieten()?;
    report.first = Some(Footprint::of(serving));
    scene.load.pause(false);
    for upgrade in 1..=options.upgrades {
        let before = serving;
        scene.load.take_worst();
        if random.u8(0..10) == 0 {
            serving = one_broken(scene, serving, &mut random, report)
                .map_err(|violation| format!("upgrade {upgrade}: {violation}"))?;
            report.worst_broken = report.worst_broken.max(scene.load.take_worst());
        } else {
            let lost = scene.load.tally().lost;
            serving =
                scene.upgrade(serving).map_err(|violation| format!("upgrade {upgrade}: {violation}"))?;
            if scene.load.tally().lost > lost {
                return Err(format!(
                    "upgrade {upgrade}, which was calm, lost {:?}",
                    scene.load.tally().errors
                ));
            }
            report.worst_calm = report.worst_calm.max(scene.load.take_worst());
        }
        report.upgraded += usize::from(serving != before);
        report.refused += usize::from(serving == before);
    }
    // The last one has just begun, as the first had.
    serving = scene.upgrade(serving)?;
    scene.quieten()?;
    let first = report.first.as_ref();
    let grown = scene.until("as much as the first process had", |_| {
        first.is_some_and(|first| Footprint::of(serving).is_as_small_as(first))
    });
    report.last = Some(Footprint::of(serving));
    grown
}

fn one_broken(scene: &mut Scene, old: i32, random: &mut Rng, report: &mut Report) -> Result<i32, String> {
    let side = *random.choice([Side::Old, Side::New].iter()).expect("there are two");
    let at = random.usize(1..=CALLS);
    let fault = match random.u8(0..4) {
        0 | 1 => Fault::Kill { at },
        2 => Fault::Delay { at, by: Duration::from_millis(random.u64(1..=80)) },
        _ => {
            let (call, error) = random.choice(errors::all().collect::<Vec<_>>()).expect("there are many");
            Fault::Error { call, error, nth: random.usize(1..=4) }
        }
    };
    let describe = |violation: String| format!("{fault:?} of the {side:?} process: {violation}");
    // So that it is known what the process that is killed has accepted.
    scene.quieten()?;
    scene.trace(old)?;
    scene.load.pause(false);
    let hit = scene.break_it(side, fault, Some(PROBATION / 2)).map_err(describe)?;
    let serving = match &hit {
        Some(hit) => scene.outcome(hit),
        None => scene.settle(),
    };
    let serving = serving.map_err(describe)?;
    scene.wait_for_every_client()?;
    scene.let_go();
    let Some(hit) = hit else {
        report.missed += 1;
        return Ok(serving);
    };
    match (fault, side) {
        (Fault::Kill { .. }, Side::Old) => report.killed_old += 1,
        (Fault::Kill { .. }, Side::New)
        | (
            Fault::KillBesideDrain { .. } | Fault::Stop { .. } | Fault::Stall { .. } | Fault::Fork { .. },
            _,
        ) => {
            report.killed_new += 1;
        }
        (Fault::Delay { .. } | Fault::Pause { .. }, _) => report.delayed += 1,
        (Fault::Error { .. }, _) => report.failed_calls += 1,
    }
    let lost = scene.judge_losses(&hit).map_err(describe)?;
    match hit.victim {
        Some(_) => report.lost_with_the_killed += lost,
        None => report.lost_unregistered += lost,
    }
    Ok(serving)
}

impl Report {
    fn print(&self, scene: &Scene, took: Duration) {
        let tally = scene.load.tally();
        for (of, footprint) in [("the first process", &self.first), ("the last", &self.last)] {
            if let Some(footprint) = footprint {
                footprint.print(of);
            }
        }
        println!(
            "{} upgraded and {} not, in {:.0} s; faults: {} old processes killed, {} new ones, {} delays, {} calls \
             that failed, {} that came too late",
            self.upgraded,
            self.refused,
            took.as_secs_f64(),
            self.killed_old,
            self.killed_new,
            self.delayed,
            self.failed_calls,
            self.missed
        );
        println!(
            "{} connections answered, {:.0} in a second; {} lost: {} that a killed process had accepted, {} that could \
             not be registered, {} refused",
            tally.answers(),
            tally.answers() as f64 / took.as_secs_f64(),
            tally.lost,
            self.lost_with_the_killed,
            self.lost_unregistered,
            tally.refused
        );
        println!(
            "the longest answer took {:.1} ms, {:.1} ms where a fault was made",
            self.worst_calm.as_secs_f64() * 1e3,
            self.worst_broken.as_secs_f64() * 1e3
        );
    }
}
