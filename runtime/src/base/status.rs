//! The status of a process, for its body, for operators and for a metrics collector.

use std::fmt::{Display, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::error::UpgradeStep;

/// The state of a process of the service at one moment. [`Upgrader::status`](crate::Upgrader::status) returns it for
/// endpoints of the service. The control socket returns it to `tableflip status`.
///
/// In JSON, times are in milliseconds. Later releases may add fields. A missing field reads as zero, none or empty;
/// `generation`, `pid` and `phase` are always present.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The release of this crate in the process. Empty if it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub release: String,
    /// 1 for the process that was started first. Each successful upgrade adds 1.
    pub generation: u64,
    /// The process ID.
    pub pid: u32,
    /// The version of the service, if the service states one: [`Service::version`](crate::Service::version).
    pub version: Option<String>,
    /// The phase of the process's life.
    pub phase: Phase,
    /// The time since the process began.
    #[serde(rename = "uptime_ms", with = "milliseconds", default)]
    pub uptime: Duration,
    /// The time since the process began to serve. `None` before that.
    #[serde(rename = "serving_ms", with = "milliseconds::optional", default)]
    pub serving: Option<Duration>,
    /// The file that the process runs.
    pub executable: Option<Executable>,
    /// The process ID of the predecessor, while it lives.
    pub predecessor: Option<u32>,
    /// What the predecessor does, while it lives and this is known. JSON has the field only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor_state: Option<PredecessorState>,
    /// The process ID of the successor, while it lives.
    pub successor: Option<u32>,
    /// The number of open connections and guards in this process.
    #[serde(default)]
    pub open: u64,
    /// The open connections of every process of the service at this moment, the oldest process first.
    #[serde(default)]
    pub generations: Vec<Generation>,
    /// The listeners of this process.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// The names of the listeners that delay readiness: the body has not asked them for a connection yet. JSON has the
    /// field only where the list is not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unserved: Vec<String>,
    /// The results of upgrades.
    #[serde(default)]
    pub upgrades: Upgrades,
    /// The open connections that have moved from one process to the next. JSON has the field only if there are any.
    #[serde(default, skip_serializing_if = "Moves::is_none")]
    pub moves: Moves,
    /// The last drain that is known: that of the predecessor, once it has told it. In the status of a process that has ended it is
    /// the process's own. A process that was killed tells nothing. JSON has the field only if a drain is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_drain: Option<LastDrain>,
    /// How many connections and guards the drains of the service have cut since its first start, in all generations. JSON has
    /// the field only if there are any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub aborted_total: u64,
    /// The last upgrades of the service in all generations, at most 20, the oldest first. Requests that were refused at once
    /// are not among them. JSON has the field only if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<UpgradeRecord>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The phase of a process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// The body initialises.
    Starting,
    /// The process serves.
    Serving,
    /// The process serves, and the command of `preflight` checks the new release.
    Checking,
    /// The process serves, and its successor initialises.
    Upgrading,
    /// The process serves. The successor is ready, and the probe looks at its answer.
    Probing,
    /// The successor is ready, and the handover is in progress.
    HandingOver,
    /// The successor serves and is on probation.
    Standby,
    /// The successor was asked to give the service back.
    Recalling,
    /// The process gives the service back to its predecessor.
    Yielding,
    /// The successor failed and is ending.
    Reverting,
    /// The process drains: it finishes its open connections.
    Draining,
    /// The process drains, and starts its own executable again because its successor is dead.
    Rescuing,
    /// The process is about to exit.
    Ended,
    /// A phase of a later release.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// Every phase that this release knows.
    const ALL: [Self; 13] = [
        Self::Starting,
        Self::Serving,
        Self::Checking,
        Self::Upgrading,
        Self::Probing,
        Self::HandingOver,
        Self::Standby,
        Self::Recalling,
        Self::Yielding,
        Self::Reverting,
        Self::Draining,
        Self::Rescuing,
        Self::Ended,
    ];

    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Checking => "checking",
            Self::Upgrading => "upgrading",
            Self::Probing => "probing",
            Self::HandingOver => "handing-over",
            Self::Standby => "standby",
            Self::Recalling => "recalling",
            Self::Yielding => "yielding",
            Self::Reverting => "reverting",
            Self::Draining => "draining",
            Self::Rescuing => "rescuing",
            Self::Ended => "ended",
            Self::Unknown => "unknown",
        }
    }
}

/// A process of the service: the one that answers, its predecessor or its successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Generation {
    /// The generation.
    pub generation: u64,
    /// The process ID.
    pub pid: u32,
    /// The number of open connections and guards in the process. A predecessor reports it once a second. `None` if the
    /// answering process does not know it, as of a successor.
    pub open: Option<u64>,
}

/// An executable file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Executable {
    /// The path that an upgrade executes. In JSON `path` is text. For a path that is not UTF-8, `path_bytes` has the
    /// bytes in hexadecimal.
    #[serde(flatten, with = "path")]
    pub path: PathBuf,
    /// The device of the file that this process runs, as stat(2) numbers it. `None` if a service of an older release answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    /// The inode of the file that this process runs.
    pub inode: u64,
    /// When that file was last modified, in seconds since 1970-01-01 UTC.
    pub modified: i64,
}

/// A listener of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Listener {
    /// The name.
    pub name: String,
    /// The address that the socket is bound to, with the assigned port.
    pub address: String,
    /// The number of connections or datagrams that this process has taken. `None` for a raw listener.
    pub taken: Option<u64>,
    /// The number of connections in the queue. `None` where Linux does not report it.
    pub waiting: Option<u32>,
    /// The size of the queue: the backlog of listen(2), capped by the kernel. `None` where `waiting` is.
    pub backlog: Option<u32>,
}

/// The results of the requests for an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Upgrades {
    /// How many upgrades of the service succeeded since its first start, in all generations.
    pub done: u64,
    /// How many requests this process refused at once.
    pub refused: u64,
    /// How many upgrades of this process failed.
    pub failed: u64,
    /// How many of the failed upgrades the command of `preflight` has rejected. JSON has the field only if there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub rejected: u64,
    /// How many of the failed upgrades were reverted on request. JSON has the field only if there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub reverted: u64,
    /// How many of the failed upgrades a stop of the service has ended. JSON has the field only if there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub stopped: u64,
    /// The reason of the last refusal or failure in this process.
    pub last_failure: Option<String>,
    /// The last upgrade of this process that failed. JSON has the field only if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failed: Option<FailedUpgrade>,
}

/// An upgrade that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedUpgrade {
    /// The process ID of the successor, by which `journalctl _PID=` finds its log. `None` if there was no successor.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The step that failed.
    pub step: UpgradeStep,
    /// The reason, in words. Of a successor that ended it has the error or the panic, if the successor told it.
    pub reason: String,
    /// When it failed, in seconds since 1970-01-01 UTC.
    pub at: u64,
}

/// What the predecessor of a process does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PredecessorState {
    /// [`Standby`](Phase::Standby), [`Draining`](Phase::Draining), or [`Ended`](Phase::Ended) for a predecessor that has
    /// drained and has not exited yet.
    pub phase: Phase,
    /// The number of its open connections and guards, as of its last report. `None` if it is not known. JSON has the field
    /// only if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
    /// How long the phase lasts at most: the rest of the probation or of the drain. `None` if it is not known, or has no
    /// limit. JSON has the field only if it is known.
    #[serde(rename = "remaining_ms", with = "milliseconds::optional", default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<Duration>,
}

/// The end of a process that has served: what its drain has cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastDrain {
    /// The generation of the process.
    pub generation: u64,
    /// Its process ID.
    pub pid: u32,
    /// How many connections and guards were open when it ended. A connection that has moved to the successor, or is about
    /// to, is not among them.
    pub aborted: u64,
    /// The addresses of the clients whose connections were cut, at most 8.
    #[serde(default)]
    pub peers: Vec<String>,
    /// How long the drain took.
    #[serde(rename = "duration_ms", with = "milliseconds", default)]
    pub duration: Duration,
}

/// One side of an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Release {
    /// The version of the service, if it states one: [`Service::version`](crate::Service::version).
    pub version: Option<String>,
    /// The path of the file that it runs, without symbolic links. Of a successor that has said nothing it is the file that
    /// was to be started. A path that is not UTF-8 is shown as far as text can. `None` if it is not known.
    pub executable: Option<String>,
}

/// An upgrade that has ended. A missing field reads as zero, none or unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UpgradeRecord {
    /// When the successor began to serve or the upgrade failed, in seconds since 1970-01-01 UTC.
    pub at: u64,
    /// The outcome.
    pub outcome: Outcome,
    /// The generation of the process that was asked to upgrade.
    pub generation: u64,
    /// The process ID of the successor. `None` if there was none.
    pub pid: Option<u32>,
    /// The release that was asked to upgrade.
    pub from: Release,
    /// The release that was started.
    pub to: Release,
    /// The time from the request until the successor served or the upgrade failed.
    #[serde(rename = "duration_ms", with = "milliseconds")]
    pub duration: Duration,
    /// The source of the request.
    pub by: Requester,
    /// The step in which the upgrade failed. JSON has the field only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<UpgradeStep>,
    /// The reason of the failure, in words, at most 512 bytes. JSON has the field only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many connections and guards the drain of the predecessor has cut, once it is known. JSON has the field only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted: Option<u64>,
}

/// The outcome of an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// The successor serves and has passed its probation.
    Upgraded,
    /// The command of `preflight` has rejected the new release, or did not end in time.
    Rejected,
    /// The successor failed.
    Failed,
    /// The successor served, and the upgrade was reverted on request.
    Reverted,
    /// A stop ended the upgrade.
    Stopped,
    /// An outcome of a later release.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upgraded => "upgraded",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Reverted => "reverted",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

/// The source of a request to upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Requester {
    /// A client of the control socket.
    Control {
        /// Its user ID.
        #[serde(default)]
        uid: Option<u32>,
        /// Its process ID. `None` for a process of a PID namespace that cannot be seen from the service.
        #[serde(default)]
        pid: Option<u32>,
    },
    /// A signal.
    Signal {
        /// The name of the signal.
        #[serde(default)]
        signal: String,
    },
    /// The body of the service, by [`Upgrader::upgrade`](crate::Upgrader::upgrade).
    Body,
    /// A source of a later release.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The open connections of a process that have moved, and those that have not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Moves {
    /// How many connections this process has taken from its predecessor.
    pub taken: u64,
    /// How many connections the predecessor has offered and this process has not taken: they stay in the predecessor.
    pub refused: u64,
    /// How many connections this process has handed over to its successor.
    pub moved: u64,
    /// How many connections of this process were offered to the successor and have stayed.
    pub stayed: u64,
}

impl Moves {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Status {
    /// The status of a process of which nothing else is known.
    pub(crate) fn new(generation: u64, pid: u32, phase: Phase) -> Self {
        Self {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            generation,
            pid,
            version: None,
            phase,
            uptime: Duration::ZERO,
            serving: None,
            executable: None,
            predecessor: None,
            predecessor_state: None,
            successor: None,
            open: 0,
            generations: Vec::new(),
            listeners: Vec::new(),
            unserved: Vec::new(),
            upgrades: Upgrades::default(),
            moves: Moves::default(),
            last_drain: None,
            aborted_total: 0,
            history: Vec::new(),
        }
    }

    /// The status in the text format of Prometheus.
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            let samples = samples.iter().map(|(labels, value)| (labels.as_str(), value));
            write_metric(&mut text, name, kind, help, samples);
        };
        let one = |value| [(String::new(), value)];
        let info = format!(
            "{{version=\"{}\",release=\"{}\",generation=\"{}\"}}",
            escaped(self.version.as_deref().unwrap_or_default()),
            escaped(&self.release),
            self.generation,
        );
        metric(
            "info",
            "gauge",
            "1, with the releases of the service and of tableflip as labels.",
            &[(info, 1)],
        );
        metric("generation", "gauge", "1 for the process that was started first.", &one(self.generation));
        metric("pid", "gauge", "The process that answers.", &one(self.pid.into()));
        let of_phase =
            |phase: &Phase| (format!("{{phase=\"{}\"}}", phase.as_str()), u64::from(*phase == self.phase));
        let phases: Vec<_> = Phase::ALL.iter().map(of_phase).collect();
        metric("phase", "gauge", "1 for the phase of the process that answers, 0 for the others.", &phases);
        metric("uptime_seconds", "gauge", "Seconds since the process started.", &one(self.uptime.as_secs()));
        let seconds = self.serving.map_or(0, |serving| serving.as_secs());
        metric("serving_seconds", "gauge", "Seconds since the process began to serve.", &one(seconds));
        metric("open", "gauge", "Connections and guards that are open in it.", &one(self.open));
        let has_predecessor = self.predecessor.is_some().into();
        metric("predecessor", "gauge", "Whether its predecessor lives.", &one(has_predecessor));
        metric("successor", "gauge", "Whether its successor lives.", &one(self.successor.is_some().into()));
        let of_generations: Vec<_> = self
            .generations
            .iter()
            .filter_map(|it| Some((format!("{{generation=\"{}\"}}", it.generation), it.open?)))
            .collect();
        let help = "Connections and guards that are open in each process of the service.";
        metric("generation_open", "gauge", help, &of_generations);
        let Upgrades { done, refused, failed, rejected, reverted, stopped, .. } = self.upgrades;
        metric("upgrades_done_total", "counter", "Upgrades of the service.", &one(done));
        metric("upgrades_refused_total", "counter", "Upgrades that it refused.", &one(refused));
        metric("upgrades_failed_total", "counter", "Upgrades of it that failed.", &one(failed));
        let others = failed.saturating_sub(rejected.saturating_add(reverted).saturating_add(stopped));
        let by_outcome = [
            (Outcome::Upgraded.as_str(), done),
            (Outcome::Rejected.as_str(), rejected),
            (Outcome::Failed.as_str(), others),
            (Outcome::Reverted.as_str(), reverted),
            (Outcome::Stopped.as_str(), stopped),
            ("refused", refused),
        ]
        .map(|(outcome, count)| (format!("{{outcome=\"{outcome}\"}}"), count));
        let help = "Upgrades by outcome: `upgraded` of the service, the others of this process.";
        metric("upgrades_total", "counter", help, &by_outcome);
        let last = self.history.last();
        let at: Vec<_> = last.map(|last| (String::new(), last.at)).into_iter().collect();
        metric("last_upgrade_timestamp_seconds", "gauge", "When the last upgrade succeeded or failed.", &at);
        let succeeded = last.map(|last| (String::new(), u64::from(last.outcome == Outcome::Upgraded)));
        let succeeded: Vec<_> = succeeded.into_iter().collect();
        metric("last_upgrade_succeeded", "gauge", "Whether the last upgrade succeeded.", &succeeded);
        let cut: Vec<_> = self.last_drain.iter().map(|drain| (String::new(), drain.aborted)).collect();
        metric("last_drain_aborted", "gauge", "Connections and guards that the last drain cut.", &cut);
        let help = "Connections and guards that the drains of the service have cut.";
        metric("aborted_total", "counter", help, &one(self.aborted_total));
        let Moves { taken, refused, moved, stayed } = self.moves;
        metric("moves_taken_total", "counter", "Connections that it took from its predecessor.", &one(taken));
        metric(
            "moves_refused_total",
            "counter",
            "Connections that it was offered and did not take.",
            &one(refused),
        );
        metric("moves_moved_total", "counter", "Connections that it gave to its successor.", &one(moved));
        metric("moves_stayed_total", "counter", "Connections that it offered and kept.", &one(stayed));
        let of_listeners = |value: fn(&Listener) -> Option<u64>| -> Vec<_> {
            let label = |listener: &Listener| format!("{{listener=\"{}\"}}", listener.name);
            self.listeners.iter().filter_map(|it| Some((label(it), value(it)?))).collect()
        };
        let taken = of_listeners(|listener| listener.taken);
        metric("taken_total", "counter", "Connections and datagrams that it has taken.", &taken);
        let waiting = of_listeners(|listener| listener.waiting.map(u64::from));
        metric("waiting", "gauge", "Connections in the queue of a listener.", &waiting);
        let backlog = of_listeners(|listener| listener.backlog.map(u64::from));
        metric("backlog", "gauge", "Connections that the queue of a listener has room for.", &backlog);
        let duration = self.history.last().map(|last| ("", last.duration.as_secs_f64()));
        let help = "Seconds from the last request to upgrade to its outcome.";
        write_metric(&mut text, "last_upgrade_duration_seconds", "gauge", help, duration);
        text
    }
}

fn write_metric<'a>(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (&'a str, impl Display)>,
) {
    // Writing to a `String` cannot fail.
    _ = writeln!(text, "# HELP tableflip_{name} {help}\n# TYPE tableflip_{name} {kind}");
    for (labels, value) in samples {
        _ = writeln!(text, "tableflip_{name}{labels} {value}");
    }
}

/// The value of a label in the text format of Prometheus.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// The JSON fields of a path.
mod path {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::base::path_text;

    #[derive(Serialize, Deserialize)]
    struct Fields {
        path: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path_bytes: Option<String>,
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let (path, path_bytes) = path_text::encode(path);
        Fields { path, path_bytes }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let Fields { path, path_bytes } = Fields::deserialize(deserializer)?;
        Ok(path_text::decode(path, path_bytes.as_deref()))
    }
}

/// A duration as a number of milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }

    /// A duration that may be missing.
    pub(super) mod optional {
        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(
            time: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All values differ, so no field can stand for another.
    fn status() -> Status {
        let listener = |name: &str, taken, waiting, backlog| {
            let address = "tcp://127.0.0.1:7000".to_owned();
            Listener { name: name.to_owned(), address, taken, waiting, backlog }
        };
        let generation = |generation, pid, open| Generation { generation, pid, open };
        let record = UpgradeRecord {
            at: 1_795_478_400,
            outcome: Outcome::Upgraded,
            duration: Duration::from_millis(31),
            ..UpgradeRecord::default()
        };
        Status {
            release: "0.1.0".to_owned(),
            generation: 3,
            pid: 4711,
            version: Some("1.4.0".to_owned()),
            phase: Phase::Upgrading,
            uptime: Duration::from_millis(3_009_900),
            serving: Some(Duration::from_millis(3_001_100)),
            executable: None,
            predecessor: Some(4700),
            predecessor_state: None,
            successor: None,
            open: 17,
            generations: vec![
                generation(2, 4700, Some(5)),
                generation(3, 4711, Some(17)),
                generation(4, 4712, None),
            ],
            listeners: vec![
                listener("echo", Some(90_210), Some(6), Some(4096)),
                listener("raw", None, None, None),
            ],
            unserved: Vec::new(),
            upgrades: Upgrades {
                done: 2,
                refused: 8,
                failed: 19,
                rejected: 4,
                reverted: 3,
                stopped: 7,
                last_failure: Some("no disk".to_owned()),
                last_failed: None,
            },
            moves: Moves { taken: 21, refused: 24, moved: 22, stayed: 23 },
            last_drain: Some(LastDrain {
                generation: 2,
                pid: 4700,
                aborted: 6,
                peers: Vec::new(),
                duration: Duration::from_secs(30),
            }),
            aborted_total: 11,
            history: vec![UpgradeRecord::default(), record],
        }
    }

    #[test]
    fn the_words_are_those_of_json() {
        let known = Phase::ALL.iter().map(|phase| (phase.as_str(), serde_json::to_value(phase)));
        let outcomes =
            [Outcome::Upgraded, Outcome::Rejected, Outcome::Failed, Outcome::Reverted, Outcome::Stopped];
        let outcomes = outcomes.iter().map(|outcome| (outcome.as_str(), serde_json::to_value(outcome)));
        for (word, json) in known.chain(outcomes) {
            assert_eq!(json.unwrap(), word);
        }
    }

    #[test]
    fn it_is_text_for_prometheus() {
        let expected = "\
# HELP tableflip_info 1, with the releases of the service and of tableflip as labels.
# TYPE tableflip_info gauge
tableflip_info{version=\"1.4.0\",release=\"0.1.0\",generation=\"3\"} 1
# HELP tableflip_generation 1 for the process that was started first.
# TYPE tableflip_generation gauge
tableflip_generation 3
# HELP tableflip_pid The process that answers.
# TYPE tableflip_pid gauge
tableflip_pid 4711
# HELP tableflip_phase 1 for the phase of the process that answers, 0 for the others.
# TYPE tableflip_phase gauge
tableflip_phase{phase=\"starting\"} 0
tableflip_phase{phase=\"serving\"} 0
tableflip_phase{phase=\"checking\"} 0
tableflip_phase{phase=\"upgrading\"} 1
tableflip_phase{phase=\"probing\"} 0
tableflip_phase{phase=\"handing-over\"} 0
tableflip_phase{phase=\"standby\"} 0
tableflip_phase{phase=\"recalling\"} 0
tableflip_phase{phase=\"yielding\"} 0
tableflip_phase{phase=\"reverting\"} 0
tableflip_phase{phase=\"draining\"} 0
tableflip_phase{phase=\"rescuing\"} 0
tableflip_phase{phase=\"ended\"} 0
# HELP tableflip_uptime_seconds Seconds since the process started.
# TYPE tableflip_uptime_seconds gauge
tableflip_uptime_seconds 3009
# HELP tableflip_serving_seconds Seconds since the process began to serve.
# TYPE tableflip_serving_seconds gauge
tableflip_serving_seconds 3001
# HELP tableflip_open Connections and guards that are open in it.
# TYPE tableflip_open gauge
tableflip_open 17
# HELP tableflip_predecessor Whether its predecessor lives.
# TYPE tableflip_predecessor gauge
tableflip_predecessor 1
# HELP tableflip_successor Whether its successor lives.
# TYPE tableflip_successor gauge
tableflip_successor 0
# HELP tableflip_generation_open Connections and guards that are open in each process of the service.
# TYPE tableflip_generation_open gauge
tableflip_generation_open{generation=\"2\"} 5
tableflip_generation_open{generation=\"3\"} 17
# HELP tableflip_upgrades_done_total Upgrades of the service.
# TYPE tableflip_upgrades_done_total counter
tableflip_upgrades_done_total 2
# HELP tableflip_upgrades_refused_total Upgrades that it refused.
# TYPE tableflip_upgrades_refused_total counter
tableflip_upgrades_refused_total 8
# HELP tableflip_upgrades_failed_total Upgrades of it that failed.
# TYPE tableflip_upgrades_failed_total counter
tableflip_upgrades_failed_total 19
# HELP tableflip_upgrades_total Upgrades by outcome: `upgraded` of the service, the others of this process.
# TYPE tableflip_upgrades_total counter
tableflip_upgrades_total{outcome=\"upgraded\"} 2
tableflip_upgrades_total{outcome=\"rejected\"} 4
tableflip_upgrades_total{outcome=\"failed\"} 5
tableflip_upgrades_total{outcome=\"reverted\"} 3
tableflip_upgrades_total{outcome=\"stopped\"} 7
tableflip_upgrades_total{outcome=\"refused\"} 8
# HELP tableflip_last_upgrade_timestamp_seconds When the last upgrade succeeded or failed.
# TYPE tableflip_last_upgrade_timestamp_seconds gauge
tableflip_last_upgrade_timestamp_seconds 1795478400
# HELP tableflip_last_upgrade_succeeded Whether the last upgrade succeeded.
# TYPE tableflip_last_upgrade_succeeded gauge
tableflip_last_upgrade_succeeded 1
# HELP tableflip_last_drain_aborted Connections and guards that the last drain cut.
# TYPE tableflip_last_drain_aborted gauge
tableflip_last_drain_aborted 6
# HELP tableflip_aborted_total Connections and guards that the drains of the service have cut.
# TYPE tableflip_aborted_total counter
tableflip_aborted_total 11
# HELP tableflip_moves_taken_total Connections that it took from its predecessor.
# TYPE tableflip_moves_taken_total counter
tableflip_moves_taken_total 21
# HELP tableflip_moves_refused_total Connections that it was offered and did not take.
# TYPE tableflip_moves_refused_total counter
tableflip_moves_refused_total 24
# HELP tableflip_moves_moved_total Connections that it gave to its successor.
# TYPE tableflip_moves_moved_total counter
tableflip_moves_moved_total 22
# HELP tableflip_moves_stayed_total Connections that it offered and kept.
# TYPE tableflip_moves_stayed_total counter
tableflip_moves_stayed_total 23
# HELP tableflip_taken_total Connections and datagrams that it has taken.
# TYPE tableflip_taken_total counter
tableflip_taken_total{listener=\"echo\"} 90210
# HELP tableflip_waiting Connections in the queue of a listener.
# TYPE tableflip_waiting gauge
tableflip_waiting{listener=\"echo\"} 6
# HELP tableflip_backlog Connections that the queue of a listener has room for.
# TYPE tableflip_backlog gauge
tableflip_backlog{listener=\"echo\"} 4096
# HELP tableflip_last_upgrade_duration_seconds Seconds from the last request to upgrade to its outcome.
# TYPE tableflip_last_upgrade_duration_seconds gauge
tableflip_last_upgrade_duration_seconds 0.031
";
        assert_eq!(status().prometheus(), expected);
        // The opposite values, and a process that does not serve yet.
        let other =
            Status { predecessor: None, successor: Some(4712), serving: None, ..status() }.prometheus();
        let version = Some("a\\b\"c\nd".to_owned());
        let escaped = Status { version, ..status() }.prometheus();
        assert!(escaped.contains(r#"{version="a\\b\"c\nd","#), "{escaped}");
        for sample in ["predecessor 0", "successor 1", "serving_seconds 0"] {
            assert!(other.contains(&format!("\ntableflip_{sample}\n")), "{other}");
        }
    }
}
