//! What a process says about itself: to its body, to operators, to a collector of metrics.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a process of the service stands, at one moment. [`Upgrader::status`](crate::Upgrader::status) has it for the service's own
/// endpoints, and the control socket answers it to `tableflip status`.
///
/// As JSON, times are in milliseconds. Later releases may add fields; what a release does not say is read as zero, none or empty,
/// except `generation`, `pid` and `phase`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// 1 for the process that was started first; each successful upgrade adds 1.
    pub generation: u64,
    /// Its process ID.
    pub pid: u32,
    /// The version of the service, where it states one: [`Service::version`](crate::Service::version).
    pub version: Option<String>,
    /// Where it is in its life.
    pub phase: Phase,
    /// How long ago the process began.
    #[serde(rename = "uptime_ms", with = "milliseconds", default)]
    pub uptime: Duration,
    /// How long ago it began to serve; `None` before.
    #[serde(rename = "serving_ms", with = "milliseconds::optional", default)]
    pub serving: Option<Duration>,
    /// The file that it runs.
    pub executable: Option<Executable>,
    /// The predecessor, while it lives.
    pub predecessor: Option<u32>,
    /// The successor, while it lives.
    pub successor: Option<u32>,
    /// Connections and guards that are open in this process.
    #[serde(default)]
    pub open: u64,
    /// The same of every process that is part of the service at this moment, the oldest first.
    #[serde(default)]
    pub generations: Vec<Generation>,
    /// The listeners of this process.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// The names of those that keep a start from serving: the body has not asked them for a connection yet. JSON has it where
    /// there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unserved: Vec<String>,
    /// What came of the upgrades.
    #[serde(default)]
    pub upgrades: Upgrades,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Its body initialises.
    Starting,
    /// It serves.
    Serving,
    /// It serves, and the command of `preflight` checks the new release.
    Checking,
    /// It serves, and its successor initialises.
    Upgrading,
    /// Its successor is ready, and the two hand over.
    HandingOver,
    /// Its successor serves, and is on probation.
    Standby,
    /// Its successor failed, and is on its way out.
    Reverting,
    /// It finishes the connections that are open.
    Draining,
    /// It finishes the connections that are open, and starts its own executable again: its successor is dead.
    Rescuing,
    /// It is about to exit.
    Ended,
    /// One of a later release, in a status that was read.
    #[serde(other)]
    Unknown,
}

/// A process of the service: the one that answers, the one before it, the one after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Generation {
    /// Its generation.
    pub generation: u64,
    /// Its process ID.
    pub pid: u32,
    /// Connections and guards that are open in it. A predecessor tells how many once a second; `None` if this process does
    /// not know, as of a successor.
    pub open: Option<u64>,
}

/// A file that is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Executable {
    /// The path that a successor is started from. In JSON `path` is text; the bytes of a path that is not UTF-8 are in
    /// `path_bytes` as well, in hexadecimal.
    #[serde(flatten, with = "path")]
    pub path: PathBuf,
    /// The inode of the file that this process runs.
    pub inode: u64,
    /// When that file was written last, in seconds since 1970-01-01 UTC.
    pub modified: i64,
}

/// A listener of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// What it is bound to, as an address of the service: with the port that was assigned.
    pub address: String,
    /// How many connections or datagrams this process has taken from it; `None` of a raw listener.
    pub taken: Option<u64>,
    /// How many connections wait in its queue; `None` where Linux does not tell.
    pub waiting: Option<u32>,
    /// How many may, as listen(2) was told and the kernel has capped it; `None` as for `waiting`.
    pub backlog: Option<u32>,
}

/// What came of the requests to upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Upgrades {
    /// How many the service has been through since it was started, whichever process was asked.
    pub done: u64,
    /// How many this process refused at once.
    pub refused: u64,
    /// How many this process was asked for that failed.
    pub failed: u64,
    /// Why the last of those that it refused and that failed did not happen.
    pub last_failure: Option<String>,
}

impl Status {
    /// Of a process of which nothing else is known.
    pub(crate) fn new(generation: u64, pid: u32, phase: Phase) -> Self {
        Self {
            generation,
            pid,
            version: None,
            phase,
            uptime: Duration::ZERO,
            serving: None,
            executable: None,
            predecessor: None,
            successor: None,
            open: 0,
            generations: Vec::new(),
            listeners: Vec::new(),
            unserved: Vec::new(),
            upgrades: Upgrades::default(),
        }
    }

    /// The status in the text format of Prometheus.
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            // A `String` takes whatever is written to it.
            _ = writeln!(text, "# HELP tableflip_{name} {help}\n# TYPE tableflip_{name} {kind}");
            for (labels, value) in samples {
                _ = writeln!(text, "tableflip_{name}{labels} {value}");
            }
        };
        let one = |value| [(String::new(), value)];
        metric("generation", "gauge", "1 for the process that was started first.", &one(self.generation));
        metric("pid", "gauge", "The process that answers.", &one(self.pid.into()));
        metric("uptime_seconds", "gauge", "Since when it runs.", &one(self.uptime.as_secs()));
        let seconds = self.serving.map_or(0, |serving| serving.as_secs());
        metric("serving_seconds", "gauge", "Since when it serves.", &one(seconds));
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
        metric("upgrades_done_total", "counter", "Upgrades of the service.", &one(self.upgrades.done));
        metric("upgrades_refused_total", "counter", "Upgrades that it refused.", &one(self.upgrades.refused));
        metric("upgrades_failed_total", "counter", "Upgrades of it that failed.", &one(self.upgrades.failed));
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
        text
    }
}

/// The fields of a path.
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

    /// One that may be missing.
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

    /// No two values are one, so that none can stand for another.
    fn status() -> Status {
        let listener = |name: &str, taken, waiting, backlog| {
            let address = "tcp://127.0.0.1:7000".to_owned();
            Listener { name: name.to_owned(), address, taken, waiting, backlog }
        };
        let generation = |generation, pid, open| Generation { generation, pid, open };
        Status {
            generation: 3,
            pid: 4711,
            version: Some("1.4.0".to_owned()),
            phase: Phase::Upgrading,
            uptime: Duration::from_millis(3_009_900),
            serving: Some(Duration::from_millis(3_001_100)),
            executable: None,
            predecessor: Some(4700),
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
            upgrades: Upgrades { done: 2, refused: 8, failed: 9, last_failure: Some("no disk".to_owned()) },
        }
    }

    #[test]
    fn it_is_text_for_prometheus() {
        let expected = "\
# HELP tableflip_generation 1 for the process that was started first.
# TYPE tableflip_generation gauge
tableflip_generation 3
# HELP tableflip_pid The process that answers.
# TYPE tableflip_pid gauge
tableflip_pid 4711
# HELP tableflip_uptime_seconds Since when it runs.
# TYPE tableflip_uptime_seconds gauge
tableflip_uptime_seconds 3009
# HELP tableflip_serving_seconds Since when it serves.
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
tableflip_upgrades_failed_total 9
# HELP tableflip_taken_total Connections and datagrams that it has taken.
# TYPE tableflip_taken_total counter
tableflip_taken_total{listener=\"echo\"} 90210
# HELP tableflip_waiting Connections in the queue of a listener.
# TYPE tableflip_waiting gauge
tableflip_waiting{listener=\"echo\"} 6
# HELP tableflip_backlog Connections that the queue of a listener has room for.
# TYPE tableflip_backlog gauge
tableflip_backlog{listener=\"echo\"} 4096
";
        assert_eq!(status().prometheus(), expected);
        // The other way round, and one that does not serve yet.
        let other =
            Status { predecessor: None, successor: Some(4712), serving: None, ..status() }.prometheus();
        for sample in ["predecessor 0", "successor 1", "serving_seconds 0"] {
            assert!(other.contains(&format!("\ntableflip_{sample}\n")), "{other}");
        }
    }
}
