//! Breaks an upgrade at every system call of either process, and judges the result.
//!
//! ```text
//! cargo run --release -p faults -- sweep               all of the following
//! cargo run --release -p faults -- kill old            SIGKILL to the old process at its k-th system call, for every k
//! cargo run --release -p faults -- kill new            the same for the new one
//! cargo run --release -p faults -- rescue new          the same while the old one drains, which starts its own image again
//! cargo run --release -p faults -- delay old|new       that system call is made later than everything else
//! cargo run --release -p faults -- errors old|new      each system call of the handover fails once, with each error
//! cargo run --release -p faults -- stop old|new        SIGTERM at that system call
//! cargo run --release -p faults -- stall new           SIGSTOP at that system call
//! cargo run --release -p faults -- fork new            its thread forks at that system call, and its process exits
//! cargo run --release -p faults -- move-kill old|new   SIGKILL at each system call while open connections move
//! cargo run --release -p faults -- move-delay old|new  that system call is made later than everything else
//! cargo run --release -p faults -- move-late new       the same, and so late that the connections are taken back
//! cargo run --release -p faults -- move-errors old|new each system call of the move fails once, with each error
//! cargo run --release -p faults -- revert-kill old|new   SIGKILL at each system call of a revert
//! cargo run --release -p faults -- revert-stall old|new  SIGSTOP at that system call, for a while or until nothing more happens
//! cargo run --release -p faults -- revert-delay old|new  that system call is made later than everything else
//! cargo run --release -p faults -- revert-stop old|new   SIGTERM at that system call
//! cargo run --release -p faults -- revert-errors old|new each system call of a revert fails once, with each error
//! ... --slice 2/7                                      every seventh point, from the second
//! ... --managed                                        under a service manager
//! ... --release script                                 the new process is of another kind, see `release.rs`
//! cargo run --release -p faults -- soak                upgrades under load, with a random one of these in one of ten
//! ```
//!
//! It needs x86_64, because it writes the registers, and the permission for ptrace(2). Otherwise it exits with status 77.
//!
//! A point is a service of its own under load, one upgrade of it, and one fault. `point.rs` has the conditions that must hold
//! after it. A point that breaks one is printed, and the exit status is 1.
//!
//! * `main.rs`: the command line and the sweeps. `soak.rs`: the long run.
//! * `point.rs`: one point. `scene.rs`: its service. `fault.rs`, `errors.rs`: its fault.
//! * `moving.rs`: one point of connections that move. `revert.rs`: one point of a revert.
//! * `tracer.rs`: ptrace(2). `manager.rs`: the service manager. `load.rs`: the clients.
//! * `service.rs`, `release.rs`: the service, which is this program itself, and the kinds of its next release.

mod errors;
mod fault;
mod load;
mod manager;
mod moving;
mod point;
mod release;
mod revert;
mod scene;
mod service;
mod soak;
mod tracer;

use std::collections::BTreeMap;
use std::env;
use std::process::ExitCode;
use std::time::Duration;

use fault::{Fault, Side};
use point::Outcome;
use release::Release;

/// More points than any upgrade has: a sweep that gets here would never end.
const MAX_POINTS: usize = 20_000;

/// How many system calls of a new process come before, and some time after, the old one begins to drain.
const CALLS_BESIDE_DRAIN: usize = 800;

/// Longer than the probation of the service, and than any answer takes that it is to overtake.
const DELAY: Duration = Duration::from_millis(80);

/// Which points of a sweep are tried.
#[derive(Clone, Copy)]
struct Extent {
    /// Those of a service under a service manager.
    managed: bool,
    /// Those of an upgrade to this.
    release: Release,
    /// One of several equal parts, from 1, and how many there are.
    slice: (usize, usize),
}

enum Command {
    /// Be the service.
    Serve,
    Sweep(Vec<(Sweep, Side)>, Extent),
    Soak(soak::Options),
}

type Sweep = fn(Side, Extent) -> bool;

impl Command {
    fn parse(words: &[&str]) -> Option<Self> {
        let sweeps: [(&str, Side, Sweep); 28] = [
            ("kill", Side::Old, kill),
            ("kill", Side::New, kill),
            ("rescue", Side::New, rescue),
            ("delay", Side::Old, delay),
            ("delay", Side::New, delay),
            ("errors", Side::Old, errors),
            ("errors", Side::New, errors),
            ("stop", Side::Old, stop),
            ("stop", Side::New, stop),
            ("stall", Side::New, stall),
            ("fork", Side::New, fork),
            ("move-kill", Side::Old, |side, extent| moving::kill(side, extent.slice)),
            ("move-kill", Side::New, |side, extent| moving::kill(side, extent.slice)),
            ("move-delay", Side::Old, |side, extent| moving::delay(side, extent.slice)),
            ("move-delay", Side::New, |side, extent| moving::delay(side, extent.slice)),
            ("move-late", Side::New, |side, extent| moving::late(side, extent.slice)),
            ("move-errors", Side::Old, |side, extent| moving::errors(side, extent.slice)),
            ("move-errors", Side::New, |side, extent| moving::errors(side, extent.slice)),
            ("revert-kill", Side::Old, |side, extent| revert::kill(side, extent.slice)),
            ("revert-kill", Side::New, |side, extent| revert::kill(side, extent.slice)),
            ("revert-stall", Side::Old, |side, extent| revert::stall(side, extent.slice)),
            ("revert-stall", Side::New, |side, extent| revert::stall(side, extent.slice)),
            ("revert-delay", Side::Old, |side, extent| revert::delay(side, extent.slice)),
            ("revert-delay", Side::New, |side, extent| revert::delay(side, extent.slice)),
            ("revert-stop", Side::Old, |side, extent| revert::stop(side, extent.slice)),
            ("revert-stop", Side::New, |side, extent| revert::stop(side, extent.slice)),
            ("revert-errors", Side::Old, |side, extent| revert::errors(side, extent.slice)),
            ("revert-errors", Side::New, |side, extent| revert::errors(side, extent.slice)),
        ];
        match *words {
            ["serve"] => Some(Self::Serve),
            ["soak", ref options @ ..] => Some(Self::Soak(soak::Options::parse(options)?)),
            ["sweep", ref options @ ..] => {
                let extent = Extent::parse(options)?;
                let sweeps = sweeps.into_iter().filter(|(what, side, _)| extent.has(what, *side));
                Some(Self::Sweep(sweeps.map(|(_, side, sweep)| (sweep, side)).collect(), extent))
            }
            [what, whom, ref options @ ..] => {
                let is_meant = |side| whom == if side == Side::Old { "old" } else { "new" };
                let (_, side, sweep) = sweeps.into_iter().find(|it| it.0 == what && is_meant(it.1))?;
                let extent = Extent::parse(options).filter(|extent| extent.has(what, side))?;
                Some(Self::Sweep(vec![(sweep, side)], extent))
            }
            _ => None,
        }
    }
}

impl Extent {
    /// Whether there are such points. What moves, and a revert, are the same for every manager and every release. A manager has a stop of its own, does not tell whether an upgrade has succeeded before it is
    /// followed, and knows nothing of who is behind a script. A release that never passes its probation is not alone beside a drain, and
    /// one that returns some time after its first connection ends the service where the old process is gone, and is past its probation
    /// where that one is late.
    fn has(&self, what: &str, side: Side) -> bool {
        let can_be_managed = !["stop", "stall", "fork"].contains(&what) && !self.release.has_parent_between();
        let is_alone = side == Side::Old && ["kill", "stop", "delay"].contains(&what);
        (!self.managed || can_be_managed)
            && (what != "rescue" || self.release.is_sound())
            && !(is_alone && self.release == Release::Returns)
            && !(["move-", "revert-"].iter().any(|kind| what.starts_with(kind))
                && (self.managed || self.release != Release::Plain))
    }

    fn parse(mut options: &[&str]) -> Option<Self> {
        let mut extent = Self { managed: false, release: Release::Plain, slice: (1, 1) };
        loop {
            options = match *options {
                [] => return Some(extent),
                ["--managed", ref rest @ ..] => {
                    extent.managed = true;
                    rest
                }
                ["--release", name, ref rest @ ..] => {
                    extent.release = Release::parse(name)?;
                    rest
                }
                ["--slice", slice, ref rest @ ..] => {
                    extent.slice = parse_slice(slice)?;
                    rest
                }
                _ => return None,
            };
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(command) = Command::parse(&arguments) else {
        let releases = Release::ALL.map(|(name, _)| name).join("|");
        eprintln!("usage: faults sweep [OPTION...]");
        eprintln!(
            "       faults kill|delay|errors|stop|move-kill|move-delay|move-errors old|new [OPTION...]"
        );
        eprintln!(
            "       faults revert-kill|revert-stall|revert-delay|revert-stop|revert-errors old|new [OPTION...]"
        );
        eprintln!("       faults rescue|stall|fork|move-late new [OPTION...]");
        eprintln!("options: --managed, --slice I/N, --release {releases}");
        eprintln!("       faults soak [--upgrades N] [--rate N] [--seed N]");
        return ExitCode::from(2);
    };
    if let Command::Serve = command {
        return service::serve();
    }
    processes::default_for_children();
    if let Err(problem) = tracer::is_possible() {
        eprintln!("{problem}");
        return ExitCode::from(77);
    }
    if let Err(errno) = tracer::ignore_no_interrupt() {
        eprintln!("cannot set the action of SIGINT: {errno}");
        return ExitCode::FAILURE;
    }
    // Orphans of the services become children of this process, which reaps them at once.
    if let Err(error) = processes::adopt_orphans() {
        eprintln!("cannot become a subreaper: {error}");
        return ExitCode::FAILURE;
    }
    let all_is_well = match command {
        Command::Serve => true,
        Command::Soak(options) => soak::run(&options),
        Command::Sweep(sweeps, extent) => {
            let results: Vec<bool> = sweeps.into_iter().map(|(sweep, side)| sweep(side, extent)).collect();
            results.into_iter().all(|result| result)
        }
    };
    if all_is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse_slice(text: &str) -> Option<(usize, usize)> {
    let (i, n) = text.split_once('/')?;
    let (i, n) = (i.parse().ok()?, n.parse().ok()?);
    (1 <= i && i <= n).then_some((i, n))
}

/// What came of a sweep.
#[derive(Default)]
struct Report {
    points: usize,
    /// The old process was killed before there was a new one: the service is down then.
    alone: usize,
    /// The manager has started the service again.
    restarted: usize,
    /// The service was told to stop, and did.
    stopped: usize,
    upgraded: usize,
    /// Connections that the killed process had accepted and not answered.
    lost: u64,
    answered: u64,
    violations: usize,
    /// How many points each system call had.
    calls: BTreeMap<String, usize>,
}

impl Report {
    fn add(&mut self, name: &str, outcome: &Outcome) {
        self.points += 1;
        *self.calls.entry(outcome.call.clone()).or_default() += 1;
        self.alone += usize::from(outcome.alone);
        self.restarted += usize::from(outcome.restarted);
        self.stopped += usize::from(outcome.stopped);
        self.upgraded += usize::from(outcome.upgraded);
        self.lost += outcome.lost;
        self.answered += outcome.answered;
        if !outcome.upgraded && !outcome.reason.is_empty() {
            eprintln!("not upgraded, {name}:\n{}", outcome.reason.trim_end());
        }
        if let Some(violation) = &outcome.violation {
            self.violations += 1;
            println!("VIOLATION at {name}: {violation}\n{}", outcome.log);
        }
    }

    /// Returns whether all was well.
    fn print(&self, what: &str, side: Side, extent: Extent) -> bool {
        let restarted = if extent.managed {
            format!(", {} started again by the manager", self.restarted)
        } else {
            String::new()
        };
        let stopped = if self.stopped > 0 { format!(", {} stopped", self.stopped) } else { String::new() };
        let release = match extent.release {
            Release::Plain => String::new(),
            release => format!(" of a release that is `{}`", release.name()),
        };
        println!(
            "{what} {side:?}{release}: {} points tried, {} of them with nobody else to serve yet, {} upgraded all the \
             same{stopped}{restarted}; {} connections answered, {} lost that the process that was hit had accepted; {} violations",
            self.points, self.alone, self.upgraded, self.answered, self.lost, self.violations
        );
        self.violations == 0 && self.points > 0
    }
}

fn kill(side: Side, extent: Extent) -> bool {
    at_every_call("kill", side, extent, |at| Fault::Kill { at })
}

fn rescue(side: Side, extent: Extent) -> bool {
    at_every_call("rescue", side, extent, |at| Fault::KillBesideDrain { at })
}

fn delay(side: Side, extent: Extent) -> bool {
    at_every_call("delay", side, extent, |at| Fault::Delay { at, by: DELAY })
}

fn stop(side: Side, extent: Extent) -> bool {
    at_every_call("stop", side, extent, |at| Fault::Stop { at })
}

fn stall(side: Side, extent: Extent) -> bool {
    at_every_call("stall", side, extent, |at| Fault::Stall { at })
}

fn fork(side: Side, extent: Extent) -> bool {
    at_every_call("fork", side, extent, |at| Fault::Fork { at })
}

fn at_every_call(what: &str, side: Side, extent: Extent, fault: impl Fn(usize) -> Fault) -> bool {
    let (first, step) = extent.slice;
    let mut report = Report::default();
    for at in (first..MAX_POINTS).step_by(step) {
        let fault = fault(at);
        let outcome = point::run(extent.managed, extent.release, side, fault);
        let is_over = !outcome.reached && outcome.violation.is_none();
        if is_over || matches!(fault, Fault::KillBesideDrain { .. }) && at > CALLS_BESIDE_DRAIN {
            println!("{what} {side:?}: over before system call {at}");
            return report.print(what, side, extent);
        }
        report.add(&format!("{what}, system call {at} ({}) of the {side:?} process", outcome.call), &outcome);
    }
    println!("the upgrade has more than {MAX_POINTS} system calls");
    false
}

fn errors(side: Side, extent: Extent) -> bool {
    let (first, step) = extent.slice;
    let mut report = Report::default();
    for (number, (call, error)) in errors::all().enumerate() {
        // Of each error of each call, so that a slice has some of every kind, and the slices together have all.
        let nths = (1..MAX_POINTS).filter(|nth| (number + nth) % step == first % step);
        for nth in nths {
            let outcome = point::run(extent.managed, extent.release, side, Fault::Error { call, error, nth });
            if !outcome.reached && outcome.violation.is_none() {
                break;
            }
            report.add(
                &format!("{error} of {}, number {nth} of the {side:?} process", errors::name(call)),
                &outcome,
            );
        }
    }
    let calls: Vec<_> = report.calls.iter().map(|(call, points)| format!("{call} {points}")).collect();
    let others = errors::others(&report.calls);
    println!("errors {side:?}: points of {}; none of {}", calls.join(", "), others.join(", "));
    report.print("errors", side, extent)
}
