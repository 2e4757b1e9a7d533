//! The settings of a service: its declaration with the environment applied, every value checked.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::base::address::{Address, Kind};
use crate::base::error::{ParseOptionError, StartError};
use crate::base::identity::Identity;
use crate::base::limits::{MAX_LISTENERS, check_name, collide, is_name, too_many_listeners, what_a_name_is};
use crate::base::probe::Probe;
use crate::base::report::printable;
use crate::base::suggest::nearest;
use crate::config::choices::Supervise;
use crate::config::convert::{ControlPath, Declared, has_question_mark, parse_duration};
use crate::config::environment::{self, Environment};
use crate::config::service::Service;
use crate::lifecycle::Overlap;
use crate::sys::signals::Signal;

/// A [`Service`] with the environment applied.
pub(crate) struct Settings {
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no successor"))]
    pub(crate) identity: Identity,
    /// How many listeners are declared. They are the first in the engine's list.
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no successor"))]
    pub(crate) declared: usize,
    pub(crate) listeners: Listeners,
    /// The names of the listeners that are declared without an address.
    pub(crate) unopened: Vec<String>,
    pub(crate) pidfile: Option<PathBuf>,
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no control socket"))]
    pub(crate) control: Option<ControlAt>,
    pub(crate) timeouts: Timeouts,
    pub(crate) upgrade_signal: Signal,
    pub(crate) overlap: Overlap,
    pub(crate) supervise: Supervise,
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no successor"))]
    pub(crate) preflight: Option<OsString>,
    pub(crate) probe: Option<ProbeAt>,
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no successor"))]
    pub(crate) verify: Option<OsString>,
    pub(crate) version: Option<String>,
}

/// The names and the addresses of listeners.
pub(crate) type Listeners = Vec<(String, Address)>;

/// The address of the control socket.
pub(crate) enum ControlAt {
    /// The declared address.
    Asked(Address),
    /// Beside the pid file. The error says why it cannot be there.
    Beside(Result<Address, String>),
}

/// A probe, and the listener that it is for.
pub(crate) struct ProbeAt {
    /// The name of a declared listener, which accepts streams.
    pub(crate) listener: String,
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "there is no successor"))]
    pub(crate) probe: Probe,
}

/// The durations of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) upgrade: Duration,
    pub(crate) probation: Duration,
    pub(crate) drain: Duration,
}

impl Service {
    /// The settings. A relative path is relative to `directory`.
    ///
    /// # Errors
    ///
    /// A declared value or a variable cannot be used, or a variable is unknown.
    pub(crate) fn settle(self, environment: Environment, directory: &Path) -> Result<Settings, StartError> {
        let mut values = Values::new(environment);
        let timeouts = Timeouts {
            upgrade: values.duration("upgrade_timeout", self.upgrade_timeout)?,
            probation: values.duration("probation", self.probation)?,
            drain: values.duration("drain_timeout", self.drain_timeout)?,
        };
        check_identity(&self.identity)?;
        let upgrade_signal = values.choice("upgrade_signal", self.upgrade_signal)?;
        let overlap = values.choice("overlap", self.overlap)?;
        let supervise = values.choice("supervise", self.supervise)?;
        let pidfile = values.pidfile(self.pidfile, directory)?;
        let control = values.control(self.control, pidfile.as_deref(), directory)?;
        let preflight = values.bytes("preflight", self.preflight, check_command)?;
        let verify = values.bytes("verify", self.verify, check_command)?;
        let (listeners, unopened) = values.listeners(self.listeners)?;
        let probe = values.probe(self.probe, &listeners, &unopened)?;
        if let Some(error) = values.first_in_effect(self.unusable) {
            return Err(error);
        }
        values.finish()?;
        check_paths(pidfile.as_deref(), control.as_ref(), &listeners, directory)?;
        Ok(Settings {
            identity: Identity { version: self.version.clone(), ..self.identity },
            declared: listeners.len(),
            listeners,
            unopened,
            pidfile,
            control,
            timeouts,
            upgrade_signal: upgrade_signal.number(),
            overlap,
            supervise,
            preflight,
            probe,
            verify,
            version: self.version,
        })
    }
}

/// Looks up options: the variable of an option wins over the declared value.
struct Values {
    environment: Environment,
    /// The variables of the declared listeners.
    of_listeners: Vec<String>,
    /// The variables of the options.
    of_options: Vec<String>,
    /// The options whose variable is set.
    overridden: Vec<&'static str>,
}

impl Values {
    fn new(environment: Environment) -> Self {
        Self { environment, of_listeners: Vec::new(), of_options: Vec::new(), overridden: Vec::new() }
    }

    /// The name of the variable of an option.
    fn variable(&mut self, option: &'static str) -> String {
        let variable = environment::variable(option);
        self.of_options.push(variable.clone());
        if self.environment.has(&variable) {
            self.overridden.push(option);
        }
        variable
    }

    fn duration(&mut self, option: &'static str, declared: Duration) -> Result<Duration, StartError> {
        let variable = self.variable(option);
        let set = self.environment.parse::<EnvironmentDuration>(&variable)?;
        Ok(set.map_or(declared, |EnvironmentDuration(duration)| duration))
    }

    /// An option that takes one of a few words.
    fn choice<T>(&mut self, option: &'static str, declared: T) -> Result<T, StartError>
    where
        T: FromStr<Err = ParseOptionError>,
    {
        let variable = self.variable(option);
        Ok(self.environment.parse(&variable)?.unwrap_or(declared))
    }

    /// The error of the first option whose declared value is unusable, and in effect.
    fn first_in_effect(&self, unusable: Vec<(&'static str, StartError)>) -> Option<StartError> {
        let mut unusable = unusable.into_iter();
        unusable.find(|(option, _)| !self.overridden.contains(option)).map(|(_, error)| error)
    }

    /// An option that takes any bytes.
    fn bytes<T>(
        &mut self,
        option: &'static str,
        declared: Option<OsString>,
        check: impl Fn(OsString) -> Result<T, String>,
    ) -> Result<Option<T>, StartError> {
        let variable = self.variable(option);
        match self.environment.take_one(&variable) {
            Some(value) => {
                check(value).map(Some).map_err(|problem| StartError::Environment { variable, problem })
            }
            None => declared.map(check).transpose().map_err(|problem| StartError::Option { option, problem }),
        }
    }

    fn pidfile(
        &mut self,
        declared: Option<PathBuf>,
        directory: &Path,
    ) -> Result<Option<PathBuf>, StartError> {
        self.bytes("pidfile", declared.map(PathBuf::into_os_string), |path| {
            let path = PathBuf::from(path);
            match path.file_name() {
                Some(_) => Ok(directory.join(path)),
                None => Err(format!("{path:?} does not name a file")),
            }
        })
    }

    fn control(
        &mut self,
        declared: Option<ControlPath>,
        pidfile: Option<&Path>,
        directory: &Path,
    ) -> Result<Option<ControlAt>, StartError> {
        let declared = declared.map(|declared| match declared {
            ControlPath::Off => "false".into(),
            ControlPath::At(path) => path.into_os_string(),
        });
        let control = self.bytes("control", declared, |path| match path.to_str() {
            Some("false") => Ok(None),
            Some("") => Err("it is empty; `false` is for no control socket".to_owned()),
            _ => control_at(&directory.join(path)).map(Some),
        })?;
        Ok(match control {
            Some(control) => control.map(ControlAt::Asked),
            None => pidfile.map(|pidfile| ControlAt::Beside(control_beside(pidfile))),
        })
    }

    /// The probe, for a listener that is declared. The variable may be `false`, for no probe.
    fn probe(
        &mut self,
        declared: Option<Probe>,
        listeners: &[(String, Address)],
        unopened: &[String],
    ) -> Result<Option<ProbeAt>, StartError> {
        const OPTION: &str = "probe";
        let variable = self.variable(OPTION);
        let (probe, variable) = match self.environment.parse::<EnvironmentProbe>(&variable)? {
            Some(EnvironmentProbe(probe)) => (probe, Some(variable)),
            None => (declared, None),
        };
        let Some(probe) = probe else { return Ok(None) };
        match listener_of(&probe, listeners, unopened) {
            Ok(listener) => Ok(Some(ProbeAt { listener, probe })),
            Err(problem) => Err(match variable {
                Some(variable) => StartError::Environment { variable, problem },
                None => StartError::Option { option: OPTION, problem },
            }),
        }
    }

    /// The listeners with their addresses, and the names of those without one.
    fn listeners(
        &mut self,
        declared: Vec<(String, Declared<Address>)>,
    ) -> Result<(Listeners, Vec<String>), StartError> {
        if declared.len() > MAX_LISTENERS {
            return Err(StartError::Option { option: "listen", problem: too_many_listeners() });
        }
        let mut listeners = Listeners::new();
        let (mut unopened, mut of_any_port) = (Vec::new(), Vec::new());
        let mut variables = HashMap::new();
        for (name, declared) in declared {
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
            self.of_listeners.push(variable.clone());
            let is_of_any_port = self.environment.has_free_ports && !self.environment.has(&variable);
            let address = match self.environment.parse::<Address>(&variable)? {
                Some(address) => Some(address),
                None => declared.map_err(|unusable| unusable.of_listener(name.clone()))?,
            };
            let Some(address) = address else {
                unopened.push(name);
                continue;
            };
            if let Some((other, _)) = listeners.iter().find(|(_, other)| collide(other, &address)) {
                return Err(fail(format!("it has the address of `{other}`, {}", address.identity())));
            }
            of_any_port.extend(is_of_any_port.then_some(listeners.len()));
            listeners.push((name, address));
        }
        // Last, because of two listeners without a port of their own none has the address of the other.
        for at in of_any_port {
            let (_, address) = &mut listeners[at];
            address.free_port();
        }
        Ok((listeners, unopened))
    }

    /// Fails if a variable with the prefix is left: it belongs to no option and no listener.
    fn finish(self) -> Result<(), StartError> {
        self.environment.finish(&self.of_listeners, &self.of_options)
    }
}

/// Fails if two of the files of the service have one path. One would replace the other.
fn check_paths(
    pidfile: Option<&Path>,
    control: Option<&ControlAt>,
    listeners: &[(String, Address)],
    directory: &Path,
) -> Result<(), StartError> {
    let path_of = |address: &Address| address.path().map(|path| directory.join(path));
    let control = control.and_then(|control| match control {
        ControlAt::Asked(address) | ControlAt::Beside(Ok(address)) => path_of(address),
        ControlAt::Beside(Err(_)) => None,
    });
    if let Some(path) = control.as_deref().filter(|path| Some(*path) == pidfile) {
        let problem = format!("{path:?} is the pid file; give the control socket a path of its own");
        return Err(StartError::Option { option: "control", problem });
    }
    for (name, address) in listeners {
        let Some(path) = path_of(address) else { continue };
        let other = if Some(&*path) == pidfile {
            "the pid file"
        } else if Some(&path) == control.as_ref() {
            "the control socket"
        } else {
            continue;
        };
        let problem = format!("{path:?} is the path of {other}; give the listener a path of its own");
        return Err(StartError::Listener { listener: name.clone(), problem });
    }
    Ok(())
}

fn check_identity(identity: &Identity) -> Result<(), StartError> {
    match identity.name.as_deref().filter(|name| !is_name(name)) {
        None => Ok(()),
        Some(name) => {
            let problem = format!("`{}`: {}", printable(name), what_a_name_is());
            Err(StartError::Option { option: "name", problem })
        }
    }
}

/// A command of the shell.
pub(crate) fn check_command(command: OsString) -> Result<OsString, String> {
    match command.as_encoded_bytes() {
        [] => Err("it is empty; `true` checks nothing".to_owned()),
        bytes if bytes.contains(&0) => Err("a command has no NUL byte".to_owned()),
        _ => Ok(command),
    }
}

/// The name of the listener that a probe is for.
fn listener_of(
    probe: &Probe,
    listeners: &[(String, Address)],
    unopened: &[String],
) -> Result<String, String> {
    let takes_probes = |address: &Address| matches!(address.kind(), Kind::Tcp | Kind::Unix);
    let Some(wanted) = probe.listener() else {
        let first = listeners.iter().find(|(_, address)| takes_probes(address));
        return first.map(|(name, _)| name.clone()).ok_or_else(|| {
            format!("`{probe}` needs a declared listener with a tcp:// or unix:// address, and there is none")
        });
    };
    match listeners.iter().find(|(name, _)| name == wanted) {
        Some((name, address)) if takes_probes(address) => Ok(name.clone()),
        Some((_, address)) => Err(format!(
            "listener `{wanted}` is {}://; a probe needs a listener with a tcp:// or unix:// address",
            address.kind()
        )),
        None if unopened.iter().any(|name| name == wanted) => {
            Err(format!("the address of listener `{wanted}` is `None`, so nothing can be probed"))
        }
        None => {
            let wanted = printable(wanted);
            let meant = nearest(&wanted, listeners.iter().map(|(name, _)| name.as_str()));
            let meant = meant.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default();
            Err(format!("no listener `{wanted}` is declared{meant}"))
        }
    }
}

/// The address of a control socket at this path. Only its user may connect.
fn control_at(path: &Path) -> Result<Address, String> {
    let text = path.to_str().ok_or_else(|| format!("{path:?} is not UTF-8"))?;
    if text.contains('?') {
        return Err(has_question_mark(path));
    }
    format!("unix://{text}?mode=600").parse().map_err(|error| format!("{path:?}: {error}"))
}

/// The address of a control socket beside this pid file.
fn control_beside(pidfile: &Path) -> Result<Address, String> {
    let path = pidfile.with_extension("control");
    if path == pidfile {
        return Err(format!("{path:?} is the pid file"));
    }
    control_at(&path)
}

fn listen_variable(name: &str) -> String {
    environment::LISTENER_PREFIX.to_owned() + &name.to_uppercase().replace('-', "_")
}

struct EnvironmentDuration(Duration);

/// `false` for no probe.
struct EnvironmentProbe(Option<Probe>);

impl FromStr for EnvironmentProbe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "false" => Ok(Self(None)),
            text => Probe::parse(text).map(Some).map(Self),
        }
    }
}

impl FromStr for EnvironmentDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_duration(text).map(Self)
    }
}

#[cfg(upgrades)]
#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "tokio")]
    use crate::config::choices::Flavor;
    use crate::config::choices::UpgradeSignal;

    /// The default of each option in the table of docs/reference.md.
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
    fn no_two_files_of_a_service_have_one_path() {
        let error = |service: Service| match service.settle(Environment::default(), Path::new("/srv")) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let service = || Service::new().pidfile("a.pid");
        let control = "\"/srv/a.pid\" is the pid file; give the control socket a path of its own";
        assert!(error(service().control("a.pid")).ends_with(control));
        assert!(error(service().control("/srv/a.pid")).ends_with(control));
        let listener = "\"/srv/a.pid\" is the path of the pid file; give the listener a path of its own";
        assert!(error(service().listen("a", "unix:///srv/a.pid?mode=600")).ends_with(listener));
        let beside =
            "\"/srv/a.control\" is the path of the control socket; give the listener a path of its own";
        assert!(error(service().listen("a", "unix:///srv/a.control")).ends_with(beside));
        assert!(
            error(service().control("b").listen("a", "unix-dgram:///srv/b"))
                .contains("\"/srv/b\" is the path of the control")
        );
        assert_eq!(
            error(service().control("b").listen("a", "unix:///srv/a.control").listen("b", "unix:@a.pid")),
            ""
        );
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
                (documented("flavor"), service.tokio.flavor),
                ("multi_thread".to_owned(), Flavor::MultiThread)
            );
            // tokio chooses the number: `body.rs` has a test of it.
            let threads = (documented("worker_threads"), service.tokio.worker_threads);
            assert_eq!(threads, ("one for each core".to_owned(), None));
        }
        let settings = settle(service);
        assert_eq!((documented("name"), settings.identity), ("none".to_owned(), Identity::default()));
        assert_eq!((documented("listen"), settings.listeners.len()), ("[]".to_owned(), 0));
        assert_eq!((documented("pidfile"), settings.pidfile), ("none".to_owned(), None));
        assert_eq!((documented("preflight"), settings.preflight), ("none".to_owned(), None));
        assert_eq!((documented("probe"), settings.probe.is_none()), ("none".to_owned(), true));
        assert_eq!((documented("verify"), settings.verify), ("none".to_owned(), None));
        assert_eq!(settings.version, None);
        assert_eq!(duration(documented("upgrade_timeout")), settings.timeouts.upgrade);
        assert_eq!(duration(documented("probation")), settings.timeouts.probation);
        assert_eq!(duration(documented("drain_timeout")), settings.timeouts.drain);
        let signal: UpgradeSignal = documented("upgrade_signal").parse().unwrap();
        assert_eq!(signal.number(), settings.upgrade_signal);
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
