//! What the operator and the body are told: refusals, outcomes and reasons, in words.

use super::{DeadSuccessor, Engine, HANDOVER_TIMEOUT, HASTE, NAMED_PEERS, Parent};
use crate::error::UpgradeError;
use crate::handover::message::Message;
use crate::lifecycle::{Failure, Phase, Predecessor, Refusal, StartFailure};
use crate::report::{complain, tell};
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
                let mut reason = self.failure(failure);
                let of_successor = match &mut self.successor {
                    // It is over, and may live on.
                    Some(successor) if failure == Failure::Over => {
                        let pid = self.is_process.then(|| successor.pid());
                        last_of(pid, successor.last_words.take())
                    }
                    _ => self.of_dead_successor(),
                };
                match failure {
                    // There was none, or it is not the cause.
                    Failure::Check | Failure::CheckTime | Failure::Spawn | Failure::Stopped => {}
                    _ => reason += &of_successor,
                }
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
                    not_ready_because(self.dead_successor.unserved.as_deref()),
                )
            }
            Failure::NoAnswer => format!(
                "the successor was told to serve and did not answer within {}",
                humantime::format_duration(HANDOVER_TIMEOUT),
            ),
            Failure::Probation | Failure::Over => {
                format!("the successor {} in its probation", heard("ended"))
            }
            Failure::Unwatched => format!(
                "process {}, the predecessor, was told to stop before the probation was over; process {} serves, and nothing \
                 watches it",
                self.shared.pid,
                self.successor_pid().unwrap_or_default(),
            ),
            Failure::Silent => format!(
                "the successor gave no sign of life within {} after its probation: its process is stopped, or its body \
                 blocks the threads of its runtime",
                humantime::format_duration(self.settings.timeouts.upgrade),
            ),
            Failure::Background => format!("the successor {}", heard("put itself into the background")),
            Failure::Stopped => "the service was told to stop".to_owned(),
        }
    }

    pub(super) fn start_failure(&mut self, failure: StartFailure) -> String {
        if let Some(reason) = &self.reason {
            return reason.clone();
        }
        let reason = match failure {
            StartFailure::ReadyDropped => "the body dropped `Ready` without `notify`".to_owned(),
            StartFailure::BodyReturned => self.body.end.before_ready(),
            StartFailure::Pidfile => "cannot write the pid file".to_owned(),
            StartFailure::Channel => "the channel to the predecessor failed".to_owned(),
            // The deadline of the answer, and that of a death after the end of the channel, come at the same time.
            StartFailure::NoCommit => self
                .parent
                .as_ref()
                .filter(|parent| parent.is_at_its_end)
                .map_or_else(|| "the predecessor did not answer".to_owned(), Parent::lost),
            StartFailure::Stopped => "it was told to stop".to_owned(),
        };
        self.reason.insert(reason).clone()
    }

    /// What is known of the successor beside how it died: why its body ended, and the process ID that its log is found by. It is said
    /// once, so that the next reason is not taken for one of this process.
    pub(super) fn of_dead_successor(&mut self) -> String {
        let DeadSuccessor { pid, last_words, .. } = std::mem::take(&mut self.dead_successor);
        last_of(pid, last_words)
    }

    /// The body has ended, and nobody had asked for it: neither a supervisor nor a log would tell that from an end that was.
    pub(super) fn tell_unasked_end(&mut self) {
        let serves = match self.state.phase {
            Phase::Serving | Phase::Checking | Phase::Upgrading | Phase::Pausing => true,
            Phase::Reverting { then_stop, .. } => !then_stop,
            // A start that fails says why, and after a stop or an upgrade a body is meant to return.
            _ => false,
        };
        if !serves || self.stopping.is_some() {
            return;
        }
        let end = self.body.end.unasked();
        let what = match self.state.phase {
            // Neither a predecessor that is over goes on, nor a successor that is over, nor one that is being ended.
            _ if self.state.predecessor == Predecessor::Alive => {
                "this process ends, and its predecessor goes on"
            }
            Phase::Upgrading | Phase::Pausing => "this process ends, and its successor goes on",
            Phase::Reverting { paused: true, .. } => {
                "this process's own executable is started in its place, once its successor is gone"
            }
            _ => "the service ends",
        };
        complain!(self.shared, WARN, "{end}; {what}");
        // A predecessor that watches it says it in the reason.
        self.say_up(&Message::Failed { reason: end });
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

/// Why the body of a successor ended, and which process it was.
fn last_of(pid: Option<u32>, last_words: Option<String>) -> String {
    let words = last_words.map(|words| format!(": {words}")).unwrap_or_default();
    let pid = pid.map(|pid| format!("; it was process {pid}")).unwrap_or_default();
    words + &pid
}

/// What keeps a start from being ready: the first place to look. `None` of a process that has not said anything yet.
pub(super) fn not_ready_because(unserved: Option<&[String]>) -> String {
    match unserved {
        None => {
            "it has not said anything yet: it was stopped, or hangs before `Service::run` takes the listeners"
                .to_owned()
        }
        Some([]) => "its body has not called `Ready::notify`".to_owned(),
        Some(names) => {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            format!("its body has not asked for a connection of {}", names.join(", "))
        }
    }
}
