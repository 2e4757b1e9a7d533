//! The environment variables of the harness.
//!
//! They are read once, at the start. One that is there and does not parse, or that means nothing, stops the start:
//! a value that an operator has set is never silently ignored.
#![allow(unsafe_code)]

use std::env;
use std::ffi::OsString;
#[cfg(upgrades)]
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;

use crate::base::error::StartError;

const PREFIX: &str = "TABLEFLIP_";
/// What precedes the name of a listener.
pub(crate) const LISTEN: &str = "TABLEFLIP_LISTEN_";
/// The variable that tells a successor which descriptor is its end of the channel.
pub(crate) const HANDOVER: &str = "TABLEFLIP_HANDOVER";

/// The variable that tells the first generation under a supervisor which descriptor is its end of that one's socket.
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

/// The variables that another process gets: all but those that belong to one process.
#[cfg(upgrades)]
pub(crate) fn passed_on(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let is_of_one = |name: &OsString| [HANDOVER, SUPERVISOR].iter().chain(&OF_MANAGER).any(|of| name == *of);
    variables.into_iter().filter(|(name, _)| !is_of_one(name)).collect()
}

/// The variable of an option.
pub(crate) fn variable(option: &str) -> String {
    PREFIX.to_owned() + &option.to_uppercase()
}

/// The variables that begin with our prefix.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    variables: Vec<(String, OsString)>,
}

/// What the process that started this one has set for it.
#[derive(Debug)]
pub(crate) struct OwnVariables {
    pub(crate) handover: Option<OsString>,
    pub(crate) supervisor: Option<OsString>,
}

/// Takes variables out of the environment.
///
/// Must be called while the process has one thread.
#[cfg(upgrades)]
pub(crate) fn take<const N: usize>(names: [&str; N]) -> [Option<OsString>; N] {
    names.map(remove)
}

/// The environment that this process was executed with, whatever its own code has made of it since. Every process of a service is
/// executed with that of the first start, so it is that.
///
/// It is `environ` where the system does not say: /proc is not mounted, or the process has changed its user since.
#[cfg(upgrades)]
pub(crate) fn at_exec() -> Vec<(OsString, OsString)> {
    let block = std::fs::read("/proc/self/environ").ok();
    block.and_then(|block| variables(&block)).unwrap_or_else(|| env::vars_os().collect())
}

/// The variables of a block of `NAME=VALUE`, each of which ends in NUL. `None` if it is no such block: a program that sets its
/// title, setproctitle(3), overwrites it.
#[cfg(upgrades)]
fn variables(block: &[u8]) -> Option<Vec<(OsString, OsString)>> {
    if block.is_empty() {
        return Some(Vec::new());
    }
    block.strip_suffix(b"\0")?.split(|byte| *byte == 0).map(parse_variable).collect()
}

/// A name may begin with `=`, as std reads it.
#[cfg(upgrades)]
fn parse_variable(entry: &[u8]) -> Option<(OsString, OsString)> {
    let at = entry.iter().skip(1).position(|byte| *byte == b'=')? + 1;
    let (name, value) = (entry[..at].to_vec(), entry[at + 1..].to_vec());
    Some((OsString::from_vec(name), OsString::from_vec(value)))
}

fn remove(name: &str) -> Option<OsString> {
    let value = env::var_os(name)?;
    // SAFETY: this is called before the process has a second thread, so nobody else reads or writes the environment.
    unsafe { env::remove_var(name) };
    Some(value)
}

impl Environment {
    /// Reads them, and removes those that belong to this process alone.
    ///
    /// Must be called while the process has one thread.
    pub(crate) fn take() -> (Self, OwnVariables) {
        // A name that is not UTF-8 is none that anybody takes, and is refused as it is printed.
        let ours = |(name, value): (OsString, OsString)| (name.to_string_lossy().into_owned(), value);
        let mut variables: Vec<_> =
            env::vars_os().map(ours).filter(|(name, _)| name.starts_with(PREFIX)).collect();
        variables.sort();
        let mut take = |name| {
            variables.retain(|(known, _)| known != name);
            remove(name)
        };
        let own = OwnVariables { handover: take(HANDOVER), supervisor: take(SUPERVISOR) };
        (Self { variables }, own)
    }

    /// Takes a variable, parsed.
    pub(crate) fn parse<T>(&mut self, name: &str) -> Result<Option<T>, StartError>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        let Some(value) = self.take_one(name) else { return Ok(None) };
        let problem = |problem| StartError::Environment { variable: name.to_owned(), problem };
        let text = value.to_str().ok_or_else(|| problem(format!("{value:?} is not UTF-8")))?;
        text.parse().map(Some).map_err(|error| problem(format!("`{text}`: {error}")))
    }

    /// Takes a variable as it is.
    pub(crate) fn take_one(&mut self, name: &str) -> Option<OsString> {
        let at = self.variables.iter().position(|(known, _)| known == name)?;
        Some(self.variables.remove(at).1)
    }

    /// Fails if a variable is left that nobody took.
    pub(crate) fn finish(self, known: &[String]) -> Result<(), StartError> {
        match self.variables.into_iter().next() {
            None => Ok(()),
            Some((variable, _)) => {
                let problem = format!("unknown; expected one of {}", known.join(", "));
                Err(StartError::Environment { variable, problem })
            }
        }
    }
}

#[cfg(upgrades)]
#[cfg(test)]
mod tests {
    use super::*;

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
