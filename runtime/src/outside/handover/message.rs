//! The messages between a process and its successor.
//!
//! Each message is one JSON object in one packet, with its name in `type`. Unknown fields are ignored, and an unknown
//! type is answered with `not-understood`. So releases can talk though one knows more. `protocol` is raised only when
//! that is not enough. `docs/protocol.md` describes every message.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::identity::Identity;
use crate::base::limits::{MAX_FILE_NAME, MAX_LISTENERS, MAX_PASSED_ON, MAX_PIDFILE_SHOWN, MAX_VERSION};
use crate::base::report::{printable, printable_within};
use crate::base::status::UpgradeRecord;
use crate::base::unadopted::Entry;

/// The protocol that this release speaks.
pub(crate) const PROTOCOL: u32 = 1;
/// The oldest protocol that this release understands.
pub(crate) const OLDEST_PROTOCOL: u32 = 1;

/// The largest packet in either direction, in bytes.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;
/// How many descriptors travel with one packet. The kernel's limit is 253, SCM_MAX_FD in unix(7).
pub(crate) const MAX_FDS: usize = 64;
/// How many descriptors one offer may announce: our bound for what a peer can make this process expect.
pub(crate) const MAX_DESCRIPTORS: usize = 65_536;

/// The time left of a drain that has no deadline.
pub(crate) const NO_LIMIT: u64 = u64::MAX;

/// The type of [`Message::Ping`], which an earlier release may not know.
pub(crate) const PING: &str = "ping";
/// The types of [`Message::Recall`] and [`Message::AskedBack`], which an earlier release does not know.
pub(crate) const RECALL: &str = "recall";
pub(crate) const ASKED_BACK: &str = "asked-back";
/// The type of [`Message::Probe`], which an earlier release may not know.
pub(crate) const PROBE: &str = "probe";

/// The bytes around the entries of a message that is one list, at most.
const AROUND: usize = r#"{"type":"sockets","entries":[]}"#.len();

// Both fit into one packet at their longest. `prepared` names every listener and the control socket, by the last places
// of an offer, with a pid file in which JSON escapes each byte. And JSON may escape each byte of a name.
// An offer has room for all sockets, the control socket, the files of the service, the socket to the supervisor, and two executables.
const _: () = {
    assert!(MAX_DESCRIPTORS - 1 <= 65_535);
    assert!(MAX_LISTENERS + MAX_PASSED_ON + 4 <= MAX_DESCRIPTORS);
    assert!(
        r#"{"type":"prepared","adopted":[],"pidfile":""}"#.len()
            + (MAX_LISTENERS + 1) * "65535,".len()
            + MAX_PIDFILE_SHOWN * r"\\".len()
            <= MAX_MESSAGE
    );
    assert!(AROUND + r#""","#.len() + MAX_FILE_NAME * r"\u0000".len() <= MAX_MESSAGE);
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Message {
    // From the predecessor to the successor.
    /// The first message: the speaker, and how many sockets follow.
    Offer {
        #[serde(flatten)]
        speaker: Box<Speaker>,
        sockets: usize,
        /// How many other descriptors follow, in `files`.
        #[serde(default, skip_serializing_if = "is_zero")]
        files: usize,
        /// The path that upgrades execute. It is passed on because a process cannot always find it: after a rescue its
        /// own file may have no name any more.
        #[serde(flatten, with = "executable")]
        executable: Option<PathBuf>,
        /// The umask of the first start. The successor starts with it, but its own code may have changed it before the
        /// successor reads this message. It passes the umask on in turn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        umask: Option<u32>,
        /// The pid file, by `pidfile::shown`. Empty for none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pidfile: Option<String>,
        /// For how long the predecessor watches the successor, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        probation_ms: Option<u64>,
        /// How many connections and guards the drains of the earlier generations have cut.
        #[serde(default, skip_serializing_if = "none_cut")]
        aborted: u64,
    },
    /// Some of the sockets. One descriptor for each entry travels with it, in the same order.
    Sockets {
        entries: Vec<Entry>,
    },
    /// Some of the descriptors that the service passes on by name. One descriptor for each name travels with it, in the
    /// same order.
    Files {
        names: Vec<String>,
    },
    /// A connection of the predecessor to the listener that the predecessor probes. The end of the server travels with it.
    Probe {
        /// The place of the listener in the offer, if the successor has adopted it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        listener: Option<usize>,
        /// The name of the listener in the predecessor.
        name: String,
        /// How much longer the predecessor waits for the answer, in milliseconds.
        within_ms: u64,
    },
    Commit,
    Stop,
    /// The number of open connections and guards, for the status of the successor.
    Open {
        open: u64,
        /// How long the drain of the predecessor lasts at most, in milliseconds; [`NO_LIMIT`] for one without a deadline. Missing
        /// before the drain, and from a release that does not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drain_ms: Option<u64>,
    },
    /// Upgrades that have ended, the oldest first. They come after those of an earlier message. A release that does not
    /// know it has no history.
    History {
        entries: Vec<UpgradeRecord>,
    },
    /// The predecessor is about to announce the successor to the service manager as the main process.
    Followed,
    /// The predecessor is to serve again: the successor closes its gates and sends `yielded`.
    Recall,
    /// The predecessor serves again.
    Resumed,
    /// The answer to `asked-back`: the predecessor cannot serve again.
    Declined,
    /// Asks whether the successor responds. The answer is `alive`, or `not-understood` from a release that does not
    /// know it.
    Ping,

    // From the successor to the predecessor.
    /// The answer to the offer.
    Hello {
        #[serde(flatten)]
        speaker: Speaker,
    },
    /// The listeners that the body has not asked for a connection yet. It is sent at each change, for the message of a
    /// deadline that passes.
    Unserved {
        listeners: Vec<String>,
    },
    /// The open connections that the successor takes, by listener. One end of a link travels with it: see `link.rs`.
    Takes {
        listeners: Vec<TakenKinds>,
    },
    /// The successor is ready. It has adopted these sockets, by their places in the offer.
    Prepared {
        adopted: Vec<usize>,
        /// The pid file, as in the offer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pidfile: Option<String>,
    },
    /// The answer to `probe` of a listener that the body does not take connections from.
    Unprobed {
        reason: String,
    },
    Active,
    Failed {
        reason: String,
    },
    Leaving,
    /// The successor was asked for a revert.
    AskedBack,
    /// The gates of the successor are closed. A token travels with it: who takes the token owns the gates.
    Yielded {
        /// For how long the successor may drain, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drain_ms: Option<u64>,
    },
    /// The successor cannot close its gates.
    NotYielded {
        reason: String,
    },
    /// The answer to `ping`, after the engine and the runtime of the body have both run since.
    Alive,

    // In both directions.
    /// An upgrade waits for the end of the drain.
    Hasten,
    /// What the drain of the sender has cut. The last message but one.
    Drained {
        aborted: u64,
        /// The addresses of clients.
        #[serde(default)]
        peers: Vec<String>,
        duration_ms: u64,
    },
    /// The last message: the sender has closed its gates for good. It may live on, in the code after `Service::run`.
    Over,
    /// The answer to a message of a type that this release does not know.
    NotUnderstood {
        unknown: String,
    },
}

/// The fields of the executable: `executable` for a path in UTF-8, or else `executable_bytes`. A release that knows
/// only `executable` then finds the path by itself. Inexact text would make it execute another file.
mod executable {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::base::path_text;

    #[derive(Serialize, Deserialize)]
    struct Fields {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        executable: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        executable_bytes: Option<String>,
    }

    pub(super) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        let (executable, executable_bytes) = match path.as_deref().map(path_text::encode) {
            None => (None, None),
            Some((text, None)) => (Some(text), None),
            Some((_, bytes)) => (None, bytes),
        };
        Fields { executable, executable_bytes }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let Fields { executable, executable_bytes } = Fields::deserialize(deserializer)?;
        let path = path_text::decode(executable.unwrap_or_default(), executable_bytes.as_deref());
        Ok((!path.as_os_str().is_empty()).then_some(path))
    }
}

/// The kinds of connections that the successor takes of one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TakenKinds {
    /// The place of the listener in the offer.
    pub(crate) listener: usize,
    pub(crate) kinds: Vec<String>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn none_cut(count: &u64) -> bool {
    *count == 0
}

/// The sender of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Speaker {
    pub(crate) protocol: u32,
    pub(crate) oldest_protocol: u32,
    /// The release of this crate.
    pub(crate) release: String,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// The option `name` of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The name that the attribute knows: the binary, or else the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) program: Option<String>,
    /// The version of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
}

impl Speaker {
    pub(crate) fn us(generation: u64, identity: &Identity) -> Self {
        Self {
            protocol: PROTOCOL,
            oldest_protocol: OLDEST_PROTOCOL,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            generation,
            pid: std::process::id(),
            name: identity.name.clone(),
            program: identity.program.clone(),
            version: identity.version.as_deref().map(|version| printable_within(version, MAX_VERSION)),
        }
    }

    /// The identity of the sender's service, fit for a log line.
    pub(crate) fn identity(&self) -> Identity {
        let clean = |text: &Option<String>| text.as_deref().map(printable);
        let version = self.version.as_deref().map(|version| printable_within(version, MAX_VERSION));
        Identity { name: clean(&self.name), program: clean(&self.program), version }
    }

    /// The generation of the sender's successor. There is none after the last number: two processes of one generation
    /// could not be told apart.
    pub(crate) fn next_generation(&self) -> Result<u64, String> {
        self.generation.checked_add(1).ok_or_else(|| {
            format!(
                "process {} is of generation {}, the last that there is a number for; stop the service and start it \
                 again once",
                self.pid, self.generation,
            )
        })
    }

    /// Whether the two releases can talk. The error names both.
    pub(crate) fn understands_us(&self) -> Result<(), String> {
        if self.protocol >= OLDEST_PROTOCOL && self.oldest_protocol <= PROTOCOL {
            return Ok(());
        }
        Err(format!(
            "process {} has tableflip {}, which speaks the handover protocols {} to {}; this is tableflip {}, \
             which speaks {OLDEST_PROTOCOL} to {PROTOCOL}; stop the service and start it again once",
            self.pid,
            printable(&self.release),
            self.oldest_protocol,
            self.protocol,
            env!("CARGO_PKG_VERSION"),
        ))
    }
}

/// Why a packet is not a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// The message is of a later release.
    UnknownType(String),
    Garbled(String),
}

/// Splits the items of an offer into parts. Each part has at most [`MAX_FDS`] items and fits into one message.
pub(crate) fn parts<T: Serialize>(items: Vec<T>) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut size = AROUND;
    for item in items {
        let length = encode(&item).len() + ",".len();
        match parts.last_mut() {
            Some(part) if part.len() < MAX_FDS && size + length <= MAX_MESSAGE => {
                part.push(item);
                size += length;
            }
            _ => {
                parts.push(vec![item]);
                size = AROUND + length;
            }
        }
    }
    parts
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and lists of them always encode")
}

impl Message {
    /// How many descriptors travel with it.
    pub(crate) fn descriptors(&self) -> usize {
        match self {
            Message::Sockets { entries } => entries.len(),
            Message::Files { names } => names.len(),
            Message::Takes { .. } | Message::Yielded { .. } | Message::Probe { .. } => 1,
            _ => 0,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(crate) fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Head {
            r#type: String,
        }
        serde_json::from_slice(packet).map_err(|error| match serde_json::from_slice::<Head>(packet) {
            Ok(head) if !Self::is_known(&head.r#type) => Malformed::UnknownType(printable(&head.r#type)),
            _ => Malformed::Garbled(printable(&error.to_string())),
        })
    }

    fn is_known(name: &str) -> bool {
        const NAMES: [&str; 29] = [
            "offer",
            "files",
            "sockets",
            PROBE,
            "commit",
            "stop",
            "open",
            "history",
            "followed",
            "hello",
            "unserved",
            "takes",
            "prepared",
            "unprobed",
            "active",
            "failed",
            "leaving",
            "hasten",
            RECALL,
            "resumed",
            "declined",
            ASKED_BACK,
            "yielded",
            "not-yielded",
            PING,
            "alive",
            "drained",
            "over",
            "not-understood",
        ];
        NAMES.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    use crate::base::error::UpgradeStep;
    use crate::base::report::MAX_REASON;
    use crate::base::status::{Outcome, Release, Requester};
    use crate::outside::pidfile;

    fn entry(name: &str, address: &str, inode: Option<(u64, u64)>) -> Entry {
        Entry { name: name.to_owned(), address: address.to_owned(), inode, activated: false }
    }

    fn speaker() -> Speaker {
        Speaker {
            protocol: 1,
            oldest_protocol: 1,
            release: "0.1.0".into(),
            generation: 3,
            pid: 77,
            name: None,
            program: None,
            version: None,
        }
    }

    fn named() -> Speaker {
        Speaker { name: Some("echo".into()), program: Some("echod".into()), ..speaker() }
    }

    /// JSON escapes each byte of the version.
    fn longest() -> Speaker {
        Speaker { version: Some("\\".repeat(MAX_VERSION)), ..named() }
    }

    fn offer(
        speaker: Speaker,
        executable: Option<&str>,
        umask: Option<u32>,
        pidfile: Option<&str>,
    ) -> Message {
        let (executable, pidfile) = (executable.map(Into::into), pidfile.map(Into::into));
        let (probation_ms, aborted) = (None, 0);
        let speaker = Box::new(speaker);
        Message::Offer { speaker, sockets: 2, files: 0, executable, umask, pidfile, probation_ms, aborted }
    }

    /// The messages that release 0.1.0 sends. Every later release understands these bytes.
    fn recorded_0_1_0() -> Vec<(&'static str, Message)> {
        vec![
            (
                r#"{"type":"offer","protocol":1,"oldest_protocol":1,"release":"0.1.0","generation":3,"pid":77,"sockets":2,"executable":"/srv/svc"}"#,
                offer(speaker(), Some("/srv/svc"), None, None),
            ),
            (
                r#"{"type":"offer","protocol":1,"oldest_protocol":1,"release":"0.1.0","generation":3,"pid":77,"sockets":2,"umask":18}"#,
                offer(speaker(), None, Some(0o022), None),
            ),
            (
                r#"{"type":"offer","protocol":1,"oldest_protocol":1,"release":"0.1.0","generation":3,"pid":77,"name":"echo","program":"echod","sockets":2,"pidfile":"/run/echo.pid"}"#,
                offer(named(), None, None, Some("/run/echo.pid")),
            ),
            (
                r#"{"type":"takes","listeners":[{"listener":0,"kinds":["http/1.1"]}]}"#,
                Message::Takes {
                    listeners: vec![TakenKinds { listener: 0, kinds: vec!["http/1.1".into()] }],
                },
            ),
            (
                r#"{"type":"probe","listener":0,"name":"http","within_ms":60000}"#,
                Message::Probe { listener: Some(0), name: "http".into(), within_ms: 60_000 },
            ),
            (
                r#"{"type":"probe","name":"http","within_ms":0}"#,
                Message::Probe { listener: None, name: "http".into(), within_ms: 0 },
            ),
            (r#"{"type":"unprobed","reason":"raw"}"#, Message::Unprobed { reason: "raw".into() }),
            (r#"{"type":"ping"}"#, Message::Ping),
            (r#"{"type":"alive"}"#, Message::Alive),
            (r#"{"type":"over"}"#, Message::Over),
            (r#"{"type":"files","names":["conn"]}"#, Message::Files { names: vec!["conn".into()] }),
            (
                r#"{"type":"sockets","entries":[{"name":"http","address":"tcp://127.0.0.1:80"},{"name":"sock","address":"unix:///run/s","inode":[64,9]}]}"#,
                Message::Sockets {
                    entries: vec![
                        entry("http", "tcp://127.0.0.1:80", None),
                        entry("sock", "unix:///run/s", Some((64, 9))),
                    ],
                },
            ),
            (r#"{"type":"commit"}"#, Message::Commit),
            (r#"{"type":"stop"}"#, Message::Stop),
            (r#"{"type":"open","open":17}"#, Message::Open { open: 17, drain_ms: None }),
            (r#"{"type":"followed"}"#, Message::Followed),
            (
                r#"{"type":"sockets","entries":[{"name":"web","address":"tcp://127.0.0.1:81","activated":true}]}"#,
                Message::Sockets {
                    entries: vec![Entry { activated: true, ..entry("web", "tcp://127.0.0.1:81", None) }],
                },
            ),
            (
                r#"{"type":"hello","protocol":1,"oldest_protocol":1,"release":"0.1.0","generation":3,"pid":77}"#,
                Message::Hello { speaker: speaker() },
            ),
            (
                r#"{"type":"hello","protocol":1,"oldest_protocol":1,"release":"0.1.0","generation":3,"pid":77,"name":"echo","program":"echod"}"#,
                Message::Hello { speaker: named() },
            ),
            (
                r#"{"type":"hello","protocol":1,"oldest_protocol":1,"release":"0.1.0","generation":3,"pid":77,"version":"1.4.0"}"#,
                Message::Hello { speaker: Speaker { version: Some("1.4.0".into()), ..speaker() } },
            ),
            (
                r#"{"type":"offer","protocol":1,"oldest_protocol":1,"release":"0.1.0","generation":3,"pid":77,"sockets":2,"probation_ms":3000,"aborted":4}"#,
                Message::Offer {
                    speaker: Box::new(speaker()),
                    sockets: 2,
                    files: 0,
                    executable: None,
                    umask: None,
                    pidfile: None,
                    probation_ms: Some(3000),
                    aborted: 4,
                },
            ),
            (
                r#"{"type":"open","open":17,"drain_ms":27000}"#,
                Message::Open { open: 17, drain_ms: Some(27_000) },
            ),
            (
                r#"{"type":"drained","aborted":1,"peers":["127.0.0.1:5000"],"duration_ms":30000}"#,
                Message::Drained { aborted: 1, peers: vec!["127.0.0.1:5000".into()], duration_ms: 30_000 },
            ),
            (
                r#"{"type":"history","entries":[{"at":1795478400,"outcome":"upgraded","generation":3,"pid":78,"from":{"version":"1.4.0","executable":"/srv/svc"},"to":{"version":null,"executable":null},"duration_ms":31,"by":{"kind":"control","uid":0,"pid":70},"aborted":4},{"at":1795478400,"outcome":"failed","generation":3,"pid":null,"from":{"version":null,"executable":null},"to":{"version":null,"executable":null},"duration_ms":9,"by":{"kind":"signal","signal":"SIGHUP"},"step":"spawn","reason":"no disk"}]}"#,
                Message::History {
                    entries: vec![
                        UpgradeRecord {
                            at: 1_795_478_400,
                            outcome: Outcome::Upgraded,
                            generation: 3,
                            pid: Some(78),
                            from: Release {
                                version: Some("1.4.0".into()),
                                executable: Some("/srv/svc".into()),
                            },
                            duration: Duration::from_millis(31),
                            by: Requester::Control { uid: Some(0), pid: Some(70) },
                            aborted: Some(4),
                            ..UpgradeRecord::default()
                        },
                        UpgradeRecord {
                            at: 1_795_478_400,
                            outcome: Outcome::Failed,
                            generation: 3,
                            duration: Duration::from_millis(9),
                            by: Requester::Signal { signal: "SIGHUP".into() },
                            step: Some(UpgradeStep::Spawn),
                            reason: Some("no disk".into()),
                            ..UpgradeRecord::default()
                        },
                    ],
                },
            ),
            (
                r#"{"type":"unserved","listeners":["http"]}"#,
                Message::Unserved { listeners: vec!["http".into()] },
            ),
            (
                r#"{"type":"prepared","adopted":[0,1]}"#,
                Message::Prepared { adopted: vec![0, 1], pidfile: None },
            ),
            (
                r#"{"type":"prepared","adopted":[],"pidfile":""}"#,
                Message::Prepared { adopted: vec![], pidfile: Some(String::new()) },
            ),
            (r#"{"type":"active"}"#, Message::Active),
            (r#"{"type":"failed","reason":"no disk"}"#, Message::Failed { reason: "no disk".into() }),
            (r#"{"type":"leaving"}"#, Message::Leaving),
            (r#"{"type":"hasten"}"#, Message::Hasten),
            (r#"{"type":"recall"}"#, Message::Recall),
            (r#"{"type":"asked-back"}"#, Message::AskedBack),
            (r#"{"type":"yielded","drain_ms":30000}"#, Message::Yielded { drain_ms: Some(30_000) }),
            (r#"{"type":"not-yielded","reason":"stuck"}"#, Message::NotYielded { reason: "stuck".into() }),
            (r#"{"type":"resumed"}"#, Message::Resumed),
            (r#"{"type":"declined"}"#, Message::Declined),
            (
                r#"{"type":"not-understood","unknown":"sing"}"#,
                Message::NotUnderstood { unknown: "sing".into() },
            ),
        ]
    }

    #[test]
    fn every_release_understands_the_recorded_messages() {
        for (recorded, message) in recorded_0_1_0() {
            assert_eq!(Message::decode(recorded.as_bytes()), Ok(message.clone()));
            assert_eq!(
                String::from_utf8(message.encode()).unwrap(),
                recorded,
                "this release says it differently"
            );
            let name = recorded.split('"').nth(3).unwrap();
            assert!(Message::is_known(name), "{name}");
        }
    }

    /// A successor that took inexact text for the path would start another file, or none.
    #[test]
    fn e2_an_executable_that_is_not_utf8_arrives_as_it_is() {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::OsStr::from_bytes(b"/srv/caf\xe9/svc");
        let offer = Message::Offer {
            speaker: Box::new(speaker()),
            sockets: 0,
            files: 0,
            executable: Some(path.into()),
            umask: None,
            pidfile: None,
            probation_ms: None,
            aborted: 0,
        };
        let packet = String::from_utf8(offer.encode()).unwrap();
        assert!(packet.ends_with(r#","executable_bytes":"2f7372762f636166e92f737663"}"#), "{packet}");
        assert_eq!(Message::decode(packet.as_bytes()), Ok(offer));
        // The longest path: all of its bytes are text, or none.
        for byte in ["\0".as_bytes(), b"\xff"] {
            let path = byte.repeat(4095);
            let executable = Some(std::ffi::OsStr::from_bytes(&path).into());
            let pidfile = Some(pidfile::shown(Some(Path::new(&"\\".repeat(MAX_PIDFILE_SHOWN)))));
            let (umask, probation_ms) = (Some(0o777), Some(u64::MAX));
            let offer = Message::Offer {
                speaker: Box::new(longest()),
                sockets: 0,
                files: 0,
                executable,
                umask,
                pidfile,
                probation_ms,
                aborted: u64::MAX,
            };
            assert!(offer.encode().len() <= MAX_MESSAGE);
        }
    }

    #[test]
    fn a_later_release_may_say_more() {
        let more = br#"{"type":"prepared","adopted":[],"mood":"fine"}"#;
        assert_eq!(Message::decode(more), Ok(Message::Prepared { adopted: vec![], pidfile: None }));
        // Of an upgrade as well, with words that this release does not know.
        let record = br#"{"type":"history","entries":[{"outcome":"postponed","by":{"kind":"moon","of":"may"},"step":"flight"}]}"#;
        let record = match Message::decode(record) {
            Ok(Message::History { entries }) => entries[0].clone(),
            other => panic!("{other:?}"),
        };
        let expected = UpgradeRecord { step: Some(UpgradeStep::Unknown), ..UpgradeRecord::default() };
        assert_eq!(record, expected);
        let unknown = br#"{"type":"sing","song":1}"#;
        assert_eq!(Message::decode(unknown), Err(Malformed::UnknownType("sing".into())));
    }

    #[test]
    fn prepared_fits_into_a_message_whatever_the_pid_file_is() {
        let adopted: Vec<_> = (65_535 - MAX_LISTENERS..=65_535).collect();
        for c in ["\"", "\\", "\n", "ü", "a"] {
            let path = format!("/run/{}", c.repeat(3 * MAX_PIDFILE_SHOWN));
            let pidfile = pidfile::shown(Some(Path::new(&path)));
            assert!(pidfile.len() <= MAX_PIDFILE_SHOWN, "{}", pidfile.len());
            let message = Message::Prepared { adopted: adopted.clone(), pidfile: Some(pidfile) };
            assert!(message.encode().len() <= MAX_MESSAGE);
        }
        assert_eq!(pidfile::shown(None), "");
    }

    #[test]
    fn every_part_of_an_offer_fits_into_a_message() {
        let long = |at: usize| format!("{at:03}{}", "\0".repeat(MAX_FILE_NAME - 3));
        let short = |at: usize| at.to_string();
        for (names, at_most) in [
            ((0..100).map(long).collect::<Vec<_>>(), 2),
            ((0..200).map(short).collect(), MAX_FDS),
            (Vec::new(), 0),
        ] {
            let parts = parts(names.clone());
            assert_eq!(parts.concat(), names);
            assert_eq!(parts.iter().map(Vec::len).max().unwrap_or(0), at_most);
            for part in parts {
                assert!(!part.is_empty());
                assert!(Message::Files { names: part }.encode().len() <= MAX_MESSAGE);
            }
        }
    }

    #[test]
    fn what_is_no_message_is_garbled() {
        for packet in [
            &b""[..],
            b"null",
            b"{}",
            b"{\"type\":7}",
            b"{\"type\":\"prepared\"}",
            b"{\"type\":\"prepared\",\"adopted\":[-1]}",
            b"{\"type\":\"commit\"} {}",
            b"\xff\xfe",
        ] {
            assert!(matches!(Message::decode(packet), Err(Malformed::Garbled(_))), "{packet:?}");
        }
    }

    /// Random numbers, the same in every run: splitmix64.
    fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
        move |below| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) % below as u64) as usize
        }
    }

    /// Any packet is a message, a message of a later release, or garbled. None is a panic.
    #[test]
    fn a_damaged_message_is_understood_or_malformed() {
        const CASES: usize = 200_000;
        const PIECES: [&[u8]; 20] = [
            b"{",
            b"}",
            b"[",
            b"]",
            b"\"",
            b",",
            b":",
            b"\\",
            b"null",
            b"-1",
            b"1e999",
            b"18446744073709551616",
            b"\"type\":\"sing\"",
            b"\"pid\":",
            b"\\ud800",
            b"\n\x1b[31m",
            b"\0",
            b"\xff",
            b"\xc3\xa9",
            b" ",
        ];
        let recorded = recorded_0_1_0();
        let mut random = numbers(7);
        let (mut understood, mut unknown, mut garbled) = (0, 0, 0);
        for _ in 0..CASES {
            let mut packet = recorded[random(recorded.len())].0.as_bytes().to_vec();
            for _ in 0..=random(3) {
                let at = random(packet.len() + 1);
                let end = at + random(packet.len() + 1 - at);
                match random(6) {
                    0 => packet.truncate(at),
                    1 => _ = packet.splice(at..at, PIECES[random(PIECES.len())].iter().copied()),
                    2 => _ = packet.splice(at..end, []),
                    3 => _ = packet.splice(at..at, packet[at..end].to_vec()),
                    4 => {
                        let other = recorded[random(recorded.len())].0.as_bytes();
                        packet.extend_from_slice(&other[random(9)..]);
                    }
                    _ if at < packet.len() => packet[at] = random(256) as u8,
                    _ => {}
                }
            }
            match Message::decode(&packet) {
                Ok(message) => {
                    understood += 1;
                    assert!(message.descriptors() <= packet.len());
                    // Encoded again it is the same message.
                    assert_eq!(Message::decode(&message.encode()), Ok(message));
                }
                Err(Malformed::UnknownType(name)) => {
                    unknown += 1;
                    assert!(name.len() <= MAX_REASON + 3 && !name.contains(char::is_control), "{name:?}");
                }
                Err(Malformed::Garbled(why)) => {
                    garbled += 1;
                    assert!(!why.is_empty() && why.len() <= MAX_REASON + 3, "{why:?}");
                    assert!(!why.contains(char::is_control), "{why:?}");
                }
            }
        }
        println!("{CASES} cases: {understood} understood, {unknown} unknown, {garbled} garbled");
        // The damage is neither always fatal nor without effect.
        assert!(understood > CASES / 100 && unknown > CASES / 1000 && garbled > CASES / 10);
    }

    #[test]
    fn an_incompatible_release_is_refused_by_name() {
        let mut later = Speaker { protocol: 9, oldest_protocol: 5, release: "7.0.0".into(), ..speaker() };
        let refusal = later.understands_us().unwrap_err();
        assert!(refusal.contains("tableflip 7.0.0") && refusal.contains("5 to 9"), "{refusal}");
        later.oldest_protocol = 1;
        later.understands_us().unwrap();
    }
}
