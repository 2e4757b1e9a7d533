//! The builder of a service. `settings.rs` checks the declared values when the service starts.

use std::ffi::OsString;
#[cfg(feature = "tokio")]
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::address::Address;
use crate::base::error::StartError;
use crate::base::identity::Identity;
#[cfg(upgrades)]
use crate::base::limits::is_name;
use crate::base::probe::Probe;
#[cfg(feature = "tokio")]
use crate::config::choices::Flavor;
use crate::config::choices::{Supervise, UpgradeSignal};
use crate::config::convert::{ControlPath, Declared, Setting, declared};
use crate::lifecycle::Overlap;

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
    /// A listener whose address is `None` is not opened.
    pub(super) listeners: Vec<(String, Declared<Address>)>,
    pub(super) pidfile: Option<PathBuf>,
    pub(super) control: Option<ControlPath>,
    pub(super) upgrade_timeout: Duration,
    pub(super) probation: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) upgrade_signal: UpgradeSignal,
    pub(super) overlap: Overlap,
    pub(super) supervise: Supervise,
    pub(super) preflight: Option<OsString>,
    pub(super) probe: Option<Probe>,
    pub(super) verify: Option<OsString>,
    pub(super) version: Option<String>,
    pub(super) identity: Identity,
    /// The options with an unusable value. The start reports the first of them that no variable overrides.
    pub(super) unusable: Vec<(&'static str, StartError)>,
    #[cfg(feature = "tokio")]
    pub(crate) tokio: Tokio,
}

/// How the runtime of an `async fn main` is built.
#[cfg(feature = "tokio")]
#[derive(Default)]
pub(crate) struct Tokio {
    pub(crate) flavor: Flavor,
    pub(crate) worker_threads: Option<usize>,
    pub(crate) hook: Option<Hook>,
}

#[cfg(feature = "tokio")]
type Hook = Box<dyn FnOnce(&mut tokio::runtime::Builder) + Send + Sync>;

#[cfg(feature = "tokio")]
impl fmt::Debug for Tokio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokio")
            .field("flavor", &self.flavor)
            .field("worker_threads", &self.worker_threads)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// A service without listeners, with the default of every option.
    pub fn new() -> Self {
        Self {
            listeners: Vec::new(),
            pidfile: None,
            control: None,
            upgrade_timeout: Duration::from_secs(60),
            probation: Duration::from_secs(3),
            drain_timeout: Duration::from_secs(30),
            upgrade_signal: UpgradeSignal::default(),
            overlap: Overlap::default(),
            supervise: Supervise::default(),
            preflight: None,
            probe: None,
            verify: None,
            version: None,
            identity: Identity::default(),
            unusable: Vec::new(),
            #[cfg(feature = "tokio")]
            tokio: Tokio::default(),
        }
    }

    /// The name of the service: 1 to 64 letters, digits, `_` and `-`. Default: none.
    ///
    /// Releases with different names are different services, and neither replaces the other. With the same name, a
    /// successor may adopt none of its predecessor's listeners. Without a name, an upgrade to another binary is logged
    /// as a warning.
    ///
    /// No environment variable overrides the name: a successor inherits the environment, whatever program it is.
    pub fn name(mut self, name: impl Setting<String>) -> Self {
        if let Some(name) = self.value("name", name) {
            self.identity.name = Some(name);
        }
        self
    }

    /// Declares a listener. The name has letters, digits, `_` and `-`. The address is an [`Address`], a text, a
    /// [`SocketAddr`](std::net::SocketAddr) or the path of a Unix socket.
    ///
    /// With the address `None` the listener is not opened. The body takes an optional listener as an `Option`:
    ///
    /// ```no_run
    /// # use tableflip::{Service, net::TcpListener};
    /// # let admin: Option<std::net::SocketAddr> = None;
    /// Service::new().listen("admin", admin).run(|start| {
    ///     let admin: Option<TcpListener> = start.listener("admin")?;
    ///     Ok(async move { drop(admin) })
    /// });
    /// ```
    pub fn listen(mut self, name: impl Into<String>, address: impl Setting<Address>) -> Self {
        self.listeners.push((name.into(), declared(address)));
        self
    }

    /// The pid file: it names the process that serves. A relative path is relative to the first working directory.
    pub fn pidfile(mut self, path: impl Setting<PathBuf>) -> Self {
        self.pidfile = self.value("pidfile", path).or(self.pidfile);
        self
    }

    /// The path of the control socket, or `false` for none. `tableflip upgrade` and `tableflip status` connect to it. A
    /// relative path is relative to the first working directory.
    ///
    /// Default: the pid file with the extension `control`; none without a pid file. The control socket exists on Linux
    /// only.
    pub fn control(mut self, path: impl Setting<ControlPath>) -> Self {
        self.control = self.value("control", path).or(self.control);
        self
    }

    /// The time in which a successor must become ready. Default: 60 s.
    pub fn upgrade_timeout(mut self, timeout: impl Setting<Duration>) -> Self {
        self.upgrade_timeout = self.value("upgrade_timeout", timeout).unwrap_or(self.upgrade_timeout);
        self
    }

    /// The probation: how long a successor that serves is watched. If it dies in this time, its predecessor serves
    /// again. Default: 3 s.
    pub fn probation(mut self, probation: impl Setting<Duration>) -> Self {
        self.probation = self.value("probation", probation).unwrap_or(self.probation);
        self
    }

    /// The time in which open connections may finish after this process is replaced or stopped. Default: 30 s.
    pub fn drain_timeout(mut self, timeout: impl Setting<Duration>) -> Self {
        self.drain_timeout = self.value("drain_timeout", timeout).unwrap_or(self.drain_timeout);
        self
    }

    /// The signal that starts an upgrade. Default: SIGHUP.
    pub fn upgrade_signal(mut self, signal: impl Setting<UpgradeSignal>) -> Self {
        self.upgrade_signal = self.value("upgrade_signal", signal).unwrap_or(self.upgrade_signal);
        self
    }

    /// What a request for an upgrade does while the predecessor still drains. Default: [`Overlap::Refuse`].
    pub fn overlap(mut self, overlap: impl Setting<Overlap>) -> Self {
        self.overlap = self.value("overlap", overlap).unwrap_or(self.overlap);
        self
    }

    /// Whether the first process stays as the supervisor of the generations, with its process ID. Default:
    /// [`Supervise::Auto`].
    ///
    /// The supervisor forwards signals to the generation that serves and reaps orphans. It exits with the status of the
    /// last generation.
    pub fn supervise(mut self, when: impl Setting<Supervise>) -> Self {
        self.supervise = self.value("supervise", when).unwrap_or(self.supervise);
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
    pub fn preflight(mut self, command: impl Setting<OsString>) -> Self {
        self.preflight = self.value("preflight", command).or(self.preflight);
        self
    }

    /// A request that the successor must answer before it serves. Default: none.
    ///
    /// The text is `GET /path`, for the first declared TCP or Unix stream listener. The name of another listener may stand
    /// before it, and the expected status after it: `http GET /healthz 204`. Without a status any from 200 to 299 passes.
    ///
    /// Once the successor is ready, this process makes one connection, gives one end to the successor, and sends an
    /// HTTP/1.1 request on the other end. The body of the successor accepts this connection like any other, although no
    /// client reaches it yet. With another answer, or with none in the time of
    /// [`upgrade_timeout`](Self::upgrade_timeout), the upgrade fails. No client has seen the successor then.
    ///
    /// The listener must be of a managed type, and must speak HTTP without TLS.
    pub fn probe(mut self, probe: impl Setting<Probe>) -> Self {
        self.probe = self.value("probe", probe).or(self.probe);
        self
    }

    /// A command that checks a successor while it serves on probation. Default: none.
    ///
    /// This process runs it as [`preflight`](Self::preflight) is run: as soon as the successor serves, and again one second
    /// after the end of each run. The probation does not end before one run has ended with status 0, not even a probation of
    /// 0 s. With another status, or after more than [`upgrade_timeout`](Self::upgrade_timeout), the successor gives
    /// the service back and drains, and this process serves again. The output of the command is the reason.
    ///
    /// Besides the environment of the preflight command, the command has these variables:
    ///
    /// | variable | value |
    /// |---|---|
    /// | `TABLEFLIP_PID` | the process ID of the successor |
    /// | `TABLEFLIP_GENERATION` | the generation of the successor |
    /// | `TABLEFLIP_PREDECESSOR` | the process ID of this process |
    /// | `TABLEFLIP_ADDRESS_<NAME>` | the bound address of each listener that the successor has adopted, such as `127.0.0.1:7000` or `/run/echo.sock`; in `NAME` letters are in upper case, and `_` stands for every other character that is no digit |
    pub fn verify(mut self, command: impl Setting<OsString>) -> Self {
        self.verify = self.value("verify", command).or(self.verify);
        self
    }

    /// The version of the service, for its [status](crate::Status). The attribute sets the version of the package.
    pub fn version(mut self, version: impl Setting<String>) -> Self {
        self.version = self.value("version", version).or(self.version);
        self
    }

    /// The value of an option. `None` leaves the option as it is. The start reports an unusable value.
    fn value<T>(&mut self, option: &'static str, value: impl Setting<T>) -> Option<T> {
        declared(value).unwrap_or_else(|unusable| {
            self.unusable.push((option, unusable.of_option(option)));
            None
        })
    }

    /// What the attribute knows of the package and the binary.
    #[doc(hidden)]
    pub fn package(mut self, package: Package) -> Self {
        self.identity.program = package.binary.or(package.name).map(str::to_owned);
        self.version(package.version)
    }

    /// The flavor of the tokio runtime. Default: multi-thread.
    #[cfg(feature = "tokio")]
    pub fn flavor(mut self, flavor: impl Setting<Flavor>) -> Self {
        self.tokio.flavor = self.value("flavor", flavor).unwrap_or(self.tokio.flavor);
        self
    }

    /// The number of threads of a multi-thread runtime. Default: one for each core.
    #[cfg(feature = "tokio")]
    pub fn worker_threads(mut self, threads: impl Setting<usize>) -> Self {
        self.tokio.worker_threads = self.value("worker_threads", threads).or(self.tokio.worker_threads);
        self
    }

    /// Changes the builder of the tokio runtime: the names and the stacks of its threads, its metrics. The builder has the
    /// flavor and the number of threads by then. After the call the drivers for I/O and time are enabled, and the runtime is
    /// built.
    ///
    /// ```no_run
    /// # let service = tableflip::Service::new();
    /// service.runtime(|builder| {
    ///     builder.thread_name("http").max_blocking_threads(64);
    /// })
    /// # ;
    /// ```
    #[cfg(feature = "tokio")]
    pub fn runtime(
        mut self,
        change: impl FnOnce(&mut tokio::runtime::Builder) + Send + Sync + 'static,
    ) -> Self {
        self.tokio.hook = Some(Box::new(change));
        self
    }

    /// The identity for the first message to a predecessor. That message is sent before the options are checked, so an
    /// invalid name is left out.
    #[cfg(upgrades)]
    pub(crate) fn identity(&self) -> Identity {
        let name = self.identity.name.clone().filter(|name| is_name(name));
        Identity { name, version: self.version.clone(), ..self.identity.clone() }
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
