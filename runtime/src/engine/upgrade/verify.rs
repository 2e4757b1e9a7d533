//! The command that checks a successor while it serves on probation.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use crate::base::address::Place;
use crate::base::report::tell;
use crate::engine::core::Engine;
use crate::engine::neighbours::{Verification, VerifyRun};
use crate::engine::status::bound;
use crate::lifecycle::Event;
use crate::outside::sockets::BoundSocket;

/// The pause between two runs.
const PAUSE: Duration = Duration::from_secs(1);

impl Engine {
    /// Begins the first run at once, if there is a command.
    pub(super) fn verify(&mut self) -> Option<Event> {
        let asked = self.neighbours.upgrade.order.verify.clone().map(OsString::from);
        let Some(command) = asked.or_else(|| self.settings.verify.clone()) else {
            return Some(Event::Verified);
        };
        self.neighbours.upgrade.verification =
            Some(Verification { command, run: None, next: None, has_passed: false });
        self.run_verify()
    }

    /// Kills the run that is under way. No other follows.
    pub(super) fn end_verify(&mut self) {
        let verification = self.neighbours.upgrade.verification.take();
        if let Some(VerifyRun { check, .. }) = verification.and_then(|verification| verification.run) {
            check.kill();
            self.neighbours.upgrade.ended_checks.push(check);
        }
    }

    /// The time of the next run, or the end of the time of the run that is under way.
    pub(super) fn verify_is_due(&self) -> Option<Instant> {
        let verification = self.neighbours.upgrade.verification.as_ref()?;
        verification.run.as_ref().map_or(verification.next, |run| run.deadline)
    }

    /// Takes the end of a run, or begins the next. Returns whether there was one of these.
    pub(super) fn take_from_verify(&mut self) -> bool {
        let Some(verification) = &mut self.neighbours.upgrade.verification else { return false };
        let now = Instant::now();
        let Some(run) = &mut verification.run else {
            if verification.next.is_none_or(|next| next > now) {
                return false;
            }
            if let Some(event) = self.run_verify() {
                self.feed(event);
            }
            return true;
        };
        let ended = match run.check.ended() {
            Some(ended) => ended,
            None if run.deadline.is_some_and(|deadline| deadline <= now) => {
                let within = humantime::format_duration(self.settings.timeouts.upgrade);
                let output = run.check.output();
                let output = if output.is_empty() { output } else { format!(": {output}") };
                Err(format!("did not end within {within}{output}"))
            }
            None => return false,
        };
        if let Err(how) = ended {
            self.end_verify();
            self.reason = Some(format!("the command {how}"));
            self.feed(Event::VerifyFailed);
            return true;
        }
        verification.run = None;
        verification.next = Some(now + PAUSE);
        if !std::mem::replace(&mut verification.has_passed, true) {
            tell!(self.shared, INFO, phase = "standby", "the successor passed the verification");
        }
        self.feed(Event::Verified);
        true
    }

    fn run_verify(&mut self) -> Option<Event> {
        let variables = self.verify_variables();
        let upgrade = &mut self.neighbours.upgrade;
        let verification = upgrade.verification.as_mut()?;
        match self.neighbours.spawner.check(upgrade.order.image, &verification.command, &variables) {
            Ok(check) => {
                tell!(
                    self.shared,
                    DEBUG,
                    verify = check.pid(),
                    command = ?verification.command,
                    "verifying the successor"
                );
                let deadline = Instant::now().checked_add(self.settings.timeouts.upgrade);
                (verification.run, verification.next) = (Some(VerifyRun { check, deadline }), None);
                None
            }
            Err(error) => {
                upgrade.verification = None;
                self.reason = Some(format!("the command could not be started: {error}"));
                Some(Event::VerifyFailed)
            }
        }
    }

    /// What the command learns of the upgrade: both processes, and the listeners that the successor has adopted.
    fn verify_variables(&self) -> Vec<(OsString, OsString)> {
        let Some(successor) = &self.neighbours.successor else { return Vec::new() };
        let processes = [
            ("TABLEFLIP_PID", u64::from(successor.pid())),
            ("TABLEFLIP_GENERATION", successor.generation),
            ("TABLEFLIP_PREDECESSOR", u64::from(self.shared.pid)),
        ];
        let processes =
            processes.into_iter().map(|(name, number)| (OsString::from(name), number.to_string().into()));
        let adopted = self.sockets_of_body().iter().filter(|socket| successor.adopted.contains(&socket.name));
        let addresses = adopted.map(|socket| (address_variable(&socket.name).into(), address(socket)));
        processes.chain(addresses).collect()
    }
}

fn address_variable(listener: &str) -> String {
    let of = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    "TABLEFLIP_ADDRESS_".chars().chain(listener.chars().map(of)).collect()
}

/// The address as a client is given it: without the scheme.
fn address(socket: &BoundSocket) -> OsString {
    match socket.address.place() {
        Place::Path(path) => path.into(),
        Place::Abstract(name) => format!("@{name}").into(),
        _ => {
            let bound = bound(socket);
            bound.split_once("://").map_or(bound.as_str(), |(_, address)| address).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_listener_is_one_that_a_client_takes() {
        assert_eq!(address_variable("http-2_a"), "TABLEFLIP_ADDRESS_HTTP_2_A");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s").display().to_string();
        let shown = |text: &str| {
            let socket = crate::outside::sockets::bind("it", &text.parse().unwrap()).unwrap();
            (address(&socket).into_string().unwrap(), socket.port())
        };
        let (address, port) = shown("tcp://127.0.0.1:0");
        assert_eq!(address, format!("127.0.0.1:{}", port.unwrap()));
        let (address, port) = shown("udp://[::1]:0");
        assert_eq!(address, format!("[::1]:{}", port.unwrap()));
        assert_eq!(shown(&format!("unix://{path}")).0, path);
        assert_eq!(shown("unix:@tableflip-verify-test").0, "@tableflip-verify-test");
    }
}
