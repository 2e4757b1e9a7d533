//! The errors of the public interface.

use std::io;
use std::path::PathBuf;

use crate::base::address::{Address, ParseAddressError};

/// Why an upgrade did not happen. The process that received the request goes on serving, unless it is stopping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// This platform cannot upgrade.
    #[error("upgrades are not supported on this platform")]
    Unsupported,
    /// This process is not ready yet.
    #[error("this process is not ready yet")]
    NotReady,
    /// Another upgrade is in progress.
    #[error("an upgrade is in progress")]
    InProgress,
    /// The predecessor of this process still drains its connections.
    #[error("the predecessor is still draining")]
    PredecessorDraining,
    /// This process has been replaced, or is stopping.
    #[error("this process is terminating")]
    Terminating,
    /// The successor could not be started, or failed in its start or in its probation.
    #[error("{reason}")]
    Failed {
        /// The reason, in words.
        reason: String,
    },
}

/// Why a service could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A `TABLEFLIP_` variable has an unusable value or is unknown, or a variable of the service manager has an
    /// unusable value.
    #[error("environment variable `{variable}`: {problem}")]
    Environment {
        /// The name of the variable.
        variable: String,
        /// What is wrong.
        problem: String,
    },
    /// An option of the service has an unusable value.
    #[error("option `{option}`: {problem}")]
    Option {
        /// The name of the option.
        option: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A listen address does not parse.
    #[error("listener `{listener}`: `{text}`: {source}")]
    Address {
        /// The name of the listener.
        listener: String,
        /// The text of the address.
        text: String,
        /// What is wrong with the text.
        source: ParseAddressError,
    },
    /// A listener could not be bound.
    #[error("listener `{listener}`: cannot {action} {address}: {source}")]
    Bind {
        /// The name of the listener.
        listener: String,
        /// The address.
        address: Box<Address>,
        /// The call that failed, as a verb.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The pid file names another service, which is running.
    #[error(
        "the pid file {} names process {pid}, a running {}; upgrade or stop that one, or give this one a pid file of its own",
        path.display(),
        program.display()
    )]
    Running {
        /// The pid file.
        path: PathBuf,
        /// The process that the pid file names.
        pid: u32,
        /// The executable of that process.
        program: PathBuf,
    },
    /// Two listeners have the same name or address, or the body asks for a listener that is not declared.
    #[error("listener `{listener}`: {problem}")]
    Listener {
        /// The name of the listener.
        listener: String,
        /// What is wrong.
        problem: String,
    },
    /// The successor cannot use the predecessor's offer.
    #[error("cannot take over from the predecessor: {0}")]
    Handover(String),
    /// The body never reported readiness.
    #[error("not ready: {0}")]
    NotReady(String),
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// The call that failed, as a verb.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

/// Why [`Upgrader::pass_on`](crate::Upgrader::pass_on) does not pass a descriptor on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassOnError {
    /// The name is too long.
    #[error("the name of the descriptor has {length} bytes; it may have at most {limit}")]
    LongName {
        /// The length of the name, in bytes.
        length: usize,
        /// The greatest length.
        limit: usize,
    },
    /// The name has a NUL. Such names belong to this crate.
    #[error("the name {name:?} has a NUL, as the names of tableflip's own descriptors have")]
    ReservedName {
        /// The name.
        name: String,
    },
    /// An offer has no room for another descriptor.
    #[error("{limit} descriptors are passed on, and there is no room for another; withdraw one")]
    TooMany {
        /// The greatest number.
        limit: usize,
    },
}

impl StartError {
    /// A listener is declared, and the body does not take it.
    pub(crate) fn not_taken(name: &str) -> Self {
        let problem = "it is declared, and the body does not take it".to_owned();
        Self::Listener { listener: name.to_owned(), problem }
    }

    /// An error of the system, for `map_err`. `action` is what this process was doing.
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> StartError {
        move |source| StartError::System { action, source: source.into() }
    }
}
