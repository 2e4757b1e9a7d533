//! What the operator and the body are told: refusals, outcomes and reasons, in words.

use super::{Engine, HANDOVER_TIMEOUT, HASTE, NAMED_PEERS};
use crate::error::UpgradeError;
use crate::lifecycle::{Failure, Phase, Refusal, StartFailure};
use crate::report::{complain, printable, tell};
use crate::shared::Upgraded;
use crate::sockets;

impl Engine {
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        let error = match refusal {
            Refusal::NotReady => UpgradeError::NotReady,
            Refusal::InProgress => UpgradeError::InProgress,
            Refusal::PredecessorDraining => UpgradeError::PredecessorDraining,
            Refusal::Terminating => UpgradeError::Terminating,
        };
        if let Some(line) = self.refused.line(&format!("upgrade refused: {error}")) {
            complain!(self.shared, WARN, "{line}");
        }
        self.upgrades.refused += 1;
        self.upgrades.last_failure = Some(error.to_string());
        self.tell_manager_of_refusal(&error.to_string());
        if let Some(reply) = self.asking.take() {
            reply.set(Err(error));
        }
        self.tell_outcome();
    }

    /// Who asked waits until the predecessor is gone, and then for the outcome.
    pub(super) fn postpone(&mut self) {
        self.waiting.extend(self.asking.take());
        tell!(self.shared, INFO, phase = "postponed", "an upgrade waits until the predecessor is gone");
    }

    pub(super) fn report_active(&mut self) {
        self.shared.set_handed_over(true);
        let Some(successor) = &self.successor else { return };
        tell!(
            self.shared,
            INFO,
            phase = "standby",
            successor = successor.pid(),
            elapsed = ?successor.active_after.unwrap_or_default(),
            "the successor serves"
        );
    }

    pub(super) fn report(&mut self, outcome: Result<(), Failure>) {
        self.tell_phase();
        let answer = match (outcome, &self.successor) {
            (Ok(()), Some(successor)) => {
                let elapsed = successor.active_after.unwrap_or_else(|| self.requested.elapsed());
                let pid = successor.pid();
                tell!(self.shared, INFO, phase = "draining", successor = pid, ?elapsed, "upgraded");
                let warnings = successor.warnings.clone();
                for warning in &warnings {
                    complain!(self.shared, WARN, "{warning}");
                }
                Ok(Upgraded { generation: successor.generation, pid, elapsed, warnings })
            }
            // It passed its probation and died in the same instant; the death is the next event.
            (Ok(()), None) => Err(UpgradeError::Failed { reason: "the successor exited".to_owned() }),
            (Err(failure), _) => {
                let reason = self.failure(failure);
                let serves = match self.state.phase {
                    Phase::Serving => "; this process serves on",
                    _ => "",
                };
                complain!(self.shared, "upgrade failed: {reason}{serves}");
                self.upgrades.failed += 1;
                self.upgrades.last_failure = Some(reason.clone());
                self.tell_manager_of_failure(&reason);
                Err(UpgradeError::Failed { reason })
            }
        };
        for reply in self.waiting.drain(..) {
            reply.set(answer.clone());
        }
        self.tell_outcome();
    }

    /// Why an upgrade failed, in words; `reason` has what was heard of it.
    pub(super) fn failure(&mut self, failure: Failure) -> String {
        let reason = self.reason.take();
        let heard = |otherwise: &str| reason.clone().unwrap_or_else(|| otherwise.to_owned());
        match failure {
            Failure::Check => format!("the preflight command {}", heard("said no")),
            Failure::CheckTime => {
                let within = humantime::format_duration(self.settings.timeouts.upgrade);
                let output = reason.map(|output| format!(": {output}")).unwrap_or_default();
                format!("the preflight command did not end within {within}{output}")
            }
            Failure::Spawn => heard("the successor could not be started"),
            Failure::Exited => format!("the successor {} before it served", heard("exited")),
            Failure::Reported => format!("the successor could not start: {}", heard("it did not say why")),
            Failure::ChannelLost => {
                format!("the successor cannot be talked to: {}", heard("it broke the protocol"))
            }
            Failure::Refused => format!("the successor was refused: {}", heard("it is another service")),
            Failure::NotReady => {
                format!(
                    "the successor was not ready within {}: {}",
                    humantime::format_duration(self.settings.timeouts.upgrade),
                    self.not_ready_because(&self.unserved_by_successor),
                )
            }
            Failure::NoAnswer => format!(
                "the successor was told to serve and did not answer within {}",
                humantime::format_duration(HANDOVER_TIMEOUT),
            ),
            Failure::Probation => format!("the successor {} in its probation", heard("exited")),
            Failure::Over => heard("the body of the successor returned in its probation"),
            Failure::Silent => format!(
                "the successor gave no sign of life within {} after its probation: its process is stopped, or its body \
                 blocks the threads of its runtime",
                humantime::format_duration(self.settings.timeouts.upgrade),
            ),
            Failure::Background => format!("the successor {}", heard("put itself into the background")),
            Failure::Stopped => "the service was told to stop".to_owned(),
        }
    }

    /// What keeps a start from being ready: the first place to look.
    pub(super) fn not_ready_because(&self, unserved: &[String]) -> String {
        if unserved.is_empty() {
            return "its body has not called `Ready::notify`".to_owned();
        }
        let names: Vec<_> = unserved.iter().map(|name| format!("`{name}`")).collect();
        format!("its body has not asked for a connection of {}", names.join(", "))
    }

    pub(super) fn start_failure(&mut self, failure: StartFailure) -> String {
        if let Some(reason) = &self.reason {
            return reason.clone();
        }
        let reason = match failure {
            StartFailure::ReadyDropped => "the body dropped `Ready` without `notify`".to_owned(),
            StartFailure::BodyReturned => match &self.body.panic {
                Some(message) => format!("the body panicked: {}", printable(message)),
                None => "the body returned before it was ready".to_owned(),
            },
            StartFailure::Pidfile => "cannot write the pid file".to_owned(),
            StartFailure::Channel => "the channel to the predecessor failed".to_owned(),
            StartFailure::NoCommit => "the predecessor did not answer".to_owned(),
            StartFailure::Stopped => "it was told to stop".to_owned(),
        };
        self.reason.insert(reason).clone()
    }

    /// The deadline of the drain has passed.
    pub(super) fn name_what_is_left(&self) {
        let count = self.shared.counted();
        let body = if self.body.returned { "" } else { "; the body has not returned" };
        let peers = sockets::peers(&self.ports, NAMED_PEERS);
        let peers = if peers.is_empty() { String::new() } else { format!(" (from {})", peers.join(", ")) };
        complain!(
            self.shared,
            "not drained within {}: {count} connections and guards are open{peers}{body}; what is left is aborted",
            humantime::format_duration(if self.hastened { HASTE } else { self.settings.timeouts.drain }),
        );
    }
}
