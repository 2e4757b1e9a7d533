//! The errors of the public interface.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

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
    /// The predecessor is on standby: in the probation it serves again if this process dies. Then it drains.
    #[error("the predecessor is on standby for {} more, to serve again if this process dies", in_seconds(*.remaining))]
    #[non_exhaustive]
    PredecessorOnStandby {
        /// How much longer the probation lasts.
        remaining: Duration,
    },
    /// The predecessor of this process still drains its connections.
    #[error("the predecessor is still draining")]
    PredecessorDraining,
    /// A successor that has served still lives, while this process serves again: it was reverted and finishes its connections, or its
    /// body has returned.
    #[error("a successor that has served is still draining")]
    SuccessorDraining,
    /// This process has been replaced, or is stopping.
    #[error("this process is terminating")]
    Terminating,
    /// The upgrade failed in one of its steps.
    #[error("{reason}")]
    #[non_exhaustive]
    Failed {
        /// The step that failed.
        step: UpgradeStep,
        /// The reason, in words.
        reason: String,
    },
}

/// A step of an upgrade, in which it can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum UpgradeStep {
    /// The check of the new release by the option `preflight`.
    Preflight,
    /// The start of the process of the successor.
    Spawn,
    /// The start of the service in the successor: it exited, reported an error, or went into the background.
    Start,
    /// The comparison of both services: the successor is another service.
    Identity,
    /// The time for the successor to become ready.
    Readiness,
    /// The probe of the prepared successor by the option `probe`.
    Probe,
    /// The handover: the channel between the processes broke, or the successor gave no answer.
    Handover,
    /// The verification of the successor by the option `verify`.
    Verify,
    /// The probation: the successor ended, or gave no sign of life.
    Probation,
    /// A revert ended the upgrade: an operator or the body has asked for it.
    Revert,
    /// A stop of the service ended the upgrade.
    Stop,
    /// A step of a later release, in a status.
    #[serde(other)]
    Unknown,
}

/// Why a revert did not happen. The process that served goes on serving, unless the service is stopping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevertError {
    /// This platform cannot upgrade.
    #[error("upgrades are not supported on this platform")]
    Unsupported,
    /// No process is on standby: there was no upgrade, or its probation is over.
    #[error(
        "no process is on standby: there was no upgrade, its successor does not serve yet, or its probation is over"
    )]
    NoStandby,
    /// A revert is in progress.
    #[error("a revert is in progress")]
    InProgress,
    /// This process has been replaced, or the service is stopping.
    #[error("this process is terminating")]
    Terminating,
    /// The other process did not do its part.
    #[error("{reason}")]
    #[non_exhaustive]
    Failed {
        /// The reason, in words.
        reason: String,
    },
}

/// A time in whole seconds, at least one.
fn in_seconds(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(
        time.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX),
    ))
}

/// Why a service could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A `TABLEFLIP_` variable has an unusable value or is unknown, or a variable of the service manager has an
    /// unusable value.
    #[error("environment variable `{variable}`: {problem}")]
    #[non_exhaustive]
    Environment {
        /// The name of the variable.
        variable: String,
        /// What is wrong.
        problem: String,
    },
    /// An option of the service has an unusable value.
    #[error("option `{option}`: {problem}")]
    #[non_exhaustive]
    Option {
        /// The name of the option.
        option: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A listen address does not parse.
    #[error("listener `{listener}`: `{text}` is no address")]
    #[non_exhaustive]
    Address {
        /// The name of the listener.
        listener: String,
        /// The text of the address.
        text: String,
        /// What is wrong with the text.
        source: ParseAddressError,
    },
    /// A listener could not be bound.
    #[error("listener `{listener}`: cannot {action} {address}")]
    #[non_exhaustive]
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
    #[non_exhaustive]
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
    #[non_exhaustive]
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
    #[error("cannot {action}")]
    #[non_exhaustive]
    System {
        /// The call that failed, as a verb.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The service's own error: of its configuration, or of the preparation of its body.
    #[error(transparent)]
    Service(Box<dyn Error + Send + Sync>),
}

/// Why [`Upgrader::pass_on`](crate::Upgrader::pass_on) does not pass a descriptor on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassOnError {
    /// The name is too long.
    #[error("the name of the descriptor has {length} bytes; it may have at most {limit}")]
    #[non_exhaustive]
    LongName {
        /// The length of the name, in bytes.
        length: usize,
        /// The greatest length.
        limit: usize,
    },
    /// The name has a NUL. Such names belong to this crate.
    #[error("the name {name:?} has a NUL, as the names of tableflip's own descriptors have")]
    #[non_exhaustive]
    ReservedName {
        /// The name.
        name: String,
    },
    /// An offer has no room for another descriptor.
    #[error("{limit} descriptors are passed on, and there is no room for another; withdraw one")]
    #[non_exhaustive]
    TooMany {
        /// The greatest number.
        limit: usize,
    },
}

/// Any error that ends the preparation of a service: `?` makes it from an error that is `Send + Sync`, from a text, and
/// from the error types of `anyhow` and `eyre`. (`Box<dyn Error>` is not `Send + Sync`, `Box<dyn Error + Send + Sync>` is.)
///
/// It becomes a [`StartError`]: this crate's own errors stay as they are, others become [`StartError::Service`].
///
/// ```
/// # use tableflip::{Service, net::TcpListener};
/// # fn run() -> std::process::ExitCode {
/// Service::new().listen("http", "tcp://127.0.0.1:7000").run(|start| {
///     let http: TcpListener = start.listener("http")?;
///     let page = std::fs::read_to_string("/srv/index.html")?;
///     if page.is_empty() {
///         return Err("/srv/index.html is empty".into());
///     }
///     Ok(async move { drop((http, page)) })
/// })
/// # }
/// ```
// It is no `std::error::Error`: then the conversion from any error would conflict with that from itself, as in `anyhow::Error`.
pub struct Failure(StartError);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(match error.into().downcast::<StartError>() {
            Ok(error) => *error,
            Err(error) => StartError::Service(error),
        })
    }
}

impl Failure {
    /// The error of the start. (A `From` for [`StartError`] would make `?` ambiguous in every closure that returns one.)
    pub fn into_error(self) -> StartError {
        self.0
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&self.0))
    }
}

/// The text of an error and of its sources. Some errors of other crates quote their source: it is not repeated.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// Why a text is not the value of an option: the values that the option has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expected}")]
pub struct ParseOptionError {
    expected: String,
}

impl ParseOptionError {
    pub(crate) fn new(expected: String) -> Self {
        Self { expected }
    }
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
