//! The upgrades that have ended and what drains have cut: noted, told to the neighbours, and heard from them.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::limits::{MAX_PEERS, MAX_VERSION};
use crate::base::report::printable_within;
use crate::base::status::{LastDrain, Outcome, Release, Requester, UpgradeRecord};
use crate::between::gate_control::News;
use crate::engine::core::Engine;
use crate::outside::handover::message::Message;
use crate::outside::spawner::Image;

/// How many upgrades are kept.
const MAX_RECORDS: usize = 20;
/// The longest reason and the longest path in a record, in bytes.
const MAX_TEXT: usize = 512;
/// The longest name of a signal, and the longest address of a client, in bytes.
const MAX_WORD: usize = 64;

impl Engine {
    /// Adds an upgrade that has ended to the history. Returns it with bounded texts.
    pub(super) fn note_upgrade(&mut self, record: UpgradeRecord) -> UpgradeRecord {
        let record = bounded(record);
        self.neighbours.history.push_back(record.clone());
        while self.neighbours.history.len() > MAX_RECORDS {
            self.neighbours.history.pop_front();
        }
        record
    }

    /// The predecessor tells upgrades that have ended.
    pub(super) fn hear_history(&mut self, entries: Vec<UpgradeRecord>) {
        for record in entries {
            self.note_upgrade(record);
        }
    }

    /// The predecessor is gone, and this process serves: the upgrade has succeeded. A predecessor that died in the probation has not
    /// said so.
    pub(super) fn note_upgrade_to_this(&mut self) {
        let Some((predecessor, since)) = self.neighbours.predecessor.as_ref().zip(self.serving_since) else {
            return;
        };
        let generation = self.shared.generation - 1;
        let is_known = |record: &UpgradeRecord| {
            record.generation == generation && matches!(record.outcome, Outcome::Upgraded | Outcome::Stopped)
        };
        if self.neighbours.history.iter().any(is_known) {
            return;
        }
        let from = Release { version: predecessor.offered.identity.version.clone(), executable: None };
        let at = SystemTime::now().checked_sub(since.elapsed()).unwrap_or(UNIX_EPOCH);
        self.note_upgrade(UpgradeRecord {
            at: in_seconds(at),
            outcome: Outcome::Upgraded,
            generation,
            pid: self.is_process.then_some(self.shared.pid),
            from,
            to: self.release(),
            ..UpgradeRecord::default()
        });
    }

    /// Notes the file that an upgrade is to start. A rollback starts a file that may have no path any more.
    pub(super) fn note_target(&mut self) {
        let is_at_path = self.neighbours.upgrade.order.image == Image::Release;
        let file = self
            .neighbours
            .spawner
            .executable()
            .filter(|_| is_at_path)
            .map(|path| fs::canonicalize(path).ok());
        self.neighbours.upgrade.target = file.flatten().map(|path| path.to_string_lossy().into_owned());
    }

    /// The release that this process is.
    pub(super) fn release(&self) -> Release {
        let version = self.settings.version.as_deref().map(|text| printable_within(text, MAX_VERSION));
        Release { version, executable: executable_of(self.shared.pid) }
    }

    /// The release of a successor, which was started from the noted file.
    pub(super) fn with_target(&self, release: Release) -> Release {
        let executable = release.executable.or_else(|| self.neighbours.upgrade.target.clone());
        Release { executable, ..release }
    }

    /// Tells the neighbours what the drain of this process has cut.
    pub(in crate::engine) fn tell_drained(&mut self, drain: &LastDrain) {
        let message = Message::Drained {
            aborted: drain.aborted,
            peers: drain.peers.clone(),
            duration_ms: drain.duration.as_millis().try_into().unwrap_or(u64::MAX),
        };
        self.send_to_predecessor(&message);
        self.send_to_successor(&message);
    }

    /// A neighbour ends, and says what its drain has cut. It says so once.
    pub(super) fn hear_drained(
        &mut self,
        generation: u64,
        pid: u32,
        aborted: u64,
        peers: &[String],
        duration_ms: u64,
    ) {
        let is_known = |drain: &LastDrain| (drain.generation, drain.pid) == (generation, pid);
        if self.neighbours.last_drain.as_ref().is_some_and(is_known) {
            return;
        }
        let peers = peers.iter().take(MAX_PEERS).map(|peer| printable_within(peer, MAX_WORD)).collect();
        let duration = Duration::from_millis(duration_ms);
        let drain = LastDrain { generation, pid, aborted, peers, duration };
        let neighbours = &mut self.neighbours;
        neighbours.aborted = neighbours.aborted.saturating_add(aborted);
        neighbours.last_drain = Some(drain.clone());
        // The upgrade after which the predecessor has drained. A failed one of that generation has no drain.
        let is_of_drain = |record: &&mut UpgradeRecord| {
            record.generation == generation && matches!(record.outcome, Outcome::Upgraded | Outcome::Stopped)
        };
        if let Some(record) = neighbours.history.iter_mut().rev().find(is_of_drain) {
            record.aborted = Some(aborted);
        }
        if let Some(control) = &neighbours.control {
            control.tell(News::Drained(drain));
        }
        self.wake_control();
    }
}

/// The path of the file that a process runs, proc_pid_exe(5). `None` if it cannot be seen.
pub(super) fn executable_of(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let path = path.to_string_lossy();
    // What the link says once the file has lost its name.
    let path = path.strip_suffix(" (deleted)").unwrap_or(&path);
    Some(printable_within(path, MAX_TEXT))
}

/// The time, in seconds since 1970.
pub(super) fn in_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The record with texts that are bounded and fit for a log line, as 20 of them are sent with each offer.
fn bounded(record: UpgradeRecord) -> UpgradeRecord {
    let text = |text: Option<String>, limit| text.map(|text| printable_within(&text, limit));
    let release = |Release { version, executable }| Release {
        version: text(version, MAX_VERSION),
        executable: text(executable, MAX_TEXT),
    };
    let by = match record.by {
        Requester::Signal { signal } => Requester::Signal { signal: printable_within(&signal, MAX_WORD) },
        by => by,
    };
    UpgradeRecord {
        from: release(record.from),
        to: release(record.to),
        reason: text(record.reason, MAX_TEXT),
        by,
        ..record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::handover::message::{MAX_MESSAGE, parts};

    /// Also with texts of another process, of which each byte is escaped.
    #[test]
    fn the_longest_history_fits_into_messages() {
        let long = || Some("\"".repeat(5000));
        let release = || Release { version: long(), executable: long() };
        let record = bounded(UpgradeRecord {
            from: release(),
            to: release(),
            reason: long(),
            by: Requester::Signal { signal: "ü".repeat(5000) },
            ..UpgradeRecord::default()
        });
        assert_eq!(record.reason.as_ref().map(String::len), Some(MAX_TEXT));
        assert_eq!(record.to.version.as_ref().map(String::len), Some(MAX_VERSION));
        assert!(matches!(&record.by, Requester::Signal { signal } if signal.len() == MAX_WORD));
        let history = vec![record; MAX_RECORDS];
        let parts = parts(history.clone());
        assert_eq!(parts.concat(), history);
        for entries in parts {
            assert!(Message::History { entries }.encode().len() <= MAX_MESSAGE);
        }
    }
}
