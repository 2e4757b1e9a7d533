//! The errors of the public interface.

use std::io;
use std::path::PathBuf;

use crate::base::address::{Address, ParseAddressError};

/// Why an upgrade did not happen. The process that was asked serves on, unless it is stopping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// This platform cannot upgrade.
    #[error("upgrades are not supported on this platform")]
    Unsupported,
    /// This process is not ready itself.
    #[error("this process is not ready yet")]
    NotReady,
    /// An upgrade is under way.
    #[error("an upgrade is in progress")]
    InProgress,
    /// The process before this one has not finished its connections.
    #[error("the predecessor is still draining")]
    PredecessorDraining,
    /// This process has been replaced or told to stop.
    #[error("this process is terminating")]
    Terminating,
    /// The successor could not be started, or did not make it through its start and its probation.
    #[error("{reason}")]
    Failed {
        /// What happened, in words.
        reason: String,
    },
}

/// Why a service could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An environment variable of ours has a value that cannot be used, or is none of ours at all.
    #[error("environment variable `{variable}`: {problem}")]
    Environment {
        /// Its name.
        variable: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An option of the service has a value that cannot be used.
    #[error("option `{option}`: {problem}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A listen address does not parse.
    #[error("listener `{listener}`: `{text}`: {source}")]
    Address {
        /// The name of the listener.
        listener: String,
        /// The address as it was given.
        text: String,
        /// What is wrong with it.
        source: ParseAddressError,
    },
    /// A listener could not be bound.
    #[error("listener `{listener}`: cannot {action} {address}: {source}")]
    Bind {
        /// The name of the listener.
        listener: String,
        /// Where.
        address: Box<Address>,
        /// What failed.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The pid file is that of a service which runs.
    #[error(
        "the pid file {} names process {pid}, a running {}; upgrade or stop that one, or give this one a pid file of its own",
        path.display(),
        program.display()
    )]
    Running {
        /// The pid file.
        path: PathBuf,
        /// The process that it names.
        pid: u32,
        /// What that runs.
        program: PathBuf,
    },
    /// Two listeners have one name or one address, or a body asks for one that is not declared.
    #[error("listener `{listener}`: {problem}")]
    Listener {
        /// The name of the listener.
        listener: String,
        /// What is wrong.
        problem: String,
    },
    /// The predecessor's offer cannot be taken.
    #[error("cannot take over from the predecessor: {0}")]
    Handover(String),
    /// The body never said that it is ready.
    #[error("not ready: {0}")]
    NotReady(String),
    /// A call to the system failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What failed.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

impl StartError {
    /// A listener that is declared in vain.
    pub(crate) fn not_taken(name: &str) -> Self {
        let problem = "it is declared, and the body does not take it".to_owned();
        Self::Listener { listener: name.to_owned(), problem }
    }

    /// For `map_err`: what was being done when the system said no.
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> StartError {
        move |source| StartError::System { action, source: source.into() }
    }
}
