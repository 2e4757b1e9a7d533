//! The environment variables of the harness.
//!
//! They are read once, at the start. One that is there and does not parse, or that means nothing, stops the start:
//! a value that an operator has set is never silently ignored.
#![allow(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::str::FromStr;

use crate::error::StartError;

const PREFIX: &str = "TABLEFLIP_";
/// What precedes the name of a listener.
pub(crate) const LISTEN: &str = "TABLEFLIP_LISTEN_";
/// The variable that tells a successor which descriptor is its end of the channel.
pub(crate) const HANDOVER: &str = "TABLEFLIP_HANDOVER";

/// The variable that tells the first generation under a supervisor which descriptor is its end of that one's socket.
pub(crate) const SUPERVISOR: &str = "TABLEFLIP_SUPERVISOR";

/// The variables that begin with our prefix.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    variables: Vec<(String, OsString)>,
}

/// What the process that started this one has set for it.
#[derive(Debug)]
pub(crate) struct OfThisProcess {
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
    pub(crate) fn take() -> (Self, OfThisProcess) {
        // A name that is not UTF-8 is none that anybody takes, and is refused as it is printed.
        let ours = |(name, value): (OsString, OsString)| (name.to_string_lossy().into_owned(), value);
        let mut variables: Vec<_> =
            env::vars_os().map(ours).filter(|(name, _)| name.starts_with(PREFIX)).collect();
        variables.sort();
        let mut take = |name| {
            variables.retain(|(known, _)| known != name);
            remove(name)
        };
        let of_this_process = OfThisProcess { handover: take(HANDOVER), supervisor: take(SUPERVISOR) };
        (Self { variables }, of_this_process)
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
