//! The builder of a service. `settings.rs` checks the declared values when the service starts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::identity::Identity;
#[cfg(upgrades)]
use crate::base::limits::is_name;
use crate::config::convert::{DeclaredAddress, IntoAddress, IntoControl, IntoDuration};

/// A service, with its listeners and options. The attribute expands to a call of this builder.
///
/// ```no_run
/// use std::process::ExitCode;
/// use tableflip::{Service, net::TcpListener};
///
/// fn main() -> ExitCode {
///     Service::new()
///         .pidfile("/run/echo.pid")
///         .listen("echo", "tcp://127.0.0.1:7000")
///         .run(|start| {
///             let echo: TcpListener = start.listener("echo")?;
///             Ok(async move {
///                 while let Ok((mut stream, _peer)) = echo.accept().await {
///                     tokio::spawn(async move {
///                         let (mut read, mut write) = stream.split();
///                         tokio::io::copy(&mut read, &mut write).await
///                     });
///                 }
///             })
///         })
/// }
/// ```
///
/// An environment variable wins over the declared value. The [crate documentation](crate) lists the variables.
#[derive(Debug)]
#[must_use = "a service does nothing until it is run"]
pub struct Service {
    pub(super) listeners: Vec<(String, DeclaredAddress)>,
    pub(super) pidfile: Option<PathBuf>,
    pub(super) control: Option<Result<OsString, String>>,
    pub(super) upgrade_timeout: Result<Duration, String>,
    pub(super) probation: Result<Duration, String>,
    pub(super) drain_timeout: Result<Duration, String>,
    pub(super) upgrade_signal: String,
    pub(super) overlap: String,
    pub(super) supervise: String,
    pub(super) preflight: Option<OsString>,
    pub(super) version: Option<String>,
    pub(super) identity: Identity,
    #[cfg(feature = "tokio")]
    pub(crate) flavor: Flavor,
    #[cfg(feature = "tokio")]
    pub(crate) worker_threads: Option<usize>,
}

/// The kind of tokio runtime that an `async fn main` runs on.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flavor {
    /// `flavor = "multi_thread"`: a pool of threads, one for each core or as many as `worker_threads` says.
    #[default]
    MultiThread,
    /// `flavor = "current_thread"`: the thread of `main` alone.
    CurrentThread,
}

impl Service {
    /// A service without listeners, with the default of every option.
    pub fn new() -> Self {
        Self {
            listeners: Vec::new(),
            pidfile: None,
            control: None,
            upgrade_timeout: Ok(Duration::from_secs(60)),
            probation: Ok(Duration::from_secs(3)),
            drain_timeout: Ok(Duration::from_secs(30)),
            upgrade_signal: "SIGHUP".to_owned(),
            overlap: "refuse".to_owned(),
            supervise: "auto".to_owned(),
            preflight: None,
            version: None,
            identity: Identity::default(),
            #[cfg(feature = "tokio")]
            flavor: Flavor::default(),
            #[cfg(feature = "tokio")]
            worker_threads: None,
        }
    }

    /// The name of the service: 1 to 64 letters, digits, `_` and `-`. Default: none.
    ///
    /// Releases with different names are different services, and neither replaces the other. With the same name, a
    /// successor may adopt none of its predecessor's listeners. Without a name, an upgrade to another binary is logged
    /// as a warning.
    ///
    /// No environment variable overrides the name: a successor inherits the environment, whatever program it is.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.identity.name = Some(name.into());
        self
    }

    /// Declares a listener. The name has letters, digits, `_` and `-`. The address is an [`Address`](crate::Address) or
    /// its text.
    pub fn listen(mut self, name: impl Into<String>, address: impl IntoAddress) -> Self {
        self.listeners.push((name.into(), address.into_address()));
        self
    }

    /// The pid file: it names the process that serves. A relative path is relative to the first working directory.
    pub fn pidfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.pidfile = Some(path.into());
        self
    }

    /// The path of the control socket, or `false` for none. `tableflip upgrade` and `tableflip status` connect to it. A
    /// relative path is relative to the first working directory.
    ///
    /// Default: the pid file with the extension `control`; none without a pid file. The control socket exists on Linux
    /// only.
    pub fn control(mut self, path: impl IntoControl) -> Self {
        self.control = Some(path.into_control());
        self
    }

    /// The time in which a successor must become ready. Default: 60 s.
    pub fn upgrade_timeout(mut self, timeout: impl IntoDuration) -> Self {
        self.upgrade_timeout = timeout.into_duration();
        self
    }

    /// The probation: how long a successor that serves is watched. If it dies in this time, its predecessor serves
    /// again. Default: 3 s.
    pub fn probation(mut self, probation: impl IntoDuration) -> Self {
        self.probation = probation.into_duration();
        self
    }

    /// The time in which open connections may finish after this process is replaced or stopped. Default: 30 s.
    pub fn drain_timeout(mut self, timeout: impl IntoDuration) -> Self {
        self.drain_timeout = timeout.into_duration();
        self
    }

    /// The signal that starts an upgrade: `SIGHUP`, `SIGUSR1`, `SIGUSR2`, `SIGQUIT` or `SIGWINCH`. Default: `SIGHUP`.
    pub fn upgrade_signal(mut self, name: impl Into<String>) -> Self {
        self.upgrade_signal = name.into();
        self
    }

    /// What a request for an upgrade does while the predecessor still drains. Default: `refuse`.
    ///
    /// * `refuse` fails with [`PredecessorDraining`](crate::UpgradeError::PredecessorDraining).
    /// * `wait` starts the upgrade once the predecessor is gone.
    /// * `hasten` does the same, and ends the predecessor's drain within 1 s.
    pub fn overlap(mut self, overlap: impl Into<String>) -> Self {
        self.overlap = overlap.into();
        self
    }

    /// Whether the first process stays as the supervisor of the generations, with its process ID. `auto` does so if it
    /// is PID 1, as in a container. The other values are `always` and `never`. Default: `auto`.
    ///
    /// The supervisor forwards signals to the generation that serves and reaps orphans. It exits with the status of the
    /// last generation.
    pub fn supervise(mut self, when: impl Into<String>) -> Self {
        self.supervise = when.into();
        self
    }

    /// A command that checks the new release before a successor is started. Default: none.
    ///
    /// It runs as `sh -c command` in the first working directory. `"$0"` is the executable, and `"$@"` are the
    /// arguments of this process. With a status other than 0 the upgrade fails with the command's output, and this
    /// process goes on serving.
    ///
    /// The command shares the time of [`upgrade_timeout`](Self::upgrade_timeout). After that time its process group is
    /// killed.
    pub fn preflight(mut self, command: impl Into<OsString>) -> Self {
        self.preflight = Some(command.into());
        self
    }

    /// The version of the service, for its [status](crate::Status). The attribute sets the version of the package.
    pub fn version<'a>(mut self, version: impl Into<Option<&'a str>>) -> Self {
        self.version = version.into().map(str::to_owned);
        self
    }

    /// What the attribute knows of the package and the binary.
    #[doc(hidden)]
    pub fn package(mut self, package: Package) -> Self {
        self.identity.program = package.binary.or(package.name).map(str::to_owned);
        self.version(package.version)
    }

    /// The flavor of the tokio runtime. Default: multi-thread.
    #[cfg(feature = "tokio")]
    pub fn flavor(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// The number of threads of a multi-thread runtime. Default: one for each core.
    #[cfg(feature = "tokio")]
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = Some(threads);
        self
    }

    /// The identity for the first message to a predecessor. That message is sent before the options are checked, so an
    /// invalid name is left out.
    #[cfg(upgrades)]
    pub(crate) fn identity(&self) -> Identity {
        let name = self.identity.name.clone().filter(|name| is_name(name));
        Identity { name, ..self.identity.clone() }
    }
}

impl Default for Service {
    fn default() -> Self {
        Self::new()
    }
}

/// The package and the binary that the attribute is compiled for.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "it is no public interface")]
pub struct Package {
    pub version: Option<&'static str>,
    pub binary: Option<&'static str>,
    pub name: Option<&'static str>,
}
