//! The check of a new release, before a successor is started.

use std::time::Instant;

use super::Engine;
use crate::lifecycle::Event;
use crate::preflight::Check;
use crate::report::tell;

impl Engine {
    pub(super) fn check(&mut self) -> Option<Event> {
        self.waiting.extend(self.asking.take());
        self.reason = None;
        self.requested = Instant::now();
        let Some(command) = &self.settings.preflight else { return Some(Event::Checked) };
        match self.spawner.check(command) {
            Ok(check) => {
                tell!(
                    self.shared,
                    INFO,
                    phase = "checking",
                    check = check.pid(),
                    ?command,
                    "checking the release"
                );
                self.check = Some(check);
                None
            }
            Err(error) => {
                self.reason = Some(format!("could not be started: {error}"));
                Some(Event::CheckFailed)
            }
        }
    }

    /// Nothing of a check is waited for: it has none of the sockets. It is reaped once it is dead.
    pub(super) fn end_check(&mut self) {
        if let Some(check) = self.check.take() {
            self.reason = Some(check.output()).filter(|output| !output.is_empty());
            check.kill();
            self.ended_checks.push(check);
        }
    }

    pub(super) fn take_from_check(&mut self) -> bool {
        self.ended_checks.retain_mut(|check| check.ended().is_none());
        let Some(ended) = self.check.as_mut().and_then(Check::ended) else { return false };
        let output = self.check.take().map(|check| check.output()).unwrap_or_default();
        match ended {
            Ok(()) => {
                tell!(self.shared, INFO, phase = "checking", output, "the release passed the check");
                self.feed(Event::Checked);
            }
            Err(how) => {
                self.reason = Some(how);
                self.feed(Event::CheckFailed);
            }
        }
        true
    }
}
