//! The builder of a service. `settings.rs` checks what it declares when the service starts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::limits::Identity;
#[cfg(upgrades)]
use crate::base::limits::is_name;
use crate::config::convert::{DeclaredAddress, IntoAddress, IntoControl, IntoDuration};

/// A service: what the attribute says, and what it expands to.
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
/// An environment variable, where set, wins over what is said here; the [crate documentation](crate) lists them.
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

/// Which runtime of tokio an `async fn main` runs on.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flavor {
    /// `flavor = "multi_thread"`: a pool of threads, as many as the machine has cores or as `worker_threads` says.
    #[default]
    MultiThread,
    /// `flavor = "current_thread"`: the thread of `main` alone.
    CurrentThread,
}

impl Service {
    /// A service without listeners, with the defaults of every option.
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

    /// What the service is called: 1 to 64 letters, digits, `_` and `-`. Two releases with different names are different
    /// services, and neither replaces the other. Two of the same name are one service: only then may a successor adopt none of
    /// the listeners of its predecessor. Default: none; the attribute knows the binary, and an upgrade to another one is
    /// warned of. No variable of the environment overrides it, because a successor inherits the environment whatever program it is.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.identity.name = Some(name.into());
        self
    }

    /// Declares a listener: a name of letters, digits, `_` and `-`, and an [`Address`] or a text that is one.
    pub fn listen(mut self, name: impl Into<String>, address: impl IntoAddress) -> Self {
        self.listeners.push((name.into(), address.into_address()));
        self
    }

    /// The file that names the process that serves. A relative path is relative to the first working directory.
    pub fn pidfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.pidfile = Some(path.into());
        self
    }

    /// The path of the control socket, through which `tableflip upgrade` and `tableflip status` talk to the service, or
    /// `false` for none. A relative path is relative to the first working directory. Default: the pid file with the
    /// extension `control`; none without a pid file. Only Linux has it.
    pub fn control(mut self, path: impl IntoControl) -> Self {
        self.control = Some(path.into_control());
        self
    }

    /// How long a successor may take to become ready. Default: 60 s.
    pub fn upgrade_timeout(mut self, timeout: impl IntoDuration) -> Self {
        self.upgrade_timeout = timeout.into_duration();
        self
    }

    /// How long a successor that serves is watched; if it dies meanwhile, this process serves again. Default: 3 s.
    pub fn probation(mut self, probation: impl IntoDuration) -> Self {
        self.probation = probation.into_duration();
        self
    }

    /// How long open connections may take to finish once this process is replaced or stopped. Default: 30 s.
    pub fn drain_timeout(mut self, timeout: impl IntoDuration) -> Self {
        self.drain_timeout = timeout.into_duration();
        self
    }

    /// The signal that starts an upgrade: `SIGHUP`, `SIGUSR1`, `SIGUSR2`, `SIGQUIT` or `SIGWINCH`. Default: `SIGHUP`.
    pub fn upgrade_signal(mut self, name: impl Into<String>) -> Self {
        self.upgrade_signal = name.into();
        self
    }

    /// What a further upgrade does while the predecessor is still there: `refuse` answers
    /// [`PredecessorDraining`](crate::UpgradeError::PredecessorDraining), `wait` starts it once the predecessor is gone,
    /// and `hasten` has the predecessor's drain end within 1 s as well. Default: `refuse`.
    pub fn overlap(mut self, overlap: impl Into<String>) -> Self {
        self.overlap = overlap.into();
        self
    }

    /// Whether the process that was started stays as the parent of the generations, with its process ID, for whoever watches
    /// that: `auto` if it is PID 1, as in a container; `always`; `never`. It passes on what signals it gets to the generation
    /// that serves, reaps orphans, and exits with the status of the last generation. Default: `auto`.
    pub fn supervise(mut self, when: impl Into<String>) -> Self {
        self.supervise = when.into();
        self
    }

    /// A command that checks the new release before a successor is started: `sh -c command`, with the executable as
    /// `"$0"` and the arguments of this process as `"$@"`, in the first working directory. Where it ends with another
    /// status than 0, the upgrade fails with what it wrote, and this process serves on. It is part of the time of
    /// [`upgrade_timeout`](Self::upgrade_timeout), after which it is killed with its process group. Default: none.
    pub fn preflight(mut self, command: impl Into<OsString>) -> Self {
        self.preflight = Some(command.into());
        self
    }

    /// The version of the service, for its [status](crate::Status). The attribute states that of the package.
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

    /// The runtime of tokio. Default: multi-thread.
    #[cfg(feature = "tokio")]
    pub fn flavor(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// The threads of a multi-thread runtime. Default: one for each core.
    #[cfg(feature = "tokio")]
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = Some(threads);
        self
    }

    /// For the first word to a predecessor, which is said before anything is checked: without a name that is none.
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

/// What the attribute knows of the package and the binary that it is compiled for.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "it is no public interface")]
pub struct Package {
    pub version: Option<&'static str>,
    pub binary: Option<&'static str>,
    pub name: Option<&'static str>,
}
