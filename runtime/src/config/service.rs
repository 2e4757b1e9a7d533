//! What is declared: the options, the listeners and what the environment overrides; and the start itself.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::base::address::{Address, ParseAddressError};
use crate::base::error::StartError;
use crate::base::limits::{
    Identity, MAX_LISTENERS, check_name, collide, is_name, too_many_listeners, what_a_name_is,
};
use crate::base::report::printable;
use crate::config::environment::{self, Environment};
use crate::lifecycle::Overlap;
use crate::sys::signals::{self, Signal};

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
    listeners: Vec<(String, Declared)>,
    pidfile: Option<PathBuf>,
    control: Option<Result<OsString, String>>,
    upgrade_timeout: Result<Duration, String>,
    probation: Result<Duration, String>,
    drain_timeout: Result<Duration, String>,
    upgrade_signal: String,
    overlap: String,
    supervise: String,
    preflight: Option<OsString>,
    version: Option<String>,
    identity: Identity,
    #[cfg(feature = "tokio")]
    pub(crate) flavor: Flavor,
    #[cfg(feature = "tokio")]
    pub(crate) worker_threads: Option<usize>,
}

/// An address, or a text that is none and what is wrong with it: that is said when the service starts.
type Declared = Result<Address, (String, ParseAddressError)>;

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

    /// The declared values, the environment applied, everything checked.
    ///
    /// A relative path is relative to `directory`.
    pub(crate) fn settle(
        self,
        mut environment: Environment,
        directory: &Path,
    ) -> Result<Settings, StartError> {
        let mut known = vec![environment::LISTEN.to_owned() + "<NAME>"];
        let mut variable = |name: &'static str| {
            let variable = format!("TABLEFLIP_{}", name.to_uppercase());
            known.push(variable.clone());
            variable
        };

        let mut duration = |option, declared: Result<Duration, String>| match environment
            .parse::<EnvironmentDuration>(
            &variable(option),
        )? {
            Some(EnvironmentDuration(duration)) => Ok(duration),
            None => declared.map_err(|problem| StartError::Option { option, problem }),
        };
        let timeouts = Timeouts {
            upgrade: duration("upgrade_timeout", self.upgrade_timeout)?,
            probation: duration("probation", self.probation)?,
            drain: duration("drain_timeout", self.drain_timeout)?,
        };

        if let Some(name) = self.identity.name.as_deref().filter(|name| !is_name(name)) {
            let problem = format!("`{}`: {}", printable(name), what_a_name_is());
            return Err(StartError::Option { option: "name", problem });
        }
        let UpgradeSignal(upgrade_signal) =
            one_of(&mut environment, "upgrade_signal", &variable("upgrade_signal"), &self.upgrade_signal)?;
        let overlap = one_of(&mut environment, "overlap", &variable("overlap"), &self.overlap)?;
        let supervise = one_of(&mut environment, "supervise", &variable("supervise"), &self.supervise)?;

        let file = |path: OsString| {
            let path = PathBuf::from(path);
            match path.file_name() {
                Some(_) => Ok(directory.join(path)),
                None => Err(format!("{path:?} does not name a file")),
            }
        };
        let declared = self.pidfile.map(PathBuf::into_os_string);
        let pidfile = any_bytes(&mut environment, "pidfile", variable("pidfile"), declared, file)?;
        let declared = self.control.transpose();
        let declared = declared.map_err(|problem| StartError::Option { option: "control", problem })?;
        let socket = |path: OsString| match path.to_str() {
            Some("false") => Ok(None),
            Some("") => Err("it is empty; `false` is for no control socket".to_owned()),
            _ => control_at(&directory.join(path)).map(Some),
        };
        let control = any_bytes(&mut environment, "control", variable("control"), declared, socket)?;
        let beside = |pidfile: &PathBuf| {
            let path = pidfile.with_extension("control");
            let taken = || format!("{path:?} is the pid file");
            ControlAt::Beside(if path == *pidfile { Err(taken()) } else { control_at(&path) })
        };
        let control = match control {
            Some(control) => control.map(ControlAt::Asked),
            None => pidfile.as_ref().map(beside),
        };
        let command = |command: OsString| match command.as_encoded_bytes() {
            [] => Err("it is empty; `true` checks nothing".to_owned()),
            bytes if bytes.contains(&0) => Err("a command has no NUL byte".to_owned()),
            _ => Ok(command),
        };
        let preflight =
            any_bytes(&mut environment, "preflight", variable("preflight"), self.preflight, command)?;

        if self.listeners.len() > MAX_LISTENERS {
            return Err(StartError::Option { option: "listen", problem: too_many_listeners() });
        }
        let mut listeners: Vec<(String, Address)> = Vec::new();
        let mut variables = HashMap::new();
        for (name, declared) in self.listeners {
            check_name(&name)?;
            let fail = |problem| StartError::Listener { listener: name.clone(), problem };
            let variable = listen_variable(&name);
            if let Some(other) = variables.insert(variable.clone(), name.clone()) {
                return Err(fail(if other == name {
                    "it is declared twice".to_owned()
                } else {
                    format!("its name and `{other}` are one in the environment, {variable}")
                }));
            }
            let address = match environment.parse::<Address>(&variable)? {
                Some(address) => address,
                None => declared.map_err(|(text, source)| StartError::Address {
                    listener: name.clone(),
                    text,
                    source,
                })?,
            };
            if let Some((other, _)) = listeners.iter().find(|(_, other)| collide(other, &address)) {
                return Err(fail(format!("it has the address of `{other}`, {}", address.identity())));
            }
            listeners.push((name, address));
        }
        environment.finish(&known)?;
        Ok(Settings {
            identity: self.identity,
            declared: listeners.len(),
            listeners,
            pidfile,
            control,
            timeouts,
            upgrade_signal,
            overlap,
            supervise,
            preflight,
            version: self.version,
        })
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

/// A [`Service`] with the environment applied.
pub(crate) struct Settings {
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no successor"))]
    pub(crate) identity: Identity,
    /// How many listeners are declared. They are the first that the engine holds.
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no successor"))]
    pub(crate) declared: usize,
    pub(crate) listeners: Vec<(String, Address)>,
    pub(crate) pidfile: Option<PathBuf>,
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is nobody to talk to"))]
    pub(crate) control: Option<ControlAt>,
    pub(crate) timeouts: Timeouts,
    pub(crate) upgrade_signal: Signal,
    pub(crate) overlap: Overlap,
    pub(crate) supervise: Supervise,
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no successor"))]
    pub(crate) preflight: Option<OsString>,
    pub(crate) version: Option<String>,
}

/// Whether there is a parent that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supervise {
    /// For a process that is PID 1.
    Auto,
    Always,
    Never,
}

impl FromStr for Supervise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("expected one of auto, always, never".to_owned()),
        }
    }
}

/// Where the control socket is to be.
#[cfg_attr(not(upgrades), expect(dead_code, reason = "there is nobody to talk to"))]
pub(crate) enum ControlAt {
    /// Where somebody said.
    Asked(Address),
    /// Beside the pid file, or why it cannot be there.
    Beside(Result<Address, String>),
}

/// The durations of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) upgrade: Duration,
    pub(crate) probation: Duration,
    pub(crate) drain: Duration,
}

/// The address of the control socket at this path, for its user alone.
fn control_at(path: &Path) -> Result<Address, String> {
    let text = path.to_str().ok_or_else(|| format!("{path:?} is not UTF-8"))?;
    if text.contains('?') {
        return Err(format!("{path:?} has a `?`, which begins the options of an address"));
    }
    format!("unix://{text}?mode=600").parse().map_err(|error| format!("{path:?}: {error}"))
}

fn listen_variable(name: &str) -> String {
    environment::LISTEN.to_owned() + &name.to_uppercase().replace('-', "_")
}

/// What [`Service::listen`] takes for an address: an [`Address`], or a text that is checked at the start.
pub trait IntoAddress {
    #[doc(hidden)]
    fn into_address(self) -> Result<Address, (String, ParseAddressError)>;
}

impl IntoAddress for Address {
    fn into_address(self) -> Declared {
        Ok(self)
    }
}

impl IntoAddress for &str {
    fn into_address(self) -> Declared {
        self.parse().map_err(|error| (self.to_owned(), error))
    }
}

impl IntoAddress for String {
    fn into_address(self) -> Declared {
        self.as_str().into_address()
    }
}

/// What [`Service::control`] takes: a path, or `false`.
pub trait IntoControl {
    #[doc(hidden)]
    fn into_control(self) -> Result<OsString, String>;
}

impl IntoControl for bool {
    fn into_control(self) -> Result<OsString, String> {
        if self { Err("expected a path, or `false`".to_owned()) } else { Ok("false".into()) }
    }
}

macro_rules! path_of_control {
    ($($path:ty),+) => {$(
        impl IntoControl for $path {
            fn into_control(self) -> Result<OsString, String> {
                Ok(self.into())
            }
        }
    )+};
}

path_of_control!(&str, String, &Path, PathBuf);

/// What a duration is given as: a [`Duration`], or a text such as `"500ms"`, `"30s"` or `"2m"`.
pub trait IntoDuration {
    #[doc(hidden)]
    fn into_duration(self) -> Result<Duration, String>;
}

impl IntoDuration for Duration {
    fn into_duration(self) -> Result<Duration, String> {
        Ok(self)
    }
}

impl IntoDuration for &str {
    fn into_duration(self) -> Result<Duration, String> {
        humantime::parse_duration(self)
            .map_err(|error| format!("`{self}` is not a duration such as `500ms`, `30s` or `2m`: {error}"))
    }
}

struct EnvironmentDuration(Duration);

impl FromStr for EnvironmentDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = |error| format!("not a duration such as `500ms`, `30s` or `2m`: {error}");
        humantime::parse_duration(text).map(Self).map_err(expected)
    }
}

/// The value of an option that need not be text: of its variable, or as it is declared.
fn any_bytes<T>(
    environment: &mut Environment,
    option: &'static str,
    variable: String,
    declared: Option<OsString>,
    check: impl Fn(OsString) -> Result<T, String>,
) -> Result<Option<T>, StartError> {
    match environment.take_one(&variable) {
        Some(value) => {
            check(value).map(Some).map_err(|problem| StartError::Environment { variable, problem })
        }
        None => declared.map(check).transpose().map_err(|problem| StartError::Option { option, problem }),
    }
}

/// The value of an option that is one of a few words: of its variable, or as it is declared.
fn one_of<T: FromStr<Err = String>>(
    environment: &mut Environment,
    option: &'static str,
    variable: &str,
    declared: &str,
) -> Result<T, StartError> {
    match environment.parse(variable)? {
        Some(value) => Ok(value),
        None => declared
            .parse()
            .map_err(|problem| StartError::Option { option, problem: format!("`{declared}`: {problem}") }),
    }
}

impl FromStr for Overlap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "wait" => Ok(Self::Wait),
            "hasten" => Ok(Self::Hasten),
            _ => Err("expected one of refuse, wait, hasten".to_owned()),
        }
    }
}

struct UpgradeSignal(Signal);

impl FromStr for UpgradeSignal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match signals::UPGRADE_SIGNALS.iter().find(|(name, _)| *name == text) {
            Some((_, signal)) => Ok(Self(*signal)),
            None => {
                let names: Vec<_> = signals::UPGRADE_SIGNALS.iter().map(|(name, _)| *name).collect();
                Err(format!("expected one of {}", names.join(", ")))
            }
        }
    }
}

#[cfg(upgrades)]
#[cfg(test)]
mod tests {
    use super::*;

    /// The default of each option, as docs/reference.md has it in its table.
    fn documented() -> HashMap<String, String> {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
        let page = std::fs::read_to_string(page).expect("the page");
        let (_, table) =
            page.split_once("\n| option | value | default | environment |\n|---|---|---|---|\n").unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let row = |line: &str| {
            let cells: Vec<_> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
            (cells[1].clone(), cells[3].trim_matches('"').to_owned())
        };
        rows.map(row).collect()
    }

    fn settle(service: Service) -> Settings {
        service.settle(Environment::default(), Path::new("/srv")).unwrap()
    }

    #[test]
    fn the_defaults_are_those_of_the_page() {
        let mut documented = documented();
        let mut documented =
            |option: &str| documented.remove(option).unwrap_or_else(|| panic!("no row of {option}"));
        let duration = |text: String| humantime::parse_duration(&text).unwrap();
        let service = Service::new();
        #[cfg(feature = "tokio")]
        {
            assert_eq!(
                (documented("flavor"), service.flavor),
                ("multi_thread".to_owned(), Flavor::MultiThread)
            );
            // Left to tokio: `body.rs` shows how many it takes.
            let threads = (documented("worker_threads"), service.worker_threads);
            assert_eq!(threads, ("one for each core".to_owned(), None));
        }
        let settings = settle(service);
        assert_eq!((documented("name"), settings.identity), ("none".to_owned(), Identity::default()));
        assert_eq!((documented("listen"), settings.listeners.len()), ("[]".to_owned(), 0));
        assert_eq!((documented("pidfile"), settings.pidfile), ("none".to_owned(), None));
        assert_eq!((documented("preflight"), settings.preflight), ("none".to_owned(), None));
        assert_eq!(settings.version, None);
        assert_eq!(duration(documented("upgrade_timeout")), settings.timeouts.upgrade);
        assert_eq!(duration(documented("probation")), settings.timeouts.probation);
        assert_eq!(duration(documented("drain_timeout")), settings.timeouts.drain);
        let UpgradeSignal(signal) = documented("upgrade_signal").parse().unwrap();
        assert_eq!(signal, settings.upgrade_signal);
        assert_eq!(documented("overlap").parse(), Ok(settings.overlap));
        assert_eq!(documented("supervise").parse(), Ok(settings.supervise));

        let beside = "the pid file with extension control; none without a pid file";
        assert_eq!(documented("control"), beside);
        assert!(settings.control.is_none());
        let settings = settle(Service::new().pidfile("run/echo.pid"));
        assert_eq!(settings.pidfile.as_deref(), Some(Path::new("/srv/run/echo.pid")));
        let Some(ControlAt::Beside(Ok(control))) = settings.control else {
            panic!("it is beside the pid file")
        };
        assert_eq!(control.to_string(), "unix:///srv/run/echo.control?mode=600");
    }
}
