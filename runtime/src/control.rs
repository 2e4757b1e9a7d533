//! The control socket: what operators say to a running service, and what it answers, as lines of JSON.
//!
//! The program `tableflip` (feature `cli`) speaks it, and so can any other: `docs/control.md` in the repository has the
//! conversation, these types have its lines.

#[cfg(upgrades)]
mod client;
#[cfg(upgrades)]
mod server;

use serde::{Deserialize, Serialize};

use crate::error::UpgradeError;
use crate::status::{Phase, Status};

#[cfg(upgrades)]
pub(crate) use self::server::{Change, Control, NAME, News};

/// The version of the protocol; it changes when an old client would misread a reply.
pub const PROTOCOL: u32 = 1;

/// A line of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// How the process stands.
    Status,
    /// The same at once, after every change and once a second.
    Watch,
    /// Replace the process.
    Upgrade,
    /// Stop it gracefully.
    Stop,
}

/// A line of the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reply {
    /// To `status` and `watch`.
    Status {
        /// Of the protocol.
        protocol: u32,
        /// Of the crate.
        release: String,
        /// The answer.
        #[serde(flatten)]
        status: Box<Status>,
    },
    /// To `upgrade` and `stop`: what has begun.
    Phase {
        /// Which phase.
        phase: Phase,
        /// The process ID of the successor, if there is one.
        successor: Option<u32>,
        /// Since the request, in milliseconds.
        elapsed_ms: u64,
    },
    /// To `upgrade`: it is done.
    Upgraded {
        /// Of the successor.
        generation: u64,
        /// Its process ID.
        pid: u32,
        /// From the request to the successor serving, in milliseconds.
        elapsed_ms: u64,
    },
    /// To `stop`: it was heard. The end of the connection is that of the process.
    Stopping,
    /// It did not happen.
    Error {
        /// What kind of error it is.
        code: Code,
        /// Why, in words.
        message: String,
    },
}

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Code {
    /// The line is no request.
    BadRequest,
    /// The other process is of another user.
    Denied,
    /// As many clients as are served at once.
    Busy,
    /// [`UpgradeError::NotReady`].
    NotReady,
    /// [`UpgradeError::InProgress`].
    InProgress,
    /// [`UpgradeError::PredecessorDraining`].
    PredecessorDraining,
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
            UpgradeError::PredecessorDraining => Code::PredecessorDraining,
            UpgradeError::Terminating => Code::Terminating,
            UpgradeError::Failed { .. } => Code::Failed,
            UpgradeError::Unsupported => Code::Unsupported,
        };
        Self::error(code, error.to_string())
    }
}
