//! The environment variables that the runtime reads.
//!
//! They are read once, at the start. A `TABLEFLIP_` variable that does not parse or is unknown stops the start: a value
//! that an operator has set is never silently ignored.
#![allow(unsafe_code)]

use std::env;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, SocketAddr};
#[cfg(upgrades)]
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;

use crate::base::error::StartError;
use crate::base::suggest::nearest;

const PREFIX: &str = "TABLEFLIP_";
/// The prefix of the variable of a listener.
pub(crate) const LISTENER_PREFIX: &str = "TABLEFLIP_LISTEN_";
/// How many variables of listeners an error lists.
const LISTENERS_SHOWN: usize = 20;
/// Names the descriptor of a successor's end of the channel.
pub(crate) const HANDOVER: &str = "TABLEFLIP_HANDOVER";

/// Names the descriptor of the supervisor's socket, for the first generation under a supervisor.
pub(crate) const SUPERVISOR: &str = "TABLEFLIP_SUPERVISOR";

/// The socket of the service manager, sd_notify(3).
#[cfg(upgrades)]
pub(crate) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// The period of the service manager's watchdog, sd_watchdog_enabled(3).
#[cfg(upgrades)]
pub(crate) const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
/// The number of the descriptors that the service manager passes, sd_listen_fds(3).
#[cfg(upgrades)]
pub(crate) const LISTEN_FDS: &str = "LISTEN_FDS";
/// The names of those descriptors.
#[cfg(upgrades)]
pub(crate) const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";

/// The variables that a service manager sets for one process.
#[cfg(upgrades)]
pub(crate) const OF_MANAGER: [&str; 7] = [
    NOTIFY_SOCKET,
    WATCHDOG_USEC,
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    LISTEN_FDS,
    LISTEN_FDNAMES,
];

/// The environment of another process: all variables but those that belong to one process.
#[cfg(upgrades)]
pub(crate) fn passed_on(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let is_of_one = |name: &OsString| [HANDOVER, SUPERVISOR].iter().chain(&OF_MANAGER).any(|of| name == *of);
    variables.into_iter().filter(|(name, _)| !is_of_one(name)).collect()
}

/// The name of the variable of an option.
pub(crate) fn variable(option: &str) -> String {
    PREFIX.to_owned() + &option.to_uppercase()
}

/// The variables with the prefix `TABLEFLIP_`.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    variables: Vec<(String, OsString)>,
    /// A declared IP listener gets any free port, unless a variable has its address. So do the services of a test.
    pub(crate) has_free_ports: bool,
}

/// The variables that the parent of this process has set for this process alone.
#[derive(Debug)]
pub(crate) struct OwnVariables {
    pub(crate) handover: Option<OsString>,
    pub(crate) supervisor: Option<OsString>,
}

/// Takes variables out of the environment, so that no child of the service finds them. A process with several threads
/// only reads them.
///
/// C code in another thread may read the environment at any moment, getenv(3). Each variable that means one process names
/// that process for this case.
pub(crate) fn take<const N: usize>(names: [&str; N]) -> [Option<OsString>; N] {
    let values = names.map(env::var_os);
    if values.iter().any(Option::is_some) && has_one_thread() {
        for name in names {
            // SAFETY: no other thread reads or writes the environment, and only this one could start another.
            unsafe { env::remove_var(name) };
        }
    }
    values
}

/// The environment of the exec of this process, without later changes by its own code. Every process of a service is
/// executed with the environment of the first start.
///
/// It falls back to `environ` where /proc is not mounted, or where the process has changed its user.
#[cfg(upgrades)]
pub(crate) fn at_exec() -> Vec<(OsString, OsString)> {
    let block = std::fs::read("/proc/self/environ").ok();
    block.and_then(|block| variables(&block)).unwrap_or_else(|| env::vars_os().collect())
}

/// The variables of a block of `NAME=VALUE`, each ending in NUL. `None` for any other block: a program that sets its
/// title, setproctitle(3), overwrites it.
#[cfg(upgrades)]
fn variables(block: &[u8]) -> Option<Vec<(OsString, OsString)>> {
    if block.is_empty() {
        return Some(Vec::new());
    }
    block.strip_suffix(b"\0")?.split(|byte| *byte == 0).map(parse_variable).collect()
}

/// A name may begin with `=`: std reads it so.
#[cfg(upgrades)]
fn parse_variable(entry: &[u8]) -> Option<(OsString, OsString)> {
    let at = entry.iter().skip(1).position(|byte| *byte == b'=')? + 1;
    let (name, value) = (entry[..at].to_vec(), entry[at + 1..].to_vec());
    Some((OsString::from_vec(name), OsString::from_vec(value)))
}

/// Whether the process has one thread. Where that cannot be read, it may have more.
fn has_one_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

impl Environment {
    /// Reads the variables, and removes those that belong to this process alone if the process has one thread.
    pub(crate) fn take() -> (Self, OwnVariables) {
        // No option has a name that is not UTF-8: such a variable is refused later, in its printable form.
        let ours = |(name, value): (OsString, OsString)| (name.to_string_lossy().into_owned(), value);
        let mut variables: Vec<_> =
            env::vars_os().map(ours).filter(|(name, _)| name.starts_with(PREFIX)).collect();
        variables.sort();
        variables.retain(|(name, _)| name != HANDOVER && name != SUPERVISOR);
        let [handover, supervisor] = take([HANDOVER, SUPERVISOR]);
        let own = OwnVariables { handover, supervisor };
        (Self { variables, has_free_ports: false }, own)
    }

    /// The variables that a test sets for a service.
    pub(crate) fn of_test(variables: Vec<(String, OsString)>) -> Self {
        Self { variables, has_free_ports: true }
    }

    /// Whether a variable is set, and not yet taken.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.variables.iter().any(|(known, _)| known == name)
    }

    /// Takes a variable and parses it.
    pub(crate) fn parse<T>(&mut self, name: &str) -> Result<Option<T>, StartError>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        let Some(value) = self.take_one(name) else { return Ok(None) };
        let problem = |problem| StartError::Environment { variable: name.to_owned(), problem };
        let text = value.to_str().ok_or_else(|| problem(format!("{value:?} is not UTF-8")))?;
        text.parse().map(Some).map_err(|error| problem(format!("`{text}`: {error}")))
    }

    /// Takes a variable unparsed.
    pub(crate) fn take_one(&mut self, name: &str) -> Option<OsString> {
        let at = self.variables.iter().position(|(known, _)| known == name)?;
        Some(self.variables.remove(at).1)
    }

    /// Fails if a variable is left: no listener and no option has taken it. `listeners` and `options` are the names
    /// of their variables.
    pub(crate) fn finish(self, listeners: &[String], options: &[String]) -> Result<(), StartError> {
        let mut left = self.variables.into_iter();
        match left.find(|(name, value)| !is_of_orchestrator(name, value)) {
            None => Ok(()),
            Some((variable, _)) => {
                let problem = unknown(&variable, listeners, options);
                Err(StartError::Environment { variable, problem })
            }
        }
    }
}

/// The error of a variable that the service does not know: which one may be meant, and which variables there are.
fn unknown(variable: &str, listeners: &[String], options: &[String]) -> String {
    let rest = |name: &str, prefix| name.strip_prefix(prefix).map(str::to_owned);
    let named = |prefix| move |name: &String| Some((rest(name, prefix)?, name.clone()));
    // Without the prefix: the more letters a name has, the more of them may differ.
    let typed = variable.to_uppercase().replace('-', "_");
    let names: Vec<_> = listeners.iter().filter_map(named(LISTENER_PREFIX)).collect();
    let (typed, known) = match rest(&typed, LISTENER_PREFIX) {
        Some(typed) => (typed, names),
        // `LISTEN_` may be mistyped, or missing.
        None => {
            let all = options.iter().chain(listeners).filter_map(named(PREFIX));
            (rest(&typed, PREFIX).unwrap_or_default(), all.chain(names).collect())
        }
    };
    let nearest = nearest(&typed, known.iter().map(|(name, _)| name.as_str()));
    let meant = known.iter().find(|(name, _)| nearest == Some(name));
    let meant = meant.map(|(_, variable)| format!(" (did you mean `{variable}`?)")).unwrap_or_default();
    let none = if listeners.is_empty() { "; the service declares no listener" } else { "" };
    let more = match listeners.len().saturating_sub(LISTENERS_SHOWN) {
        0 => String::new(),
        more => format!(", or one of {more} more listeners"),
    };
    let expected: Vec<_> =
        listeners.iter().take(LISTENERS_SHOWN).chain(options).map(String::as_str).collect();
    format!("unknown{meant}; expected one of {}{more}{none}", expected.join(", "))
}

/// Whether the variable is one that Kubernetes sets in each container for a Service whose name begins with `tableflip`,
/// or docker for a linked container: `X_SERVICE_HOST`, `X_SERVICE_PORT`, `X_SERVICE_PORT_<NAME>`, `X_PORT`,
/// `X_PORT_<PORT>_<PROTOCOL>` and with this `_PROTO`, `_PORT` and `_ADDR`.
///
/// The value has to be of the same form, so that a mistyped variable of the service is not one of them.
fn is_of_orchestrator(name: &str, value: &OsStr) -> bool {
    let Some(value) = value.to_str() else { return false };
    let is_ip = || value.parse().is_ok_and(is_of_network);
    let is_port = || value.parse::<u16>().is_ok();
    if name.ends_with("_SERVICE_HOST") {
        return is_ip();
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return is_port();
    }
    if name.ends_with("_PORT") && is_url(value, None) {
        return true;
    }
    // The stem of the name may have `_PORT_` in it as well.
    let Some((_, rest)) = name.rsplit_once("_PORT_") else { return false };
    let mut words = rest.split('_');
    let (Some(port), Some(protocol)) = (words.next(), words.next()) else { return false };
    let protocol = protocol.to_lowercase();
    if port.parse::<u16>().is_err() || !PROTOCOLS.contains(&&*protocol) {
        return false;
    }
    match (words.next(), words.next()) {
        (None, _) => is_url(value, Some((&protocol, port))),
        (Some("PROTO"), None) => value == protocol,
        (Some("PORT"), None) => value == port,
        (Some("ADDR"), None) => is_ip(),
        _ => false,
    }
}

/// The protocols of the ports of a Kubernetes Service.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Whether the text is `PROTOCOL://IP:PORT`, of this protocol and port if they are known.
fn is_url(text: &str, of: Option<(&str, &str)>) -> bool {
    let Some((protocol, at)) = text.split_once("://") else { return false };
    // Kubernetes writes an IPv6 address with brackets, net.JoinHostPort of Go.
    let Ok(at) = at.parse::<SocketAddr>() else { return false };
    let is_one =
        of.is_none_or(|(of_protocol, port)| protocol == of_protocol && at.port().to_string() == port);
    PROTOCOLS.contains(&protocol) && is_of_network(at.ip()) && is_one
}

/// Whether another machine can have the address: no Service has one that only means this machine.
fn is_of_network(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_loopback()
}

#[cfg(upgrades)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d7_of_many_listeners_the_likeliest_and_some_are_named() {
        let listeners: Vec<_> = (0..1000).map(|at| format!("{LISTENER_PREFIX}SHARD_{at}")).collect();
        let options = [variable("probation")];
        let problem = unknown(&format!("{LISTENER_PREFIX}SHRD_777"), &listeners, &options);
        assert!(problem.contains("_SHARD_777`?)"), "{problem}");
        assert!(
            problem.ends_with("_SHARD_19, TABLEFLIP_PROBATION, or one of 980 more listeners"),
            "{problem}"
        );
        let none = unknown(&format!("{LISTENER_PREFIX}HTTP"), &[], &options);
        assert_eq!(none, "unknown; expected one of TABLEFLIP_PROBATION; the service declares no listener");
    }

    #[test]
    fn b1_the_block_of_an_exec_is_read_as_it_is() {
        let parsed = variables(b"A=1\0B=\0C=x=y\0=D=z\0E=\xff\n\0A=2\0").unwrap();
        let pairs: Vec<(Vec<u8>, Vec<u8>)> =
            parsed.into_iter().map(|(name, value)| (name.into_vec(), value.into_vec())).collect();
        let expected: [(&[u8], &[u8]); 6] =
            [(b"A", b"1"), (b"B", b""), (b"C", b"x=y"), (b"=D", b"z"), (b"E", b"\xff\n"), (b"A", b"2")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_vec(), value.to_vec())));
        assert_eq!(variables(b""), Some(Vec::new()), "a process may be executed without any");
    }

    #[test]
    fn b1_a_block_that_was_overwritten_is_not_believed() {
        for block in [&b"svc: worker\0\0\0\0"[..], b"\0\0", b"A=1\0ing\0", b"A=1\0B=2", b"A=1\0\0", b"=\0"] {
            assert_eq!(variables(block), None, "{block:?}");
        }
    }
}
