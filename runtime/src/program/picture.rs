//! A status in words.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::base::status::{LastDrain, Moves, Phase, PredecessorState, Release, Status};
use serde_json::Value;

/// The state of the service in one line, without the counts of connections.
pub(crate) fn line_of(status: &Status) -> String {
    let mut line =
        format!("generation {}, process {}: {}", status.generation, status.pid, name_of(status.phase));
    for (what, pid) in [("predecessor", status.predecessor), ("successor", status.successor)] {
        if let Some(pid) = pid {
            // A write to a `String` never fails.
            _ = write!(line, ", {what} {pid}");
        }
    }
    let upgrades = &status.upgrades;
    if upgrades.refused + upgrades.failed > 0 {
        _ = write!(line, "; {} refused, {} failed", upgrades.refused, upgrades.failed);
    }
    if let Some(reason) = &upgrades.last_failure {
        _ = write!(line, ", the last: {reason}");
    }
    line
}

/// The whole status, in several lines.
pub(crate) fn picture_of(status: &Status) -> String {
    let seconds =
        |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    let mut text = format!(
        "generation {}, process {}: {}, up for {}\n",
        status.generation,
        status.pid,
        name_of(status.phase),
        seconds(status.uptime),
    );
    let mut row = |name: &str, value: &str| _ = writeln!(text, "{name:<12} {value}");
    if let Some(version) = &status.version {
        row("version", version);
    }
    if let Some(executable) = &status.executable {
        let written = u64::try_from(executable.modified).unwrap_or(0);
        let written =
            humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(written));
        row(
            "executable",
            &format!("{}, written {written}, inode {}", executable.path.display(), executable.inode),
        );
    }
    if let (Some(pid), Some(state)) = (status.predecessor, &status.predecessor_state) {
        row("predecessor", &predecessor_of(pid, state));
    }
    for generation in &status.generations {
        let open = generation.open.map_or_else(|| "?".to_owned(), |open| open.to_string());
        row("open", &format!("{open} in generation {}, process {}", generation.generation, generation.pid));
    }
    for listener in &status.listeners {
        let mut value = format!("{} {}", listener.name, listener.address);
        if let Some(taken) = listener.taken {
            _ = write!(value, ", {taken} taken");
        }
        if let (Some(waiting), Some(backlog)) = (listener.waiting, listener.backlog) {
            _ = write!(value, ", {waiting} of {backlog} waiting");
        }
        row("listener", &value);
    }
    if !status.unserved.is_empty() {
        row("not served", &status.unserved.join(", "));
    }
    let Moves { taken, refused, moved, stayed, .. } = status.moves;
    if taken + refused > 0 {
        row("moved here", &format!("{taken} connections of the predecessor; {refused} stayed there"));
    }
    if moved + stayed > 0 {
        row("moved on", &format!("{moved} connections to the successor; {stayed} stayed here"));
    }
    let upgrades = &status.upgrades;
    row(
        "upgrades",
        &format!("{} done, {} refused, {} failed", upgrades.done, upgrades.refused, upgrades.failed),
    );
    if let Some(reason) = &upgrades.last_failure {
        row("last failure", reason);
    }
    if let Some(failed) = &upgrades.last_failed {
        let process = failed.pid.map(|pid| format!(", `journalctl _PID={pid}`")).unwrap_or_default();
        row("failed", &format!("{}{process}", time_of(failed.at)));
    }
    if let Some(drain) = &status.last_drain {
        let LastDrain { pid, aborted, duration, .. } = drain;
        row("last drain", &format!("process {pid}, {}, cut {aborted} connections", seconds(*duration)));
    }
    text
}

/// What the predecessor does, and for how long.
fn predecessor_of(pid: u32, state: &PredecessorState) -> String {
    let phase = match state.phase {
        Phase::Standby => "on standby".to_owned(),
        phase => name_of(phase),
    };
    let mut text = format!("process {pid}, {phase}");
    if let Some(open) = state.open {
        _ = write!(text, ", {open} connections");
    }
    if let Some(remaining) = state.remaining {
        let remaining =
            Duration::from_secs(remaining.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
        _ = write!(text, ", {} left", humantime::format_duration(remaining));
    }
    text
}

/// A time in seconds since 1970, in words.
pub(crate) fn time_of(at: u64) -> String {
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)) {
        // The last second of the year 9999: humantime knows none after it.
        Some(time) if at <= 253_402_300_799 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => at.to_string(),
    }
}

/// Both versions of the service.
pub(crate) fn versions(from: &Release, to: &Release) -> String {
    let name = |release: &Release| release.version.clone().unwrap_or_else(|| "?".to_owned());
    let (from, to) = (name(from), name(to));
    if from == to { to } else { format!("{from} -> {to}") }
}

/// The name of the phase in the control protocol.
pub(crate) fn name_of(phase: Phase) -> String {
    match serde_json::to_value(phase) {
        Ok(Value::String(name)) => name,
        _ => format!("{phase:?}"),
    }
}
