//! The numbers and the text of a report about a known run.

use std::num::NonZeroU32;

use super::*;
use crate::run::{client::Loss, tally::Kept};

/// One upgrade from process 100 to 200, from 2 s to 3 s after the start, with three requests a second.
pub(crate) fn run() -> Run {
    let began = Instant::now();
    let at = |ms: u64| began + Duration::from_millis(ms);
    let sample = |due: u64, took: u64, generation: u64, new: bool| Sample {
        due: at(due),
        answered: at(due + took),
        opened: new.then(|| at(due)),
        quick: true,
        generation,
        pid: 100 * generation as u32,
    };
    let old = First { generation: 1, pid: 100, at: at(0) };
    let new = First { generation: 2, pid: 200, at: at(2_008) };
    let mut counts = Counts {
        samples: vec![
            sample(0, 1, 1, true),
            sample(500, 2, 1, false),
            sample(1_000, 3, 1, true),
            sample(2_003, 5, 2, true),
            sample(2_500, 4, 1, false),
            sample(3_500, 1, 2, true),
        ],
        told_to_close: 1,
        // One is gone before the upgrade, one is closed by it, two stay, and one is opened after it.
        kept: [(0, Some(1_900)), (0, Some(2_400)), (0, None), (500, None), (2_400, None)]
            .map(|(opened, ended)| Kept { opened: at(opened), ended: ended.map(at) })
            .into(),
        ..Counts::default()
    };
    // Took long because it was meant to.
    counts.samples.push(Sample { quick: false, ..sample(2_600, 100, 2, true) });
    counts.firsts.extend([(1, old), (2, new)]);
    let upgrade = Upgrade {
        number: 1,
        old,
        requested: at(2_000),
        phases: Vec::new(),
        answered: Some(new),
        gone: Some(at(3_000)),
        problem: None,
    };
    let args = Args { upgrades: 1, rate: NonZeroU32::new(3).expect("not zero"), ..Args::default() };
    let log = vec!["the last line".to_owned()];
    let (upgrades, problems) = (vec![upgrade], Vec::new());
    Run {
        args,
        began,
        ended: at(4_000),
        upgrades,
        bad_release: None,
        counts,
        asked_by_others: false,
        problems,
        log,
    }
}

pub(crate) fn lose(run: &mut Run) {
    let loss = Loss {
        kind: Kind::EndOfFile,
        place: Place::CrossingClose,
        detail: "the connection ended".to_owned(),
        last_pid: Some(100),
    };
    let at = run.began + Duration::from_millis(2_100);
    run.counts.lost.push(Lost { due: Some(at), at, loss });
}

#[test]
fn a_run_without_a_loss_passes_and_reads_at_a_glance() {
    let report = Report::new(&run());
    assert!(report.passed());
    let text = report.to_string();
    let expected = "
  upgrade  generation      process  first answer  old one gone  slowest answer
        1           2          200       8.00 ms        1.00 s         5.00 ms

  generation      process      requests  of these on new connections
           1          100             4                            2
           2          200             3                            3

  latency                   p50         p99         max
  steady                1.00 ms     3.00 ms     3.00 ms
  during upgrades       4.00 ms     5.00 ms     5.00 ms

  lost            on a new connection    in flight    crossing a keep-alive close
  refused                           0            0                              0
  reset                             0            0                              0
  end of file                       0            0                              0
  timeout                           0            0                              0
  bad answer                        0            0                              0
  client error                      0            0                              0
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("\n  Of 3 client sockets 2 stayed open from before the first upgrade"), "{text}");
    assert!(text.ends_with("PASSED: 1 of 1 upgrades, 7 requests in 4.0 s, 0 lost\n"), "{text}");
    assert!(!text.contains("the last line"), "{text}");
}

#[test]
fn what_a_client_of_another_protocol_does_not_say_is_left_out() {
    let mut run = run();
    assert!(Report::new(&run).to_string().contains("1 were ended by `Connection: close` in an answer"));
    run.asked_by_others = true;
    let report = Report::new(&run);
    assert!(report.passed() && !report.to_string().contains("Connection: close"), "{report}");
    let value: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
    assert!(value["keep_alive_told_to_close"].is_null() && value["keep_alive_found_closed"].is_null());
}

#[test]
fn a_loss_fails_the_run_and_is_described() {
    let mut run = run();
    lose(&mut run);
    let report = Report::new(&run);
    assert!(!report.passed());
    let text = report.to_string();
    for part in [
        "at 2.100 s, 100.0 ms after the request of upgrade 1: end of file crossing the close of a keep-alive connection: \
         the connection ended (connection of process 100)",
        "  | the last line",
        "FAILED: 1 of 1 upgrades, 8 requests in 4.0 s, 1 lost",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let counted = report.losses.iter().filter(|row| row.count > 0).collect::<Vec<_>>();
    assert_eq!(counted, [&LossRow { place: Place::CrossingClose, kind: Kind::EndOfFile, count: 1 }]);
}

#[test]
fn of_many_upgrades_the_ends_and_the_middle_are_shown() {
    let mut run = run();
    let one = run.upgrades[0].clone();
    run.args.upgrades = 100;
    run.upgrades = (1..=100_u32)
        .map(|number| {
            let gone = Some(one.requested + Duration::from_millis(number.into()));
            Upgrade { number, gone, ..one.clone() }
        })
        .collect();
    let text = Report::new(&run).to_string();
    let expected = "
        4           2          200       8.00 ms       4.00 ms         5.00 ms
      ...  92 more, which --json lists
       97           2          200       8.00 ms       97.0 ms         5.00 ms
";
    assert!(text.contains(expected), "{text}");
    let expected = "
   median                                8.00 ms       50.0 ms         5.00 ms
    worst                                8.00 ms      100.0 ms         5.00 ms
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn whatever_else_is_wrong_fails_the_run_too() {
    type Change = fn(&mut Run);
    let changes: [(Change, &str); 5] = [
        (|run| run.upgrades[0].problem = Some("nobody answered".to_owned()), "upgrade 1: nobody answered"),
        (|run| run.problems.push("the pid file was left behind".to_owned()), "the pid file was left behind"),
        (|run| run.args.upgrades = 2, "FAILED: 1 of 2 upgrades"),
        (|run| run.counts.samples[0].pid = 99, "processes 99 and 100 both answered as generation 1"),
        (
            |run| run.counts.samples[4].opened = Some(run.counts.samples[4].due),
            "an old process accepted 1 new connections",
        ),
    ];
    for (change, named) in changes {
        let mut run = run();
        change(&mut run);
        let report = Report::new(&run);
        let text = report.to_string();
        assert!(!report.passed() && text.contains(named), "{named}\n{text}");
    }
}

#[test]
fn a_run_in_which_nothing_was_answered_fails() {
    let mut run = run();
    run.counts = Counts::default();
    let report = Report::new(&run);
    assert!(!report.passed());
    assert!(report.to_string().contains("steady                      -           -           -"));
}

#[test]
fn a_program_reads_the_same_as_a_person() {
    let mut run = run();
    lose(&mut run);
    let json = Report::new(&run).json();
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["passed"], false);
    assert_eq!(value["lost"], 1);
    assert_eq!(
        (&value["client_sockets"]["before"], &value["client_sockets"]["stayed"]),
        (&3.into(), &2.into())
    );
    assert_eq!(value["upgrades"][0]["first_answer"], 8.0);
    assert_eq!(value["latency"]["upgrading"]["max"], 5.0);
    let row = value["losses"].as_array().and_then(|rows| rows.iter().find(|row| row["count"] == 1));
    assert_eq!(
        row.map(|row| (&row["place"], &row["kind"])),
        Some((&"crossing the close of a keep-alive connection".into(), &"end of file".into()))
    );
}

#[test]
fn numbers_are_written_for_people() {
    assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    let times = [70, 9_990, 12_340, 2_500_000].map(|micros| time(Duration::from_micros(micros)));
    assert_eq!(times, ["0.07 ms", "9.99 ms", "12.3 ms", "2.50 s"]);
}

#[test]
fn a_quantile_is_a_latency_that_occurred() {
    let times = |range: std::ops::RangeInclusive<u64>| range.map(Duration::from_millis).collect();
    assert_eq!(Latency::of(times(1..=100)), Some(Latency { p50: 50.0, p99: 99.0, max: 100.0 }));
    assert_eq!(Latency::of(times(1..=1)), Some(Latency { p50: 1.0, p99: 1.0, max: 1.0 }));
    assert_eq!(Latency::of(Vec::new()), None);
}

#[test]
fn of_a_bad_release_the_outcome_and_the_bad_answers_count() {
    let release = BadRelease::ALL[0];
    for (outcome, name, text) in [
        (
            Outcome::Failed("it died".to_owned()),
            "failed",
            "the upgrade failed, and the old process serves on: it died.",
        ),
        (
            Outcome::Upgraded { generation: 2, pid: 200 },
            "upgraded",
            "upgraded; generation 2 (process 200) serves.",
        ),
    ] {
        let mut run = run();
        let decided = run.upgrades[0].requested + Duration::from_millis(208);
        run.bad_release = Some(BadUpgrade { release, outcome: Some(outcome), decided });
        let report = Report::new(&run);
        assert!(report.passed());
        let shown = report.to_string();
        assert!(
            shown.contains("\n  The new release dies right after it is ready. It is tried by nothing.\n"),
            "{shown}"
        );
        assert!(shown.contains(&format!("\n  Outcome after 208.0 ms: {text}\n")), "{shown}");
        let end = "PASSED: 0 of 4 requests since the upgrade to a bad release had no good answer\n";
        assert!(shown.ends_with(end), "{shown}");

        lose(&mut run);
        let report = Report::new(&run);
        assert!(!report.passed());
        let shown = report.to_string();
        assert!(
            shown
                .ends_with("FAILED: 1 of 5 requests since the upgrade to a bad release had no good answer\n"),
            "{shown}"
        );
        let value: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        let row = &value["bad_release"];
        assert_eq!((&row["kind"], &row["outcome"], &row["bad"]), (&"crash".into(), &name.into(), &1.into()));
    }
    let value: serde_json::Value = serde_json::from_str(&Report::new(&run()).json()).expect("JSON");
    assert!(value["bad_release"].is_null());

    let mut run = run();
    let decided = run.ended;
    run.bad_release = Some(BadUpgrade { release, outcome: None, decided });
    run.args.probe = Some("GET /".to_owned());
    run.args.verify = Some("exit 1".to_owned());
    let shown = Report::new(&run).to_string();
    assert!(shown.contains(". It is tried by the probe `GET /` and the command `exit 1`.\n"), "{shown}");
}
