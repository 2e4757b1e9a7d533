//! What many upgrades leave behind in a process.

use std::fs;

use processes::proc::{self, Stat, count};

use crate::Result;
use crate::flavor::DEFAULT;
use crate::options::Options;
use crate::probe;
use crate::process::Service;
use crate::report::{Row, Section, Target, progress};
use crate::stats::{Summary, summarize};

/// A generation, once its predecessor has ended.
#[derive(Clone, Copy, Debug)]
struct Footprint {
    descriptors: usize,
    threads: usize,
    children: usize,
    zombies: usize,
    /// VmRSS and its anonymous part, in KiB.
    resident: usize,
    anonymous: usize,
}

impl Footprint {
    fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<usize> {
            let value = proc::field(&status, name).and_then(|value| value.split_whitespace().next());
            Ok(value.ok_or_else(|| format!("/proc/{pid}/status has no {name}"))?.parse()?)
        };
        let children = proc::children(pid);
        Ok(Self {
            descriptors: count(pid, "fd")?,
            threads: count(pid, "task")?,
            zombies: children.iter().filter(|child| Stat::of(child).is_some_and(|it| it.is_zombie())).count(),
            children: children.len(),
            resident: field("VmRSS")?,
            anonymous: field("RssAnon")?,
        })
    }
}

pub(crate) fn measure(options: &Options) -> Result<Section> {
    let mut service = Service::start(&["probe", "1", DEFAULT])?;
    let mut footprints = Vec::new();
    for upgrade in 1..=options.upgrades {
        progress("upgrade", upgrade, options.upgrades);
        probe::upgrade(&mut service)?;
        footprints.push(Footprint::of(service.process().pid())?);
    }

    let (first, last) = (footprints[0], footprints[footprints.len() - 1]);
    let row = |what: &str, of: fn(&Footprint) -> usize, met: fn(f64, Summary) -> bool| {
        let all = summarize(footprints.iter().map(|footprint| of(footprint) as f64));
        let (least, most) = footprints
            .iter()
            .map(of)
            .fold((usize::MAX, 0), |(least, most), value| (least.min(value), most.max(value)));
        Row {
            what: what.to_owned(),
            value: format!("{} → {}", of(&first), of(&last)),
            spread: format!("{least} – {most}"),
            target: Some(Target { text: "as after the first".to_owned(), met: met(of(&first) as f64, all) }),
        }
    };
    let same = |first: f64, all: Summary| all.low == first && all.high == first;
    // Where the loader puts things differs from one process to the next by some pages.
    let about = |first: f64, all: Summary| all.median <= first * 1.05;
    Ok(Section {
        title: "After many upgrades",
        about: format!(
            "The process that serves, after the first of {} upgrades and after the last, and the least and the most of \
             all. Each is looked at once it knows that its predecessor has ended.",
            options.upgrades
        ),
        headings: ["first → last", "least – most"],
        rows: vec![
            row("descriptors", |footprint| footprint.descriptors, same),
            row("threads", |footprint| footprint.threads, same),
            row("children", |footprint| footprint.children, same),
            row("zombies", |footprint| footprint.zombies, same),
            row("resident memory, KiB", |footprint| footprint.resident, about),
            row("… of it anonymous, KiB", |footprint| footprint.anonymous, about),
        ],
    })
}
