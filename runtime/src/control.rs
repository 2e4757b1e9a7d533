//! The control socket: requests of operators to a running service, and its replies, as lines of JSON.
//!
//! The program `tableflip` (feature `cli`) uses the control socket, and any other program can. The types of this module
//! are the lines. In the repository `docs/control.md` describes the conversation.

#[cfg(upgrades)]
mod client;
#[cfg(upgrades)]
pub(crate) mod server;

use serde::{Deserialize, Serialize};

use crate::base::error::{RevertError, UpgradeError};
use crate::base::status::{Phase, Release, Status};

/// The version of the protocol. It changes when an old client would misread a reply.
pub const PROTOCOL: u32 = 1;

/// A line from a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// Asks for the status of the process.
    Status,
    /// Asks for the status at once, after every change and once a second.
    Watch,
    /// Upgrades the service.
    Upgrade {
        /// No open connection moves to the successor: all of them end with this process.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        no_move: bool,
        /// A shell command that checks the successor on probation, in the place of the option `verify`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verify: Option<String>,
    },
    /// Upgrades the service to the executable that ran before.
    Rollback,
    /// Undoes an upgrade in its probation: the predecessor serves again.
    Revert,
    /// Stops the service gracefully.
    Stop,
}

/// A line from the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reply {
    /// The reply to `status` and `watch`.
    Status {
        /// The version of the protocol, [`PROTOCOL`].
        protocol: u32,
        /// The status of the process.
        #[serde(flatten)]
        status: Box<Status>,
    },
    /// A reply to `upgrade` and `stop`: a phase has begun.
    Phase {
        /// The phase.
        phase: Phase,
        /// The process ID of the successor, if there is one.
        successor: Option<u32>,
        /// The time since the request, in milliseconds.
        elapsed_ms: u64,
    },
    /// The last reply to `upgrade`: the successor serves and has passed its probation.
    Upgraded {
        /// The generation of the successor.
        generation: u64,
        /// The process ID of the successor.
        pid: u32,
        /// The time from the request until the successor served, in milliseconds.
        elapsed_ms: u64,
        /// The release that was asked to upgrade.
        #[serde(default)]
        from: Release,
        /// The release that serves.
        #[serde(default)]
        to: Release,
        /// What the service has lost by the upgrade, in words.
        #[serde(default)]
        warnings: Vec<String>,
    },
    /// The last reply to `revert`: the predecessor serves again.
    Reverted {
        /// The generation of the process that serves again.
        generation: u64,
        /// Its process ID.
        pid: u32,
        /// The time from the request until that process served, in milliseconds.
        elapsed_ms: u64,
    },
    /// The reply to `stop`: the process has the request. When the process ends, the connection ends.
    Stopping,
    /// A process of the service that has served ends. The process that answers sends it as its last line to each client that has
    /// asked for `watch`, `upgrade` or `stop`. A line with another process ID is of its predecessor or successor, whose end
    /// came first.
    Drained {
        /// The process ID of the process that ends.
        pid: u32,
        /// The process ID of the successor, in a line of the program `tableflip`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        successor: Option<u32>,
        /// How many connections and guards its drain has cut. `None` in a line of the program `tableflip` that does not know it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        aborted: Option<u64>,
        /// The addresses of the clients whose connections were cut, at most 8.
        #[serde(default)]
        peers: Vec<String>,
        /// How long the drain took, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
    },
    /// The request failed, or was refused.
    Error {
        /// The kind of error.
        code: Code,
        /// The reason, in words.
        message: String,
    },
}

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Code {
    /// The line is not a request.
    BadRequest,
    /// The client belongs to another user.
    Denied,
    /// The process serves the greatest number of clients, 32, already.
    Busy,
    /// [`UpgradeError::NotReady`].
    NotReady,
    /// [`UpgradeError::InProgress`].
    InProgress,
    /// [`UpgradeError::PredecessorOnStandby`] or [`UpgradeError::PredecessorDraining`].
    PredecessorDraining,
    /// [`UpgradeError::SuccessorDraining`].
    SuccessorDraining,
    /// [`RevertError::NoStandby`].
    NoStandby,
    /// [`UpgradeError::Terminating`].
    Terminating,
    /// [`UpgradeError::Failed`].
    Failed,
    /// [`UpgradeError::Unsupported`].
    Unsupported,
}

impl Reply {
    pub(crate) fn error(code: Code, message: impl Into<String>) -> Self {
        Self::Error { code, message: message.into() }
    }
}

impl From<UpgradeError> for Reply {
    fn from(error: UpgradeError) -> Self {
        let code = match error {
            UpgradeError::NotReady => Code::NotReady,
            UpgradeError::InProgress => Code::InProgress,
            UpgradeError::PredecessorOnStandby { .. } | UpgradeError::PredecessorDraining => {
                Code::PredecessorDraining
            }
            UpgradeError::SuccessorDraining => Code::SuccessorDraining,
            UpgradeError::Terminating => Code::Terminating,
            UpgradeError::Failed { .. } => Code::Failed,
            UpgradeError::Unsupported => Code::Unsupported,
        };
        Self::error(code, error.to_string())
    }
}

impl From<RevertError> for Reply {
    fn from(error: RevertError) -> Self {
        let code = match error {
            RevertError::NoStandby => Code::NoStandby,
            RevertError::InProgress => Code::InProgress,
            RevertError::Terminating => Code::Terminating,
            RevertError::Failed { .. } => Code::Failed,
            RevertError::Unsupported => Code::Unsupported,
        };
        Self::error(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reply of a release to `status`. A recorded reply is never changed: a service may be older than the installed
    /// program.
    const RECORDED_0_1_0: &str = concat!(
        r#"{"reply":"status","protocol":1,"release":"0.1.0","generation":2,"pid":4711,"version":"1.4.0","phase":"serving","#,
        r#""uptime_ms":3009,"serving_ms":3001,"executable":{"path":"/srv/echo","inode":1234,"modified":1795478400},"#,
        r#""predecessor":4700,"successor":null,"open":17,"generations":[{"generation":1,"pid":4700,"open":3},"#,
        r#"{"generation":2,"pid":4711,"open":17}],"listeners":[{"name":"echo","address":"tcp://127.0.0.1:7000","#,
        r#""taken":90210,"waiting":0,"backlog":4096}],"upgrades":{"done":1,"refused":0,"failed":1,"last_failure":"no"}}"#,
    );

    fn read(line: &str) -> Status {
        match serde_json::from_str(line) {
            Ok(Reply::Status { protocol: 1, status }) => *status,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_release_understands_the_recorded_status() {
        let status = Box::new(read(RECORDED_0_1_0));
        assert_eq!(status.release, "0.1.0");
        let reply = Reply::Status { protocol: 1, status };
        assert_eq!(
            serde_json::to_string(&reply).unwrap(),
            RECORDED_0_1_0,
            "a field is missing in one of the two"
        );
    }

    #[test]
    fn a_status_with_fewer_fields_or_more_is_understood() {
        let least = r#"{"reply":"status","protocol":1,"release":"0.0.9","generation":2,"pid":4711,"phase":"serving"}"#;
        let status = read(least);
        assert_eq!((status.generation, status.pid, status.phase), (2, 4711, Phase::Serving));
        assert_eq!((status.uptime.as_millis(), status.serving, status.open), (0, None, 0));
        assert!(status.generations.is_empty() && status.listeners.is_empty());
        assert_eq!(status.upgrades, crate::base::status::Upgrades::default());

        let older = RECORDED_0_1_0.replace(r#""uptime_ms":3009,"#, "").replace(r#""done":1,"#, "");
        assert_eq!((read(&older).upgrades.done, read(&older).upgrades.failed), (0, 1));
        let later = RECORDED_0_1_0.replace(r#""open":17,"#, r#""open":17,"mood":"good","#);
        assert_eq!(read(&later), read(RECORDED_0_1_0));
        let later = RECORDED_0_1_0.replace(r#""phase":"serving""#, r#""phase":"dancing""#);
        assert_eq!(read(&later).phase, Phase::Unknown);
    }
}
