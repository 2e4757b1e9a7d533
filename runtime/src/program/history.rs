//! The command `history`: the last upgrades of the service.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::args;
use super::commands::after;
use super::output::{Failure, Output};
use super::picture::{time_of, versions};
use super::target::Target;
use crate::base::status::{Outcome, Requester, UpgradeRecord};

pub(crate) fn history(args: &args::History, path: &Path, output: &Output) -> Result<(), Failure> {
    let Target::Control(mut conversation) = Target::open(path, after(args.timeout), output)? else {
        return Err(Failure::refused(
            "no-control-socket",
            "there is no history without a control socket; the process serves".to_owned(),
        ));
    };
    let (status, _) = conversation.status()?;
    for record in &status.history {
        output.line(&json!({"reply": "history", "upgrade": record}));
    }
    match status.history.as_slice() {
        [] => output.say("no upgrade is known"),
        records => output.say(table(records).trim_end()),
    }
    Ok(())
}

/// A row for each upgrade, below the names of the columns.
fn table(records: &[UpgradeRecord]) -> String {
    const NAMES: [&str; 7] = ["time", "outcome", "generation", "process", "version", "took", "asked by"];
    let rows: Vec<_> = records.iter().map(|record| (columns(record), more(record))).collect();
    let width = |at: usize| {
        let of_rows = rows.iter().map(|(columns, _)| columns[at].chars().count());
        of_rows.chain([NAMES[at].len()]).max().unwrap_or_default()
    };
    let line = |columns: &[String]| {
        let padded = columns.iter().enumerate().map(|(at, text)| format!("{text:<0$}", width(at)));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&NAMES.map(str::to_owned));
    for (columns, more) in &rows {
        text += &line(columns);
        for sentence in more {
            text += &format!("    {sentence}\n");
        }
    }
    text
}

fn columns(record: &UpgradeRecord) -> [String; 7] {
    let UpgradeRecord { generation, pid, from, to, duration, by, .. } = record;
    [
        time_of(record.at),
        record.outcome.as_str().to_owned(),
        format!("{generation} -> {}", generation.saturating_add(1)),
        pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string()),
        versions(from, to),
        humantime::format_duration(Duration::from_millis(
            u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        ))
        .to_string(),
        source(by),
    ]
}

/// What there is to say of an upgrade beside its row.
fn more(record: &UpgradeRecord) -> Vec<String> {
    let failed = record.outcome != Outcome::Upgraded;
    let reason =
        record.reason.as_deref().filter(|_| failed).map(|reason| reason.replace(char::is_control, " "));
    let cut = record.aborted.filter(|aborted| *aborted > 0).map(|aborted| match aborted {
        1 => "the old process cut 1 connection".to_owned(),
        aborted => format!("the old process cut {aborted} connections"),
    });
    reason.into_iter().chain(cut).collect()
}

fn source(by: &Requester) -> String {
    let number = |number: &Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    match by {
        Requester::Control { uid, pid } => format!("user {}, process {}", number(uid), number(pid)),
        Requester::Signal { signal } => signal.replace(char::is_control, " "),
        Requester::Body => "the service".to_owned(),
        Requester::Unknown => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::UpgradeStep;
    use crate::base::status::Release;

    #[test]
    fn a_history_is_a_table() {
        let release = |version: &str| Release { version: Some(version.to_owned()), executable: None };
        let upgraded = UpgradeRecord {
            at: 1_796_009_000,
            outcome: Outcome::Upgraded,
            generation: 1,
            pid: Some(4712),
            from: release("1.0.0"),
            to: release("1.1.0"),
            duration: Duration::from_micros(31_900),
            by: Requester::Control { uid: Some(0), pid: None },
            aborted: Some(3),
            ..UpgradeRecord::default()
        };
        let failed = UpgradeRecord {
            at: u64::MAX,
            outcome: Outcome::Failed,
            generation: 2,
            from: release("1.1.0"),
            to: release("1.1.0"),
            by: Requester::Signal { signal: "SIGHUP".to_owned() },
            step: Some(UpgradeStep::Start),
            reason: Some("no\nconfiguration".to_owned()),
            aborted: None,
            ..UpgradeRecord::default()
        };
        let expected = "\
time                  outcome   generation  process  version         took  asked by
2026-11-30T03:23:20Z  upgraded  1 -> 2      4712     1.0.0 -> 1.1.0  31ms  user 0, process ?
    the old process cut 3 connections
18446744073709551615  failed    2 -> 3      none     1.1.0           0s    SIGHUP
    no configuration
";
        assert_eq!(table(&[upgraded, failed]), expected);
    }
}
