//! The picture of one upgrade.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::output::Failure;
use super::super::picture::name_of;
use super::super::svg;
use super::super::svg::{Cloud, Dot, Ink, Key, Line, Moment, Panel, Picture, Scale, grouped};
use super::recording::{Recording, Watched};
use super::requests::{Request, Sent};
use crate::base::status::Phase;

/// The colour of requests, which is that of no usual generation.
const REQUESTS: Ink = Ink::Series(6);
/// The longest name of a service in the title, and the number of reasons in the notes.
const LONGEST_NAME: usize = 14;
const REASONS: usize = 3;

/// An upgrade and what was recorded of it.
pub(crate) struct Run<'run> {
    pub(crate) recording: &'run Recording,
    pub(crate) requests: Option<&'run Sent>,
    /// When the upgrade was requested, and when its outcome was known.
    pub(crate) requested: Instant,
    pub(crate) decided: Instant,
    pub(crate) failure: Option<&'run Failure>,
}

impl Run<'_> {
    /// Seconds since the request to upgrade.
    fn seconds(&self, at: Instant) -> f64 {
        let before = self.requested.saturating_duration_since(at).as_secs_f64();
        at.saturating_duration_since(self.requested).as_secs_f64() - before
    }

    fn old(&self) -> Option<&Watched> {
        self.recording.processes.first()
    }

    fn lost(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().flat_map(|sent| &sent.requests).filter(|request| request.result.is_err())
    }

    /// How the upgrade has ended, in one word or two.
    fn outcome(&self) -> &'static str {
        let Some(failure) = self.failure else { return "done" };
        let phases = self.old().into_iter().flat_map(|old| &old.phases);
        let is_reverted = phases.into_iter().any(|(_, phase)| *phase == Phase::Standby);
        match failure.is_no_answer() {
            true => "outcome unknown",
            false if is_reverted => "reverted",
            false => "failed",
        }
    }
}

/// What the picture counts, in words.
pub(crate) fn counted(run: &Run<'_>) -> String {
    let lost = grouped(run.lost().count());
    match run.requests {
        Some(sent) => format!("{} requests, {lost} lost", grouped(sent.requests.len())),
        None => run.outcome().to_owned(),
    }
}

pub(crate) fn picture(run: &Run<'_>) -> Picture {
    let outcome = run.outcome();
    let counted = counted(run);
    let result = match (run.requests, run.failure) {
        (Some(_), None) => counted.clone(),
        (Some(_), Some(_)) => format!("{outcome}, {} lost", grouped(run.lost().count())),
        (None, _) => outcome.to_owned(),
    };
    let title = format!("Upgrade of {}: {result}", name(run));
    let took = time(run.decided.saturating_duration_since(run.requested));
    let mut subtitle = match run.failure {
        None => format!("The outcome was known after {took}."),
        Some(failure) => format!("After {took}: {}", failure.reason().replace(char::is_control, " ")),
    };
    if let Some(sent) = run.requests {
        subtitle += &format!(" Each dot is a GET {} over a connection of its own.", sent.url.as_str());
    }
    let mut panels: Vec<_> = run.requests.map(|sent| requests(run, sent)).into_iter().collect();
    panels.push(open_connections(run, panels.is_empty()));
    let phases = phases(run, true).into_iter().filter_map(|phase| phase.label).collect::<Vec<_>>();
    let description =
        format!("{title}. {subtitle} {counted}. The phases of the old process: {}.", phases.join(", "));
    Picture { title, subtitle, description, legend: legend(run), panels, notes: notes(run) }
}

/// The name of the executable, as much of it as a title has room for.
fn name(run: &Run<'_>) -> String {
    let path = run.recording.executable.as_deref();
    let name = path.and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "a service".to_owned());
    if name.chars().count() <= LONGEST_NAME {
        return name;
    }
    name.chars().take(LONGEST_NAME - 1).chain(['…']).collect()
}

fn ink(process: &Watched) -> Ink {
    Ink::Series(usize::try_from(process.generation.saturating_sub(1) % 6).unwrap_or_default())
}

fn legend(run: &Run<'_>) -> Vec<Key> {
    let mut keys: Vec<_> = run
        .recording
        .processes
        .iter()
        .map(|process| Key {
            ink: ink(process),
            text: format!("open in generation {} (process {})", process.generation, process.pid),
            short: format!("gen. {}", process.generation),
        })
        .collect();
    if let Some(sent) = run.requests {
        let lost = run.lost().count();
        let answered = grouped(sent.requests.len() - lost);
        keys.push(Key { ink: REQUESTS, text: format!("answered: {answered}"), short: "answered".to_owned() });
        let lost = format!("lost: {}", grouped(lost));
        keys.push(Key { ink: Ink::Failed, text: lost.clone(), short: lost });
    }
    keys
}

/// The phases of the process that was asked to upgrade.
fn phases(run: &Run<'_>, named: bool) -> Vec<svg::Phase> {
    let Some(old) = run.old() else { return Vec::new() };
    let end = old.gone.unwrap_or(run.recording.ended);
    let ends = old.phases.iter().skip(1).map(|(at, _)| *at).chain([end]);
    let phases = old.phases.iter().zip(ends);
    phases
        .filter(|((_, phase), _)| !matches!(phase, Phase::Starting | Phase::Serving | Phase::Ended))
        .map(|((from, phase), to)| {
            let name = name_of(*phase);
            let took = time(to.saturating_duration_since(*from));
            let more = if to == end && old.gone.is_none() { " so far" } else { "" };
            let label = named.then(|| format!("{name} {took}{more}"));
            svg::Phase { name, from: run.seconds(*from), to: run.seconds(to), label }
        })
        .collect()
}

fn panel(run: &Run<'_>, is_first: bool) -> Panel {
    Panel {
        from: run.seconds(run.recording.began),
        to: run.seconds(run.recording.ended),
        since: "since the request to upgrade".to_owned(),
        phases: phases(run, is_first),
        ..Panel::default()
    }
}

fn requests(run: &Run<'_>, sent: &Sent) -> Panel {
    let dot =
        |request: &Request| Dot { at: run.seconds(request.due), value: request.took.as_secs_f64() * 1e3 };
    let answered = sent.requests.iter().filter(|request| request.result.is_ok()).map(dot).collect();
    let cloud = |ink, thinned, kept| Cloud { ink, faint: false, thinned, kept };
    Panel {
        heading: "Requests".to_owned(),
        height: 260.0,
        value: "latency".to_owned(),
        things: "requests".to_owned(),
        clouds: vec![
            cloud(REQUESTS, answered, Vec::new()),
            cloud(Ink::Failed, Vec::new(), run.lost().map(dot).collect()),
        ],
        ..panel(run, true)
    }
}

fn open_connections(run: &Run<'_>, is_first: bool) -> Panel {
    let lines = run.recording.processes.iter().map(|process| Line {
        ink: ink(process),
        points: process
            .open
            .iter()
            .map(|(at, open)| Dot { at: run.seconds(*at), value: *open as f64 })
            .collect(),
        to: run.seconds(process.gone.unwrap_or(run.recording.ended)),
    });
    let outcome = run.failure.map(|_| Moment {
        at: run.seconds(run.decided),
        label: run.outcome().to_owned(),
        failed: true,
    });
    Panel {
        heading: "Open connections".to_owned(),
        height: 200.0,
        value: "connections".to_owned(),
        scale: Scale::Count,
        lines: lines.collect(),
        moments: outcome.into_iter().collect(),
        ..panel(run, is_first)
    }
}

fn notes(run: &Run<'_>) -> Vec<String> {
    let mut notes = vec![
        "The phases are those of the process that was asked to upgrade. Open connections include guards, and are looked at ten times \
         a second."
            .to_owned(),
    ];
    if run.requests.is_some() {
        notes.push(
            "Latency counts from the moment at which the request was due. A request is lost if it has no whole answer in 5 s, or a \
             status from 500 on."
                .to_owned(),
        );
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in run.lost().filter_map(|request| request.result.as_ref().err()) {
        *reasons.entry(reason).or_default() += 1;
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let others: usize = reasons.iter().skip(REASONS).map(|(_, count)| count).sum();
    notes.extend(reasons.iter().take(REASONS).map(|(reason, count)| {
        let reason: String = reason.chars().take(120).collect();
        format!("Lost, {}: {reason}", grouped(*count))
    }));
    if others > 0 {
        notes.push(format!("Lost, {}: for other reasons", grouped(others)));
    }
    notes
}

/// A time between two lines of the control socket, which are read a little late.
fn time(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    match milliseconds {
        ..1.0 => "< 1 ms".to_owned(),
        ..10.0 => format!("{milliseconds:.1} ms"),
        ..1000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.2} s", milliseconds / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A recording of an upgrade, with times in milliseconds from the request on.
    fn recording(requested: Instant, phases: &[(i64, Phase)], gone: Option<i64>) -> Recording {
        let at = |ms: i64| {
            requested + Duration::from_millis(1000) + Duration::from_millis(ms.unsigned_abs())
                - Duration::from_millis(if ms < 0 { 2 * ms.unsigned_abs() } else { 0 })
                - Duration::from_millis(1000)
        };
        let old = Watched {
            generation: 1,
            pid: 100,
            phases: phases.iter().map(|(ms, phase)| (at(*ms), *phase)).collect(),
            open: vec![(at(-1000), 20), (at(300), 5), (at(800), 0)],
            gone: gone.map(at),
        };
        let new = Watched {
            generation: 2,
            pid: 200,
            phases: vec![(at(10), Phase::Serving)],
            open: vec![(at(10), 0), (at(300), 15)],
            gone: None,
        };
        Recording {
            began: at(-1000),
            ended: at(2000),
            executable: Some(PathBuf::from("/srv/echo/current/a-long-name-of-a-service")),
            processes: vec![old, new],
        }
    }

    const UPGRADE: [(i64, Phase); 6] = [
        (-1000, Phase::Serving),
        (0, Phase::Upgrading),
        (6, Phase::HandingOver),
        (8, Phase::Standby),
        (208, Phase::Draining),
        (999, Phase::Ended),
    ];

    fn words(svg: &str) -> Vec<&str> {
        svg.split("</text>").filter_map(|text| text.rsplit('>').next()).collect()
    }

    #[test]
    fn the_phases_and_the_open_connections_are_drawn() {
        let requested = Instant::now() + Duration::from_secs(10);
        let recording = recording(requested, &UPGRADE, Some(1000));
        let decided = requested + Duration::from_millis(208);
        let run = Run { recording: &recording, requests: None, requested, decided, failure: None };
        let picture = picture(&run);
        assert_eq!(picture.title, "Upgrade of a-long-name-o…: done");
        assert_eq!(picture.subtitle, "The outcome was known after 208 ms.");
        let [panel] = &picture.panels[..] else { panic!("one panel") };
        let labels: Vec<_> = panel.phases.iter().filter_map(|phase| phase.label.as_deref()).collect();
        assert_eq!(labels, ["upgrading 6.0 ms", "handing-over 2.0 ms", "standby 200 ms", "draining 791 ms"]);
        let ends = |line: &Line| {
            let first = line.points.first().map(|point| (point.at, point.value));
            (first, line.points.len(), (line.to * 1e3).round())
        };
        let lines: Vec<_> = panel.lines.iter().map(ends).collect();
        assert_eq!(lines, [(Some((-1.0, 20.0)), 3, 1000.0), (Some((0.01, 0.0)), 2, 2000.0)]);
        let svg = picture.svg();
        for word in ["Open connections", "open in generation 2 (process 200)", "standby", "draining 791 ms"] {
            assert!(words(&svg).contains(&word), "{word}");
        }
    }

    #[test]
    fn a_drain_that_goes_on_is_drawn_to_the_end() {
        let requested = Instant::now() + Duration::from_secs(10);
        let recording = recording(requested, &UPGRADE[..5], None);
        let decided = requested + Duration::from_millis(208);
        let run = Run { recording: &recording, requests: None, requested, decided, failure: None };
        let phases = phases(&run, true);
        let last = phases.last().unwrap();
        assert_eq!((last.to, last.label.as_deref()), (2.0, Some("draining 1.79 s so far")));
    }

    #[test]
    fn lost_requests_are_counted_and_an_upgrade_that_failed_is_named() {
        let requested = Instant::now() + Duration::from_secs(10);
        let reverted =
            [UPGRADE[0], UPGRADE[1], UPGRADE[2], UPGRADE[3], (300, Phase::Reverting), (310, Phase::Serving)];
        let recording = recording(requested, &reverted, None);
        let decided = requested + Duration::from_millis(310);
        let request = |ms: u64, result: Result<(), &str>| Request {
            due: requested + Duration::from_millis(ms),
            took: Duration::from_millis(3),
            result: result.map_err(str::to_owned),
        };
        let mut requests: Vec<_> = (0..100).map(|ms| request(ms, Ok(()))).collect();
        requests.extend((0..7).map(|ms| request(ms, Err("it answered 500 <no>"))));
        requests.extend(["a", "b", "c"].map(|reason| request(9, Err(reason))));
        let sent = Sent { url: "http://localhost/x".parse().unwrap(), requests };
        let failure = Failure::refused("failed", "the successor died".to_owned());
        let run =
            Run { recording: &recording, requests: Some(&sent), requested, decided, failure: Some(&failure) };
        assert_eq!(counted(&run), "110 requests, 10 lost");
        let picture = picture(&run);
        assert_eq!(picture.title, "Upgrade of a-long-name-o…: reverted, 10 lost");
        let [requests, open] = &picture.panels[..] else { panic!("two panels") };
        let dots = |cloud: &Cloud| (cloud.ink, cloud.thinned.len(), cloud.kept.len());
        let clouds: Vec<_> = requests.clouds.iter().map(dots).collect();
        assert_eq!(clouds, [(REQUESTS, 100, 0), (Ink::Failed, 0, 10)]);
        assert_eq!(open.moments.len(), 1);
        assert!(open.phases.iter().all(|phase| phase.label.is_none()));
        let svg = picture.svg();
        for word in ["Lost, 7: it answered 500 &lt;no&gt;", "Lost, 1: for other reasons", "answered: 100"] {
            assert!(words(&svg).contains(&word), "{word}");
        }
        assert!(picture.subtitle.starts_with("After 310 ms: the successor died"), "{}", picture.subtitle);
    }
}
