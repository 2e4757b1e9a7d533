//! Whether a successor is the service that this process is, and what the service loses by an upgrade.
//!
//! Without this check the executable of another service at the path would start, become ready, and take this service off the air. The
//! predecessor decides before `COMMIT`, so a successor of any release is judged.

use crate::base::identity::Identity;
use crate::between::gate_control::CONTROL_SOCKET;
use crate::engine::core::Engine;
use crate::lifecycle::{Followed, Phase};
use crate::outside::pidfile::{self, Pidfile};
use crate::outside::sockets::BoundSocket;
use crate::outside::systemd;

/// How many listeners are named in one message; the others are counted.
const NAMED_LISTENERS: usize = 8;

/// The two sides of an upgrade.
pub(super) struct Comparison<'a> {
    pub(super) old: &'a Identity,
    pub(super) new: &'a Identity,
    /// Empty for none. `None` if that release does not send it.
    pub(super) old_pidfile: Option<&'a str>,
    pub(super) new_pidfile: Option<&'a str>,
}

impl Comparison<'_> {
    /// Why the successor is refused. `declared` are the listeners that the predecessor declares.
    fn refusal(&self, declared: &[(String, String)], adopts_one: bool) -> Option<String> {
        let names = (&self.old.name, &self.new.name);
        if let (Some(old), Some(new)) = names {
            if old != new {
                return Some(format!(
                    "it is the service `{new}`, and this is `{old}`; put the executable of `{old}` back, or stop the service and \
                     start it again to give it another name"
                ));
            }
        }
        let is_same = names.0.is_some() && names.0 == names.1;
        if declared.is_empty() || adopts_one || is_same {
            return None;
        }
        let program = match &self.new.program {
            Some(new) if self.old.program.as_ref() != Some(new) => format!(" (program `{new}`)"),
            _ => String::new(),
        };
        Some(format!(
            "it{program} adopts none of the listeners that this service declares, {}, and is taken for another service; put the \
             executable of this service back, or, if all its addresses are to change, give this release and the next the same \
             `name` first, or stop the service and start it again",
            list(declared.iter().map(|(name, address)| (name.as_str(), address.as_str()))),
        ))
    }

    /// What the service loses, for the logs of both processes. `lost` are the listeners that the successor does not adopt.
    pub(super) fn warnings<'l>(&self, lost: impl Iterator<Item = (&'l str, &'l str)>) -> Vec<String> {
        let mut warnings = Vec::new();
        let called = |identity: &Identity| identity.name.clone().or_else(|| identity.program.clone());
        if let (Some(old), Some(new)) = (called(self.old), called(self.new)) {
            if old != new {
                warnings
                    .push(format!("the service was `{old}` and is `{new}` now; is it the right executable?"));
            }
        }
        let (controls, lost): (Vec<_>, Vec<_>) = lost.partition(|(name, _)| *name == CONTROL_SOCKET);
        for (name, address) in lost.iter().take(NAMED_LISTENERS) {
            warnings.push(format!("listener `{name}` ({address}) is no longer declared and is closed"));
        }
        if lost.len() > NAMED_LISTENERS {
            let more = lost.len() - NAMED_LISTENERS;
            warnings.push(format!("{more} more listeners are no longer declared and are closed"));
        }
        for (_, address) in controls {
            warnings.push(format!("the control socket {address} is no longer declared and is closed"));
        }
        match (self.old_pidfile, self.new_pidfile) {
            (Some(old), Some("")) if !old.is_empty() => {
                warnings.push(format!("the pid file {old} is no longer declared and is removed"));
            }
            (Some(old), Some(new)) if !old.is_empty() && old != new => {
                warnings.push(format!("the pid file {old} is removed; it is {new} now"));
            }
            _ => {}
        }
        warnings
    }
}

/// The names and addresses of listeners. Of many, the first ones and a count.
fn list<'l>(listeners: impl ExactSizeIterator<Item = (&'l str, &'l str)>) -> String {
    let more = listeners.len().saturating_sub(NAMED_LISTENERS);
    let named = listeners.take(NAMED_LISTENERS).map(|(name, address)| format!("`{name}` ({address})"));
    let mut named: Vec<_> = named.collect();
    if more > 0 {
        named.push(format!("{more} more"));
    }
    named.join(", ")
}

impl Engine {
    /// Judges a successor that is prepared, and adopts the sockets at these places of the offer.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub(super) fn judge(&mut self, adopted: &[usize], pidfile: Option<&str>) -> Result<(), String> {
        // A rescue starts the executable that this process runs.
        let is_release = self.state.phase == Phase::Upgrading;
        let Some(successor) = self.neighbours.successor.as_mut().filter(|_| is_release) else {
            return Ok(());
        };
        let ours = pidfile::shown(self.pidfile.as_ref().map(Pidfile::path));
        let upgrade = Comparison {
            old: &self.settings.identity,
            new: &successor.identity,
            old_pidfile: Some(&ours),
            new_pidfile: pidfile,
        };
        let entry = |socket: &BoundSocket| (socket.name.clone(), socket.address.identity());
        // The declared listeners are bound first, and those of the run time after them.
        let declared: Vec<_> =
            self.listeners.sockets.iter().take(self.settings.declared).map(entry).collect();
        let adopts_one = adopted.iter().any(|at| *at < declared.len());
        if let Some(refusal) = upgrade.refusal(&declared, adopts_one) {
            return Err(refusal);
        }
        let adopted = &successor.adopted;
        // A control socket whose file is gone is no loss: the successor binds another.
        let is_lost = |socket: &&BoundSocket| {
            !adopted.contains(&socket.name) && (socket.name != CONTROL_SOCKET || !socket.is_cut_off())
        };
        let lost: Vec<_> = self.listeners.sockets.iter().filter(is_lost).map(entry).collect();
        let mut warnings =
            upgrade.warnings(lost.iter().map(|(name, address)| (name.as_str(), address.as_str())));
        let pid = successor.pid();
        if self.state.followed != Followed::Nobody && pid != successor.child.pid() {
            warnings.push(systemd::behind_a_wrapper(pid));
        }
        successor.warnings = warnings;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: Option<&str>, program: Option<&str>) -> Identity {
        Identity { name: name.map(str::to_owned), program: program.map(str::to_owned), version: None }
    }

    fn declared(count: usize) -> Vec<(String, String)> {
        (0..count).map(|at| (format!("l{at}"), format!("tcp://127.0.0.1:{at}"))).collect()
    }

    /// The refusal and the warnings about names, of an upgrade that adopts one of two listeners, or none.
    fn judged(old: &Identity, new: &Identity, adopts_one: bool) -> (Option<String>, Vec<String>) {
        let upgrade = Comparison { old, new, old_pidfile: None, new_pidfile: None };
        (upgrade.refusal(&declared(2), adopts_one), upgrade.warnings([].into_iter()))
    }

    #[test]
    fn d2_who_is_refused_and_who_is_warned_of() {
        let none = identity(None, None);
        let (a, b) = (identity(Some("a"), Some("x")), identity(Some("b"), Some("x")));
        let (x, y) = (identity(None, Some("x")), identity(None, Some("y")));
        for (old, new, adopts_one, is_refused, is_warned) in [
            // Two names of an author count; so does one.
            (&a, &b, true, true, true),
            (&a, &b, false, true, true),
            (&a, &a, true, false, false),
            (&a, &a, false, false, false),
            // What the attribute calls it is a hint.
            (&x, &y, true, false, true),
            (&x, &y, false, true, true),
            (&x, &x, true, false, false),
            (&x, &x, false, true, false),
            (&a, &x, true, false, true),
            (&x, &a, true, false, true),
            (&x, &a, false, true, true),
            // An older release, or the builder.
            (&a, &none, true, false, false),
            (&none, &a, true, false, false),
            (&none, &none, true, false, false),
            (&none, &none, false, true, false),
            (&a, &none, false, true, false),
        ] {
            let (refusal, warnings) = judged(old, new, adopts_one);
            let case = format!("{old:?} to {new:?}, adopts one: {adopts_one}: {refusal:?} {warnings:?}");
            assert_eq!((refusal.is_some(), !warnings.is_empty()), (is_refused, is_warned), "{case}");
        }
        let upgrade = Comparison { old: &none, new: &none, old_pidfile: None, new_pidfile: None };
        assert_eq!(upgrade.refusal(&[], false), None, "nothing is declared, so nothing can be adopted");
    }

    #[test]
    fn d2_what_is_lost_is_named_and_of_many_the_first() {
        let none = identity(None, None);
        let warnings = |old, new, lost: &[(String, String)]| {
            let upgrade = Comparison { old: &none, new: &none, old_pidfile: old, new_pidfile: new };
            upgrade.warnings(lost.iter().map(|(name, address)| (name.as_str(), address.as_str())))
        };
        assert_eq!(warnings(Some("/a"), Some("/a"), &[]), [""; 0]);
        assert_eq!(warnings(Some(""), Some("/a"), &[]), [""; 0]);
        assert_eq!(warnings(Some("/a"), None, &[]), [""; 0], "a release that does not say");
        assert_eq!(warnings(None, Some("/a"), &[]), [""; 0]);
        assert_eq!(warnings(Some("/a"), Some("/b"), &[]), ["the pid file /a is removed; it is /b now"]);
        let removed = "the pid file /a is no longer declared and is removed";
        assert_eq!(warnings(Some("/a"), Some(""), &[]), [removed]);
        let one = "listener `l0` (tcp://127.0.0.1:0) is no longer declared and is closed";
        assert_eq!(warnings(None, None, &declared(1)), [one]);
        let control = [(CONTROL_SOCKET.to_owned(), "unix:///a".to_owned())];
        let closed = "the control socket unix:///a is no longer declared and is closed";
        assert_eq!(warnings(None, None, &control), [closed]);
        let many = warnings(None, None, &declared(NAMED_LISTENERS + 3));
        assert_eq!(many.len(), NAMED_LISTENERS + 1);
        assert_eq!(many.last().unwrap(), "3 more listeners are no longer declared and are closed");
    }
}
