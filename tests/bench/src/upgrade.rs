//! From the signal to the first answer from the successor, over running this same binary with nothing to do.
//!
//! "Nothing" is taken in two ways: a `main` that returns at once, which is what no program can be faster than, and the
//! empty body of an `async fn main`, which is what a service without this crate would need for its runtime alone.

use std::process::Command;
use std::time::Duration;

use crate::flavor::Flavor;
use crate::options::Options;
use crate::process::{self, Service};
use crate::report::{Row, SUMMARY, Section, Target, progress};
use crate::stats::{milliseconds, summarize};
use crate::{Result, clock, probe};

const TARGET: f64 = 1.5;
/// How many empty processes are run for each upgrade; their median counts.
const RUNS: usize = 3;

/// A service of one flavor and what it is compared with, round by round.
struct Side {
    flavor: Flavor,
    service: Service,
    upgrades: Vec<probe::Upgrade>,
    /// A `main` that returns at once.
    mains: Vec<Duration>,
    /// `#[tokio::main]` with an empty body.
    bodies: Vec<Duration>,
}

impl Side {
    fn start(flavor: Flavor) -> Result<Self> {
        let mut service = Service::start(&["probe", "1", flavor.name()])?;
        // The first one finds cold caches.
        probe::upgrade(&mut service)?;
        Ok(Self { flavor, service, upgrades: Vec::new(), mains: Vec::new(), bodies: Vec::new() })
    }

    fn round(&mut self) -> Result<()> {
        self.mains.push(median_run(&[process::EMPTY])?);
        self.bodies.push(median_run(&[process::EMPTY_BODY, self.flavor.name()])?);
        self.upgrades.push(probe::upgrade(&mut self.service)?);
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let name = self.flavor.name();
        let part = |what: &str, of: fn(&probe::Upgrade) -> Duration| {
            Row::milliseconds(what, milliseconds(self.upgrades.iter().map(of)))
        };
        let run = |what: &str, runs: &[Duration]| Row::milliseconds(what, milliseconds(runs.iter().copied()));
        let ratio = |what: &str, runs: &[Duration]| {
            let pairs = self.upgrades.iter().zip(runs);
            let ratio = summarize(pairs.map(|(upgrade, run)| over(upgrade.total, *run)));
            Row::ratio(what, ratio).with_target(Target::at_most(TARGET, ratio.median))
        };
        // What is left when nothing else ran on the machine.
        let fastest = self.upgrades.iter().map(|upgrade| upgrade.total).min();
        let fastest = fastest.zip(self.mains.iter().copied().min()).map_or(f64::NAN, |(a, b)| over(a, b));
        vec![
            part(&format!("signal to first answer, {name}"), |upgrade| upgrade.total),
            part("… signal to `main` of the successor", |upgrade| upgrade.to_main),
            part("… `main` to body (offer, listeners, tokio)", |upgrade| upgrade.to_body),
            part("… body to first accept (prepared, commit)", |upgrade| upgrade.to_accept),
            part("… accept to answer at the client", |upgrade| upgrade.to_answer),
            part("… that answer to the end of the old process, nothing open", |upgrade| upgrade.to_end),
            run("empty `main`, spawn to exit", &self.mains),
            run("empty body on tokio, spawn to exit", &self.bodies),
            ratio("signal to first answer, over an empty `main`", &self.mains),
            ratio("… over an empty body on tokio", &self.bodies),
            Row::one_ratio("… the fastest, over the fastest empty `main`", fastest),
        ]
    }
}

fn over(upgrade: Duration, run: Duration) -> f64 {
    upgrade.as_secs_f64() / run.as_secs_f64()
}

pub(crate) fn measure(options: &Options) -> Result<Section> {
    let mut sides = [Side::start(Flavor::MultiThread)?, Side::start(Flavor::CurrentThread)?];
    median_run(&[process::EMPTY])?;
    let mut to_main = Vec::new();
    for round in 1..=options.rounds {
        progress("round", round, options.rounds);
        for side in &mut sides {
            side.round()?;
        }
        to_main.push(run_to_main()?);
    }
    let mut rows: Vec<_> = sides.iter().flat_map(Side::rows).collect();
    rows.push(Row::milliseconds("empty `main`, spawn to `main`", milliseconds(to_main)));
    Ok(Section {
        title: "Signal to first answer",
        about: format!(
            "From SIGHUP to the first answer from the successor, in the hands of a client that connects without pause, \
             over the time from posix_spawn to the end of this same binary: with a `main` that returns at once, and \
             with an empty body on a runtime of tokio of the same flavor. {} upgrades in a row of either flavor; each \
             is compared with the median of {RUNS} runs just before it. The old process has a probation of 1 ms to wait for.",
            options.rounds
        ),
        headings: SUMMARY,
        rows,
    })
}

fn this_program(arguments: &[&str]) -> Result<Command> {
    let mut command = process::this_program()?;
    command.args(arguments);
    Ok(command)
}

/// Spawns this binary and waits until it has ended, a few times; the median.
fn median_run(arguments: &[&str]) -> Result<Duration> {
    let mut runs = [Duration::ZERO; RUNS];
    for run in &mut runs {
        let mut command = this_program(arguments)?;
        let begun = clock::now();
        let status = command.status()?;
        *run = clock::now() - begun;
        if !status.success() {
            return Err(format!("an empty process ended with {status}").into());
        }
    }
    runs.sort();
    Ok(runs[RUNS / 2])
}

/// How long it takes to its `main`.
fn run_to_main() -> Result<Duration> {
    let mut command = this_program(&[process::STAMP])?;
    let begun = clock::now();
    let output = command.output()?;
    let entered = Duration::from_nanos(String::from_utf8(output.stdout)?.trim().parse()?);
    Ok(entered.saturating_sub(begun))
}
