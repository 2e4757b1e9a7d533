//! The report at the end, as text for a person or as JSON for a program.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::{
    args::{Args, BadRelease},
    client::{Kind, Place},
    control::{Outcome, Phase},
    tally::{Counts, First, Lost, Sample},
};

/// How many losses of a kind in a place are described one by one. The table counts them all.
const DESCRIBED: usize = 3;

/// One upgrade, as it was measured.
#[derive(Clone, Debug)]
pub(crate) struct Upgrade {
    pub(crate) number: u32,
    /// Who served before.
    pub(crate) old: First,
    pub(crate) requested: Instant,
    /// The phases of the old process, the first one first.
    pub(crate) phases: Vec<Phase>,
    /// The first answer of the new process.
    pub(crate) answered: Option<First>,
    /// When the old process had ended.
    pub(crate) gone: Option<Instant>,
    /// Why it failed, if it did.
    pub(crate) problem: Option<String>,
}

impl Upgrade {
    /// Whether the new process serves, and the old one is gone.
    pub(crate) fn succeeded(&self) -> bool {
        self.gone.is_some() && self.problem.is_none()
    }
}

/// What came of an upgrade to a release that should never have been deployed.
#[derive(Clone, Debug)]
pub(crate) struct BadUpgrade {
    pub(crate) release: BadRelease,
    /// `None` if there was none in time.
    pub(crate) outcome: Option<Outcome>,
    /// When the outcome was known.
    pub(crate) decided: Instant,
}

/// Everything that a run has seen.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) args: Args,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) upgrades: Vec<Upgrade>,
    pub(crate) bad_release: Option<BadUpgrade>,
    pub(crate) counts: Counts,
    /// By clients that are not the demo's own.
    pub(crate) asked_by_others: bool,
    /// What else was not as it should be.
    pub(crate) problems: Vec<String>,
    /// The end of the log of the service, which is shown if the run did not pass.
    pub(crate) log: Vec<String>,
}

/// The result. Its `Display` is for a person, its JSON for a program; times in it are milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    passed: bool,
    seconds: f64,
    rate: u32,
    connections: usize,
    requests: usize,
    answered: usize,
    lost: usize,
    upgrades_wanted: u32,
    upgrades: Vec<UpgradeRow>,
    generations: Vec<GenerationRow>,
    latency: LatencyRows,
    losses: Vec<LossRow>,
    loss_details: Vec<String>,
    served_by_superseded_process: usize,
    /// A client of another protocol sees to its connection by itself, and does not say what became of it.
    keep_alive_told_to_close: Option<u64>,
    keep_alive_found_closed: Option<u64>,
    /// Of the keep-alive connections that were open before the first upgrade, and of these after the last one.
    sockets: Sockets,
    bad_release: Option<BadRow>,
    problems: Vec<String>,
    log: Vec<String>,
}

#[derive(Clone, Debug)]
struct UpgradeRow {
    number: u32,
    old_pid: u32,
    new_generation: Option<u64>,
    new_pid: Option<u32>,
    first_answer: Option<f64>,
    old_gone: Option<f64>,
    slowest: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct GenerationRow {
    generation: u64,
    pid: u32,
    requests: usize,
    on_new_connections: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sockets {
    before: usize,
    stayed: usize,
}

/// The upgrade to a bad release, and the requests from then on.
#[derive(Clone, Debug, PartialEq)]
struct BadRow {
    release: BadRelease,
    /// What tries it.
    checks: String,
    probe: Option<String>,
    verify: Option<String>,
    outcome: Option<Outcome>,
    decided: f64,
    requests: usize,
    bad: usize,
}

impl BadRow {
    fn of(bad: &BadUpgrade, run: &Run) -> Option<Self> {
        let requested = run.upgrades.first()?.requested;
        let answered = run.counts.samples.iter().filter(|sample| sample.answered >= requested).count();
        let bad_answers = run.counts.lost.iter().filter(|lost| lost.at >= requested).count();
        Some(Self {
            release: bad.release,
            checks: run.args.checks_in_words(),
            probe: run.args.probe.clone(),
            verify: run.args.verify.clone(),
            outcome: bad.outcome.clone(),
            decided: ms(bad.decided.saturating_duration_since(requested)),
            requests: answered + bad_answers,
            bad: bad_answers,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct LatencyRows {
    steady: Option<Latency>,
    upgrading: Option<Latency>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Latency {
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |share| quantile(&times, share).map(ms);
        Some(Self { p50: at(0.5)?, p99: at(0.99)?, max: at(1.0)? })
    }
}

/// The smallest of the times that this share of all does not exceed. They are sorted.
fn quantile(times: &[Duration], share: f64) -> Option<Duration> {
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.max(1) - 1).copied()
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct LossRow {
    place: Place,
    kind: Kind,
    count: usize,
}

impl Report {
    pub(crate) fn new(run: &Run) -> Self {
        let counts = &run.counts;
        let upgrades: Vec<_> = run.upgrades.iter().map(|upgrade| upgrade_row(upgrade, run)).collect();
        let (upgrading, steady): (Vec<_>, Vec<_>) = quick(&counts.samples)
            .partition(|sample| run.upgrades.iter().any(|it| it.covers(sample, run.ended)));
        let latency = LatencyRows {
            steady: Latency::of(steady.into_iter().map(latency).collect()),
            upgrading: Latency::of(upgrading.into_iter().map(latency).collect()),
        };

        let mut problems: Vec<_> = run
            .upgrades
            .iter()
            .filter_map(|upgrade| Some(format!("upgrade {}: {}", upgrade.number, upgrade.problem.as_ref()?)))
            .chain(run.problems.iter().cloned())
            .collect();
        let generations = generations(&counts.samples);
        for pair in generations.windows(2).filter(|pair| pair[0].generation == pair[1].generation) {
            problems.push(format!(
                "processes {} and {} both answered as generation {}",
                pair[0].pid, pair[1].pid, pair[0].generation
            ));
        }
        let stale = counts.stale();
        if stale > 0 {
            problems.push(format!(
                "an old process accepted {} new connections after its successor had answered",
                grouped(stale as u64)
            ));
        }

        let (answered, lost) = (counts.samples.len(), counts.lost.len());
        let is_own = !run.asked_by_others;
        let first = run.upgrades.first().map_or(run.ended, |upgrade| upgrade.requested);
        let (before, stayed) = counts.stayed(first, run.ended);
        let complete = upgrades.len() == run.args.upgrades as usize;
        let passed = lost == 0 && answered > 0 && problems.is_empty() && complete;
        Self {
            passed,
            seconds: (run.ended - run.began).as_secs_f64(),
            rate: run.args.rate.get(),
            connections: run.args.connections,
            requests: answered + lost,
            answered,
            lost,
            upgrades_wanted: run.args.upgrades,
            upgrades,
            generations,
            latency,
            losses: losses(&counts.lost),
            loss_details: details(run),
            served_by_superseded_process: stale,
            keep_alive_told_to_close: is_own.then_some(counts.told_to_close),
            keep_alive_found_closed: is_own.then_some(counts.found_closed),
            sockets: Sockets { before, stayed },
            bad_release: run.bad_release.as_ref().and_then(|bad| BadRow::of(bad, run)),
            problems,
            log: if passed { Vec::new() } else { run.log.clone() },
        }
    }

    /// Nothing was lost, and every upgrade succeeded.
    pub(crate) fn passed(&self) -> bool {
        self.passed
    }

    /// The same as JSON. Each value is written out, because `derive(Serialize)` would cost a tenth of the time that
    /// the demo takes to build.
    pub(crate) fn json(&self) -> String {
        let upgrade = |row: &UpgradeRow| {
            json!({
                "number": row.number,
                "old_pid": row.old_pid,
                "new_generation": row.new_generation,
                "new_pid": row.new_pid,
                "first_answer": row.first_answer,
                "old_gone": row.old_gone,
                "slowest": row.slowest,
            })
        };
        let generation = |row: &GenerationRow| {
            json!({
                "generation": row.generation,
                "pid": row.pid,
                "requests": row.requests,
                "on_new_connections": row.on_new_connections,
            })
        };
        let latency = |row: Latency| json!({ "p50": row.p50, "p99": row.p99, "max": row.max });
        let loss = |row: &LossRow| json!({ "place": row.place.to_string(), "kind": row.kind.to_string(), "count": row.count });
        let bad_release = |row: &BadRow| {
            let (outcome, reason) = match &row.outcome {
                None => ("none", None),
                Some(Outcome::Upgraded { .. }) => ("upgraded", None),
                Some(Outcome::Failed(reason)) => ("failed", Some(reason)),
            };
            json!({
                "kind": row.release.name,
                "probe": row.probe,
                "verify": row.verify,
                "outcome": outcome,
                "reason": reason,
                "decided": row.decided,
                "requests": row.requests,
                "bad": row.bad,
            })
        };
        let report = json!({
            "passed": self.passed,
            "seconds": self.seconds,
            "rate": self.rate,
            "connections": self.connections,
            "requests": self.requests,
            "answered": self.answered,
            "lost": self.lost,
            "upgrades_wanted": self.upgrades_wanted,
            "upgrades": self.upgrades.iter().map(upgrade).collect::<Vec<_>>(),
            "generations": self.generations.iter().map(generation).collect::<Vec<_>>(),
            "latency": {
                "steady": self.latency.steady.map(latency),
                "upgrading": self.latency.upgrading.map(latency),
            },
            "losses": self.losses.iter().map(loss).collect::<Vec<_>>(),
            "loss_details": self.loss_details,
            "served_by_superseded_process": self.served_by_superseded_process,
            "keep_alive_told_to_close": self.keep_alive_told_to_close,
            "keep_alive_found_closed": self.keep_alive_found_closed,
            "client_sockets": { "before": self.sockets.before, "stayed": self.sockets.stayed },
            "bad_release": self.bad_release.as_ref().map(bad_release),
            "problems": self.problems,
            "log": self.log,
        });
        format!("{report:#}\n")
    }
}

impl Upgrade {
    /// Whether the request was due between the request and the end of the old process.
    fn covers(&self, sample: &Sample, run_ended: Instant) -> bool {
        (self.requested..=self.gone.unwrap_or(run_ended)).contains(&sample.due)
    }
}

fn upgrade_row(upgrade: &Upgrade, run: &Run) -> UpgradeRow {
    let since = |at: Instant| ms(at.saturating_duration_since(upgrade.requested));
    let during = quick(&run.counts.samples).filter(|sample| upgrade.covers(sample, run.ended));
    UpgradeRow {
        number: upgrade.number,
        old_pid: upgrade.old.pid,
        new_generation: upgrade.answered.map(|new| new.generation),
        new_pid: upgrade.answered.map(|new| new.pid),
        first_answer: upgrade.answered.map(|new| since(new.at)),
        old_gone: upgrade.gone.map(since),
        slowest: during.map(latency).max().map(ms),
    }
}

/// The requests that say something about latency.
fn quick(samples: &[Sample]) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(|sample| sample.quick)
}

fn latency(sample: &Sample) -> Duration {
    sample.answered.saturating_duration_since(sample.due)
}

fn generations(samples: &[Sample]) -> Vec<GenerationRow> {
    let mut rows = BTreeMap::new();
    for sample in samples {
        let row = rows.entry((sample.generation, sample.pid)).or_insert(GenerationRow {
            generation: sample.generation,
            pid: sample.pid,
            ..GenerationRow::default()
        });
        row.requests += 1;
        row.on_new_connections += usize::from(sample.opened.is_some());
    }
    rows.into_values().collect()
}

fn losses(lost: &[Lost]) -> Vec<LossRow> {
    let rows = Place::ALL.into_iter().flat_map(|place| Kind::ALL.into_iter().map(move |kind| (place, kind)));
    rows.map(|(place, kind)| {
        let same = |lost: &&Lost| lost.loss.place == place && lost.loss.kind == kind;
        LossRow { place, kind, count: lost.iter().filter(same).count() }
    })
    .collect()
}

/// The first losses of each kind in each place, in the order in which they occurred.
fn details(run: &Run) -> Vec<String> {
    let mut described = BTreeMap::new();
    let few = run.counts.lost.iter().filter(|lost| {
        let same = described.entry((lost.loss.place, lost.loss.kind)).or_insert(0);
        *same += 1;
        *same <= DESCRIBED
    });
    few.map(|lost| describe(lost, run)).collect()
}

/// One loss in words, with what a developer needs in order to find its cause.
fn describe(lost: &Lost, run: &Run) -> String {
    let at = lost.at.saturating_duration_since(run.began).as_secs_f64();
    let upgrade = run.upgrades.iter().rev().find(|upgrade| upgrade.requested <= lost.at);
    let since = upgrade.map_or_else(
        || "before the first upgrade".to_owned(),
        |upgrade| {
            format!("{} after the request of upgrade {}", time(lost.at - upgrade.requested), upgrade.number)
        },
    );
    let loss = &lost.loss;
    let process = loss.last_pid.map_or_else(String::new, |pid| format!(" (connection of process {pid})"));
    format!("at {at:.3} s, {since}: {} {}: {}{process}", loss.kind, loss.place, loss.detail)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(f, "  upgrade  generation      process  first answer  old one gone  slowest answer")?;
        let (first, last) = ends(&self.upgrades);
        write_upgrades(f, first)?;
        if !last.is_empty() {
            let left_out = self.upgrades.len() - first.len() - last.len();
            writeln!(f, "      ...  {left_out} more, which --json lists")?;
        }
        write_upgrades(f, last)?;
        if self.upgrades.len() > 1 {
            let (answers, gone) = (self.column(|row| row.first_answer), self.column(|row| row.old_gone));
            let slowest = self.column(|row| row.slowest);
            for (name, share) in [("median", 0.5), ("worst", 1.0)] {
                let cell = |column: &[Duration]| or_dash(quantile(column, share).map(time));
                let (answer, gone, slowest) = (cell(&answers), cell(&gone), cell(&slowest));
                writeln!(f, "{name:>9}{answer:>39}{gone:>14}{slowest:>16}")?;
            }
        }
        writeln!(f, "\n  generation      process      requests  of these on new connections")?;
        let (first, last) = ends(&self.generations);
        write_generations(f, first)?;
        if !last.is_empty() {
            writeln!(f, "         ...")?;
        }
        write_generations(f, last)?;
        writeln!(f, "\n  latency                   p50         p99         max")?;
        for (name, row) in [("steady", self.latency.steady), ("during upgrades", self.latency.upgrading)] {
            let cell = |pick: fn(Latency) -> f64| or_dash(row.map(|row| from_ms(pick(row))));
            let (p50, p99, max) = (cell(|row| row.p50), cell(|row| row.p99), cell(|row| row.max));
            writeln!(f, "  {name:<16}{p50:>13}{p99:>12}{max:>12}")?;
        }
        writeln!(f, "\n  lost            on a new connection    in flight    crossing a keep-alive close")?;
        for kind in Kind::ALL {
            let count = |place| {
                let same = |row: &&LossRow| row.kind == kind && row.place == place;
                grouped(self.losses.iter().filter(same).map(|row| row.count as u64).sum())
            };
            let [new, in_flight, crossing] = Place::ALL.map(count);
            writeln!(f, "  {kind:<16}{new:>19}{in_flight:>13}{crossing:>31}")?;
        }
        writeln!(
            f,
            "\n  Of {} client sockets {} stayed open from before the first upgrade to the end.",
            grouped(self.sockets.before as u64),
            grouped(self.sockets.stayed as u64),
        )?;
        if let (Some(told), Some(found)) = (self.keep_alive_told_to_close, self.keep_alive_found_closed) {
            writeln!(
                f,
                "  Of the keep-alive connections, {} were ended by `Connection: close` in an answer, and {} were \
                 found closed\n  before the next request. Neither loses a request.",
                grouped(told),
                grouped(found),
            )?;
        }
        if let Some(row) = &self.bad_release {
            writeln!(
                f,
                "\n  The new release {}. It is tried by {}.\n  Outcome after {}: {}.",
                row.release.does,
                row.checks,
                from_ms(row.decided),
                match &row.outcome {
                    None => "none".to_owned(),
                    Some(Outcome::Upgraded { generation, pid }) => {
                        format!("upgraded; generation {generation} (process {pid}) serves")
                    }
                    Some(Outcome::Failed(reason)) =>
                        format!("the upgrade failed, and the old process serves on: {reason}"),
                }
            )?;
        }
        self.write_failures(f)?;
        if let Some(row) = &self.bad_release {
            return writeln!(
                f,
                "\n{}: {} of {} requests since the upgrade to a bad release had no good answer",
                if self.passed { "PASSED" } else { "FAILED" },
                grouped(row.bad as u64),
                grouped(row.requests as u64),
            );
        }
        writeln!(
            f,
            "\n{}: {} of {} upgrades, {} requests in {:.1} s, {} lost",
            if self.passed { "PASSED" } else { "FAILED" },
            self.upgrades.iter().filter(|row| row.old_gone.is_some()).count(),
            self.upgrades_wanted,
            grouped(self.requests as u64),
            self.seconds,
            grouped(self.lost as u64),
        )
    }
}

fn write_upgrades(f: &mut fmt::Formatter<'_>, rows: &[UpgradeRow]) -> fmt::Result {
    for row in rows {
        let (generation, pid) = (or_dash(row.new_generation), or_dash(row.new_pid));
        let [answer, gone, slowest] =
            [row.first_answer, row.old_gone, row.slowest].map(|ms| or_dash(ms.map(from_ms)));
        let number = row.number;
        writeln!(f, "{number:>9}{generation:>12}{pid:>13}{answer:>14}{gone:>14}{slowest:>16}")?;
    }
    Ok(())
}

fn write_generations(f: &mut fmt::Formatter<'_>, rows: &[GenerationRow]) -> fmt::Result {
    for row in rows {
        let (requests, new) = (grouped(row.requests as u64), grouped(row.on_new_connections as u64));
        writeln!(f, "{:>12}{:>13}{requests:>14}{new:>29}", row.generation, row.pid)?;
    }
    Ok(())
}

/// All rows of a table, or the first and the last of them if they are more than a reader takes in at a glance.
fn ends<T>(rows: &[T]) -> (&[T], &[T]) {
    if rows.len() <= 12 { (rows, &[]) } else { (&rows[..4], &rows[rows.len() - 4..]) }
}

impl Report {
    /// What all upgrades have in a column, from the shortest to the longest.
    fn column(&self, pick: fn(&UpgradeRow) -> Option<f64>) -> Vec<Duration> {
        let picked = self.upgrades.iter().filter_map(pick);
        let mut column: Vec<_> = picked.map(|ms| Duration::from_secs_f64(ms / 1e3)).collect();
        column.sort_unstable();
        column
    }

    fn write_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.problems.is_empty() {
            writeln!(f, "\n  What went wrong:")?;
        }
        for problem in &self.problems {
            writeln!(f, "  * {problem}")?;
        }
        if !self.loss_details.is_empty() {
            writeln!(f, "\n  The first requests that were lost, of each kind:")?;
        }
        for loss in &self.loss_details {
            writeln!(f, "  * {loss}")?;
        }
        if !self.log.is_empty() {
            writeln!(f, "\n  The last lines that the service logged:")?;
        }
        for line in &self.log {
            writeln!(f, "  | {line}")?;
        }
        Ok(())
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn from_ms(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else if ms < 1000.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.2} s", ms / 1e3)
    }
}

/// A time with as many digits as a reader can use.
pub(crate) fn time(time: Duration) -> String {
    from_ms(ms(time))
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
pub(crate) mod tests;
