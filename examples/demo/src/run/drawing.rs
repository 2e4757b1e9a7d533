//! The picture of a run: all of it, and one upgrade near by.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    report::{Run, Upgrade, grouped, time},
    svg::{Cloud, Dot, Ink, Key, Moment, Panel, Phase, Picture},
};

/// How much is shown around an upgrade near by.
const AROUND: Duration = Duration::from_millis(60);

/// How many times the usual latency makes an answer slow. A slow answer is always drawn.
const SLOW: u32 = 20;

/// How many generations have an entry of their own in the legend.
const GENERATIONS: usize = 10;

/// Draws a run.
pub(crate) fn picture(run: &Run) -> Picture {
    let (answered, lost) = (run.counts.samples.len(), run.counts.lost.len());
    let requests = grouped((answered + lost) as u64);
    let losses = grouped(lost as u64);
    let succeeded = run.upgrades.iter().filter(|upgrade| upgrade.succeeded()).count();
    let upgrades = match (succeeded, run.upgrades.len()) {
        (1, 1) => "1 upgrade".to_owned(),
        (done, all) if done == all => format!("{all} upgrades"),
        (done, all) => format!("{done} of {all} upgrades"),
    };
    let load = format!(
        "{} requests per second over new connections and {} keep-alive ones.",
        grouped(u64::from(run.args.rate.get())),
        run.args.connections,
    );
    const DOTS: &str = "Each dot is a request, coloured by the process that answered.";
    let mut notes = Vec::new();
    let (title, subtitle) = match &run.bad_release {
        None => {
            let package = run.args.service.package;
            (format!("{upgrades} of {package}: {requests} requests, {losses} lost"), format!("{load} {DOTS}"))
        }
        Some(bad) => {
            let title = format!("Bad release ({}): {losses} bad answers", bad.release.name);
            notes.push(format!("{requests} requests: {load} {DOTS}"));
            (
                title,
                format!(
                    "The new release {}. It is tried by {}.",
                    bad.release.does,
                    run.args.checks_in_words()
                ),
            )
        }
    };

    let clouds = clouds(run);
    let mut panels = vec![whole(run, &clouds)];
    panels.extend(worst(run).map(|upgrade| near(run, upgrade, &clouds)));
    notes.push(
        "Latency counts from the moment at which the request was due. Of dots on top of each other one is drawn; every lost or \
         slow request has its own dot."
            .to_owned(),
    );
    if run.counts.samples.iter().any(|sample| !sample.quick) {
        notes.push(
            "Pale dots are requests that take their time on purpose: the answer comes after 100 ms, or the client waits 50 ms \
             before it sends."
                .to_owned(),
        );
    }
    let description = format!("{title}. {subtitle} The phases of each upgrade are shaded. {}", told(run));
    Picture { title, subtitle, description, legend: legend(run), panels, notes }
}

/// The upgrades in words.
fn told(run: &Run) -> String {
    let tell = |upgrade: &Upgrade| {
        let at = time(upgrade.requested.saturating_duration_since(run.began));
        let end = match (&upgrade.gone, upgrade.succeeded()) {
            (Some(gone), true) => {
                format!("its old process was gone after {}", time(*gone - upgrade.requested))
            }
            _ => "it failed".to_owned(),
        };
        format!("Upgrade {} began after {at}; {end}.", upgrade.number)
    };
    run.upgrades.iter().map(tell).collect::<Vec<_>>().join(" ")
}

fn legend(run: &Run) -> Vec<Key> {
    let mut answers: BTreeMap<(u64, u32), usize> = BTreeMap::new();
    for sample in &run.counts.samples {
        *answers.entry((sample.generation, sample.pid)).or_default() += 1;
    }
    let shown = |index: usize| answers.len() <= GENERATIONS || index + 1 < GENERATIONS;
    let mut keys: Vec<_> = answers
        .iter()
        .enumerate()
        .filter(|(index, _)| shown(*index))
        .map(|(_, ((generation, pid), count))| Key {
            ink: ink(*generation),
            text: format!("generation {generation} (process {pid}): {}", grouped(*count as u64)),
            short: format!("gen. {generation}"),
        })
        .collect();
    if answers.len() > keys.len() {
        let rest: usize = answers.values().skip(keys.len()).sum();
        let (first, last) = (keys.len() + 1, answers.len());
        let ink = Ink::Series(keys.len());
        let text = format!("generations {first} to {last}: {}", grouped(rest as u64));
        keys.push(Key { ink, text, short: format!("… {last}") });
    }
    let lost = run.counts.lost.len() as u64;
    let name = if run.bad_release.is_some() { "no good answer" } else { "lost" };
    keys.push(Key {
        ink: Ink::Failed,
        text: format!("{name}: {}", grouped(lost)),
        short: format!("{name}: {lost}"),
    });
    keys
}

fn ink(generation: u64) -> Ink {
    Ink::Series(usize::try_from(generation).unwrap_or(usize::MAX).saturating_sub(1))
}

/// A dot for each request, with the time since the beginning of the run.
fn clouds(run: &Run) -> Vec<Cloud> {
    let mut quick: Vec<_> = run.counts.samples.iter().filter(|sample| sample.quick).map(latency).collect();
    quick.sort_unstable();
    let usual = quick.get(quick.len() / 2).copied().unwrap_or_default();
    let mut clouds: BTreeMap<(bool, u64), Cloud> = BTreeMap::new();
    for sample in &run.counts.samples {
        let empty = || Cloud {
            ink: ink(sample.generation),
            faint: !sample.quick,
            thinned: Vec::new(),
            kept: Vec::new(),
        };
        // First those that take their time on purpose: the others are drawn over them.
        let cloud = clouds.entry((sample.quick, sample.generation)).or_insert_with(empty);
        let dot = dot(run, sample.due, latency(sample));
        let is_slow = sample.quick && latency(sample) > usual * SLOW;
        if is_slow { &mut cloud.kept } else { &mut cloud.thinned }.push(dot);
    }
    let mut clouds: Vec<_> = clouds.into_values().collect();
    let lost = run.counts.lost.iter().map(|lost| {
        let due = lost.due.unwrap_or(lost.at);
        dot(run, due, lost.at.saturating_duration_since(due))
    });
    clouds.push(Cloud { ink: Ink::Failed, faint: false, thinned: Vec::new(), kept: lost.collect() });
    clouds
}

fn latency(sample: &super::tally::Sample) -> Duration {
    sample.answered.saturating_duration_since(sample.due)
}

fn dot(run: &Run, due: Instant, took: Duration) -> Dot {
    Dot { at: seconds(run.began, due), value: took.as_secs_f64() * 1e3 }
}

/// From one moment to the other. It is negative where the other is earlier.
fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() - from.saturating_duration_since(to).as_secs_f64()
}

/// All of the run.
fn whole(run: &Run, clouds: &[Cloud]) -> Panel {
    let moment = |upgrade: &Upgrade| {
        let failed = !upgrade.succeeded();
        let label = format!("upgrade {}{}", upgrade.number, if failed { " failed" } else { "" });
        Moment { at: seconds(run.began, upgrade.requested), label, failed }
    };
    // The first and the last request may be due a little outside.
    let times = || clouds.iter().flat_map(|cloud| cloud.thinned.iter().chain(&cloud.kept)).map(|dot| dot.at);
    Panel {
        heading: "The whole run".to_owned(),
        from: times().fold(0.0, f64::min),
        to: times().fold(seconds(run.began, run.ended), f64::max),
        height: 260.0,
        since: "since the load began".to_owned(),
        phases: run.upgrades.iter().flat_map(|upgrade| phases(run, upgrade, 0.0, false)).collect(),
        moments: run.upgrades.iter().map(moment).collect(),
        clouds: clouds.to_vec(),
        ..axis()
    }
}

fn axis() -> Panel {
    Panel { value: "latency".to_owned(), things: "requests".to_owned(), ..Panel::default() }
}

/// The upgrade to look at: it lost the most, and among these has the slowest answer.
fn worst(run: &Run) -> Option<&Upgrade> {
    run.upgrades.iter().max_by_key(|upgrade| {
        let during = |at: Instant| (upgrade.requested..=end(run, upgrade)).contains(&at);
        let lost = run.counts.lost.iter().filter(|lost| during(lost.at)).count();
        let quick = run.counts.samples.iter().filter(|sample| sample.quick && during(sample.due));
        (lost, quick.map(latency).max())
    })
}

/// When the picture of an upgrade may end.
fn end(run: &Run, upgrade: &Upgrade) -> Instant {
    let last = upgrade.phases.last().map(|phase| phase.since);
    upgrade.gone.or(last).unwrap_or(run.ended).min(run.ended)
}

/// One upgrade, with its phases in words.
fn near(run: &Run, upgrade: &Upgrade, clouds: &[Cloud]) -> Panel {
    let start = seconds(run.began, upgrade.requested);
    let end = seconds(upgrade.requested, end(run, upgrade));
    let around = AROUND.as_secs_f64().max(end * 0.15);
    let moved = |dots: &[Dot]| {
        let dots = dots.iter().map(|dot| Dot { at: dot.at - start, value: dot.value });
        dots.filter(|dot| (-around..=end + around).contains(&dot.at)).collect()
    };
    let clouds = clouds.iter();
    let lost = run.counts.lost.iter().filter(|lost| lost.at >= upgrade.requested).count();
    let which = if run.upgrades.len() == 1 {
        ""
    } else if lost > 0 {
        ", which lost the most"
    } else {
        ", with the slowest answer of all upgrades"
    };
    Panel {
        heading: format!("Upgrade {}{which}", upgrade.number),
        from: -around,
        to: end + around,
        height: 300.0,
        since: "since the request to upgrade".to_owned(),
        phases: phases(run, upgrade, start, true),
        clouds: clouds
            .map(|cloud| Cloud { thinned: moved(&cloud.thinned), kept: moved(&cloud.kept), ..cloud.clone() })
            .collect(),
        ..axis()
    }
}

/// The phases of the old process, with the time since `start`.
fn phases(run: &Run, upgrade: &Upgrade, start: f64, named: bool) -> Vec<Phase> {
    let ends = upgrade.phases.iter().skip(1).map(|phase| phase.since).chain([end(run, upgrade)]);
    let phases = upgrade.phases.iter().zip(ends).filter(|(phase, _)| phase.name != "serving");
    phases
        .map(|(phase, end)| Phase {
            name: phase.name.clone(),
            from: seconds(run.began, phase.since) - start,
            to: seconds(run.began, end) - start,
            label: named
                .then(|| format!("{} {}", phase.name, rough(end.saturating_duration_since(phase.since)))),
        })
        .collect()
}

/// A time between two lines of the control socket, which the demo reads a little late.
fn rough(duration: Duration) -> String {
    if duration < Duration::from_millis(1) { "< 1 ms".to_owned() } else { time(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{
        args::BadRelease,
        control,
        report::{
            BadUpgrade,
            tests::{lose, run},
        },
    };

    /// The upgrade of `run`, with the phases of the old process.
    fn with_phases(mut run: Run) -> Run {
        let upgrade = &mut run.upgrades[0];
        let phases = [("upgrading", 0), ("handing-over", 6), ("standby", 7), ("draining", 207)];
        let requested = upgrade.requested;
        upgrade.phases = phases
            .map(|(name, ms)| control::Phase {
                name: name.to_owned(),
                since: requested + Duration::from_millis(ms),
            })
            .into();
        run
    }

    #[test]
    fn each_request_is_a_dot_of_its_generation() {
        let picture = picture(&with_phases(run()));
        assert_eq!(picture.title, "1 upgrade of hello: 7 requests, 0 lost");
        let [whole, near] = &picture.panels[..] else { panic!("two panels") };
        let dots = |panel: &Panel, ink: Ink| -> usize {
            let clouds = panel.clouds.iter().filter(|cloud| cloud.ink == ink);
            clouds.map(|cloud| cloud.thinned.len() + cloud.kept.len()).sum()
        };
        let count = |panel| [Ink::Series(0), Ink::Series(1), Ink::Failed].map(|ink| dots(panel, ink));
        assert_eq!(count(whole), [4, 3, 0]);
        // From 0.15 s before the request, at 2 s, to as much after the end of the old process.
        assert_eq!(count(near), [1, 2, 0]);
        let keys: Vec<_> = picture.legend.iter().map(|key| &*key.text).collect();
        assert_eq!(keys, ["generation 1 (process 100): 4", "generation 2 (process 200): 3", "lost: 0"]);
    }

    #[test]
    fn the_phases_follow_each_other_until_the_old_process_is_gone() {
        let picture = picture(&with_phases(run()));
        let near = &picture.panels[1];
        let ends: Vec<_> = near
            .phases
            .iter()
            .map(|phase| ((phase.from * 1e3).round(), (phase.to * 1e3).round(), phase.label.as_deref()))
            .collect();
        let expected = [
            (0.0, 6.0, Some("upgrading 6.00 ms")),
            (6.0, 7.0, Some("handing-over 1.00 ms")),
            (7.0, 207.0, Some("standby 200.0 ms")),
            (207.0, 1000.0, Some("draining 793.0 ms")),
        ];
        assert_eq!(ends, expected);
        assert!(picture.panels[0].phases.iter().all(|phase| phase.label.is_none()));
        assert!(
            picture
                .description
                .contains("Upgrade 1 began after 2.00 s; its old process was gone after 1.00 s.")
        );
    }

    #[test]
    fn a_lost_request_is_kept_and_a_slow_one_too() {
        let mut run = with_phases(run());
        lose(&mut run);
        run.counts.samples[4].answered += Duration::from_secs(2);
        let picture = picture(&run);
        for panel in &picture.panels {
            let kept: Vec<_> = panel.clouds.iter().filter(|cloud| !cloud.kept.is_empty()).collect();
            let inks: Vec<_> = kept.iter().map(|cloud| (cloud.ink, cloud.kept.len())).collect();
            assert_eq!(inks, [(Ink::Series(0), 1), (Ink::Failed, 1)]);
        }
        assert!(picture.title.ends_with("8 requests, 1 lost"), "{}", picture.title);
    }

    #[test]
    fn a_bad_release_that_is_refused_is_a_failed_upgrade() {
        let mut run = with_phases(run());
        let release = BadRelease::ALL[0];
        let decided = run.ended;
        run.bad_release = Some(BadUpgrade { release, outcome: None, decided });
        run.upgrades[0].gone = None;
        let picture = picture(&run);
        assert_eq!(picture.title, "Bad release (crash): 0 bad answers");
        let moment = &picture.panels[0].moments[0];
        assert_eq!((&*moment.label, moment.failed), ("upgrade 1 failed", true));
    }

    #[test]
    fn of_many_generations_the_legend_names_the_first_ones() {
        let mut run = run();
        let one = run.counts.samples[0];
        run.counts.samples =
            (1..=100).map(|generation| super::super::tally::Sample { generation, ..one }).collect();
        let keys = legend(&run);
        assert_eq!(keys.len(), GENERATIONS + 1);
        assert_eq!(keys[GENERATIONS - 1].text, "generations 10 to 100: 91");
    }
}
