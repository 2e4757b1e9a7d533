//! The cost of the handover of many listeners, beyond the cost of one.

use std::time::Duration;

use crate::Result;
use crate::flavor::DEFAULT;
use crate::options::Options;
use crate::probe::{self, Upgrade};
use crate::process::Service;
use crate::report::{Row, SUMMARY, Section, Target, progress};
use crate::stats::{milliseconds, summarize};

/// In milliseconds, for a thousand listeners.
const TARGET: f64 = 50.0;

pub(crate) fn measure(options: &Options) -> Result<Section> {
    let count = options.listeners;
    let mut one = Service::start(&["probe", "1", DEFAULT])?;
    let mut many = Service::start(&["probe", &count.to_string(), DEFAULT])?;
    probe::upgrade(&mut one)?;
    probe::upgrade(&mut many)?;
    let (mut of_one, mut of_many): (Vec<Upgrade>, Vec<Upgrade>) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        progress("round", round, options.rounds);
        of_one.push(probe::upgrade(&mut one)?);
        of_many.push(probe::upgrade(&mut many)?);
    }

    let part = |what: &str, upgrades: &[Upgrade], of: fn(&Upgrade) -> Duration| {
        Row::milliseconds(what, milliseconds(upgrades.iter().map(of)))
    };
    let beyond = of_many
        .iter()
        .zip(&of_one)
        .map(|(many, one)| (many.total.as_secs_f64() - one.total.as_secs_f64()) * 1e3);
    let beyond = summarize(beyond);
    Ok(Section {
        title: "Handover of many listeners",
        about: format!(
            "From SIGHUP to the first answer from the successor on the last of its listeners, in ms; {} rounds, in each \
             of which one listener and {count} are handed over. The target is that of 1,000 listeners.",
            options.rounds
        ),
        headings: SUMMARY,
        rows: vec![
            part("1 listener", &of_one, |upgrade| upgrade.total),
            part(&format!("{count} listeners"), &of_many, |upgrade| upgrade.total),
            part("… signal to `main` of the successor", &of_many, |upgrade| upgrade.to_main),
            part("… `main` to body (offer, listeners, tokio)", &of_many, |upgrade| upgrade.to_body),
            part("… body to first accept (prepared, commit)", &of_many, |upgrade| upgrade.to_accept),
            part("… accept to answer at the client", &of_many, |upgrade| upgrade.to_answer),
            Row::milliseconds(format!("{count} listeners, beyond one"), beyond)
                .with_target(Target::below_milliseconds(TARGET, beyond.median)),
        ],
    })
}
