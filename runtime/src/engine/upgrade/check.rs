//! The check of a new release, before a successor is started.

use std::time::Instant;

use crate::base::report::tell;
use crate::engine::core::Engine;
use crate::lifecycle::Event;
use crate::outside::preflight::Check;

impl Engine {
    /// Starts the preflight command, if there is one.
    pub(super) fn check(&mut self) -> Option<Event> {
        self.accept_request();
        self.note_target();
        self.reason = None;
        self.neighbours.upgrade.requested = Some(Instant::now());
        let Some(command) = &self.settings.preflight else { return Some(Event::Checked) };
        match self.neighbours.spawner.check(self.neighbours.upgrade.order.image, command, &[]) {
            Ok(check) => {
                tell!(
                    self.shared,
                    INFO,
                    phase = "checking",
                    check = check.pid(),
                    ?command,
                    "checking the release"
                );
                self.neighbours.upgrade.check = Some(check);
                None
            }
            Err(error) => {
                self.reason = Some(format!("could not be started: {error}"));
                Some(Event::CheckFailed)
            }
        }
    }

    /// Kills the check. It has none of the sockets, so nothing waits for its death; it is reaped later.
    pub(super) fn end_check(&mut self) {
        if let Some(check) = self.neighbours.upgrade.check.take() {
            self.reason = Some(check.output()).filter(|output| !output.is_empty());
            check.kill();
            self.neighbours.upgrade.ended_checks.push(check);
        }
    }

    pub(super) fn take_from_check(&mut self) -> bool {
        self.neighbours.upgrade.ended_checks.retain_mut(|check| check.ended().is_none());
        let Some(ended) = self.neighbours.upgrade.check.as_mut().and_then(Check::ended) else { return false };
        let output = self.neighbours.upgrade.check.take().map(|check| check.output()).unwrap_or_default();
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
