//! The texts for the operator and the body: refusals, outcomes and reasons.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::base::error::{UpgradeError, UpgradeStep};
use crate::base::report::{complain, tell};
use crate::base::status::{FailedUpgrade, Outcome, UpgradeRecord};
use crate::between::note::Upgraded;
use crate::engine::core::{Engine, HANDOVER_TIMEOUT};
use crate::engine::ending;
use crate::engine::neighbours::DeadSuccessor;
use crate::engine::upgrade::history;
use crate::lifecycle::{Failure, Phase, Predecessor, Refusal};
use crate::outside::handover::message::Message;
use crate::outside::supervise;
use crate::sys::proc::AtTerminal;

/// The reason of a refusal, for the limit of equal lines.
fn error_kind(error: &UpgradeError) -> String {
    match error {
        UpgradeError::PredecessorOnStandby { .. } => "standby".to_owned(),
        error => error.to_string(),
    }
}

impl Engine {
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        let error = match refusal {
            Refusal::NotReady => UpgradeError::NotReady,
            Refusal::InProgress => UpgradeError::InProgress,
            Refusal::PredecessorDraining => match self.standby_of_predecessor() {
                Some(remaining) => UpgradeError::PredecessorOnStandby { remaining },
                None => UpgradeError::PredecessorDraining,
            },
            Refusal::SuccessorDraining => UpgradeError::SuccessorDraining,
            Refusal::Terminating => UpgradeError::Terminating,
        };
        // The time that remains makes no other reason of it.
        if let Some(line) =
            self.requests.refused.line_of(&error_kind(&error), &format!("upgrade refused: {error}"))
        {
            complain!(self.shared, WARN, "{line}");
        }
        self.neighbours.upgrade.counts.refused += 1;
        self.neighbours.upgrade.counts.last_failure = Some(error.to_string());
        self.tell_manager_of_refusal(&error.to_string());
        if let Some((Some(reply), _)) = self.neighbours.upgrade.asking.take() {
            reply.set(Err(error));
        }
        self.tell_outcome();
    }

    /// How long the predecessor stays on standby yet. An older release does not say how long its probation is.
    pub(super) fn standby_of_predecessor(&self) -> Option<Duration> {
        let predecessor = self.neighbours.predecessor.as_ref()?;
        if self.state.predecessor != Predecessor::Alive || predecessor.was_pinged {
            return None;
        }
        let probation = predecessor.offered.probation?;
        let remaining = probation.checked_sub(self.serving_since?.elapsed())?;
        (!remaining.is_zero()).then_some(remaining)
    }

    /// The caller waits until the predecessor is gone, and then for the outcome.
    pub(super) fn postpone(&mut self) {
        self.accept_request();
        self.note_target();
        self.neighbours.upgrade.requested = Some(Instant::now());
        tell!(self.shared, INFO, phase = "postponed", "an upgrade waits until the predecessor is gone");
    }

    pub(super) fn report_active(&mut self) {
        self.shared.set_handed_over(true);
        let Some(successor) = &self.neighbours.successor else { return };
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
        let answer = match outcome {
            Ok(()) => self.report_success(),
            Err(failure) => Err(self.report_failure(failure)),
        };
        for reply in self.neighbours.upgrade.waiting.drain(..) {
            reply.set(answer.clone());
        }
        self.tell_outcome();
    }
    fn report_success(&mut self) -> Result<Upgraded, UpgradeError> {
        let Some(successor) = &self.neighbours.successor else {
            // It passed its probation and died at that moment. The death is the next event.
            let reason = "the successor exited".to_owned();
            return Err(UpgradeError::Failed { step: UpgradeStep::Probation, reason });
        };
        let since_request = self.neighbours.upgrade.elapsed();
        let elapsed = successor.active_after.unwrap_or(since_request);
        let (pid, generation) = (successor.pid(), successor.generation);
        let warnings = successor.warnings.clone();
        let (from, to) = (self.release(), self.with_target(successor.release()));
        tell!(
            self.shared,
            INFO,
            phase = "draining",
            successor = pid,
            ?elapsed,
            from = from.version,
            to = to.version,
            executable = to.executable,
            "upgraded"
        );
        for warning in warnings.iter().chain(&self.leaves_terminal(pid)) {
            complain!(self.shared, WARN, "{warning}");
        }
        let served = SystemTime::now().checked_sub(since_request.saturating_sub(elapsed));
        let by = self.neighbours.upgrade.order.by.clone();
        let record = self.note_upgrade(UpgradeRecord {
            at: history::in_seconds(served.unwrap_or(UNIX_EPOCH)),
            outcome: Outcome::Upgraded,
            generation: self.shared.generation,
            pid: self.is_process.then_some(pid),
            from: from.clone(),
            to: to.clone(),
            duration: elapsed,
            by,
            ..UpgradeRecord::default()
        });
        self.send_to_successor(&Message::History { entries: vec![record] });
        Ok(Upgraded { generation, pid, elapsed, from, to, warnings })
    }

    fn report_failure(&mut self, failure: Failure) -> UpgradeError {
        let mut reason = self.failure(failure);
        // It is used once, so that no later reason is taken for one of this successor.
        let dead = std::mem::take(&mut self.neighbours.upgrade.dead_successor);
        // A request that a stop ends while it waits for the end of a remnant has no successor.
        let (is_process, is_remnant) = (self.is_process, self.state.remnant);
        let successor = self.neighbours.successor.as_mut();
        let successor = successor.filter(|_| !is_remnant || failure != Failure::Stopped);
        let (pid, release, last_words) = match successor {
            // A successor that is over, or was reverted, may live.
            Some(it) => {
                let last_words = if is_remnant { it.last_words.take() } else { None };
                (is_process.then(|| it.pid()), it.release(), last_words)
            }
            None => (dead.pid, dead.release, dead.last_words),
        };
        match failure {
            // There was no successor, or it is not the cause.
            Failure::Check | Failure::CheckTime | Failure::Spawn | Failure::Stopped | Failure::Unwatched => {}
            _ => reason += &last_of(pid, last_words),
        }
        let serves = match self.state.phase {
            Phase::Serving => "; this process serves on",
            _ => "",
        };
        complain!(self.shared, "upgrade failed: {reason}{serves}");
        self.tell_manager_of_failure(&reason);
        self.revert_has_ended((failure != Failure::Reverted).then_some(&reason));
        let (step, outcome) = (step_of(failure), outcome_of(failure));
        let at = history::in_seconds(SystemTime::now());
        let counts = &mut self.neighbours.upgrade.counts;
        counts.failed += 1;
        match outcome {
            Outcome::Rejected => counts.rejected += 1,
            Outcome::Reverted => counts.reverted += 1,
            Outcome::Stopped => counts.stopped += 1,
            Outcome::Upgraded | Outcome::Failed | Outcome::Unknown => {}
        }
        counts.last_failure = Some(reason.clone());
        counts.last_failed = Some(FailedUpgrade { pid, step, reason: reason.clone(), at });
        let by = self.neighbours.upgrade.order.by.clone();
        let record = self.note_upgrade(UpgradeRecord {
            at,
            outcome,
            generation: self.shared.generation,
            pid,
            from: self.release(),
            to: self.with_target(release),
            duration: self.neighbours.upgrade.elapsed(),
            by,
            step: Some(step),
            reason: Some(reason.clone()),
            aborted: None,
        });
        // Only this successor serves on.
        if failure == Failure::Unwatched {
            self.send_to_successor(&Message::History { entries: vec![record] });
        }
        UpgradeError::Failed { step, reason }
    }

    /// What the user of a terminal sees once this process has exited. Only the first generation is a job of the shell: for a later
    /// one the shell has the terminal. A supervisor stays the job.
    fn leaves_terminal(&self, successor: u32) -> Option<String> {
        let is_supervised = self.shared.passed_on.own(supervise::NAME).is_some();
        if !self.is_process || self.shared.generation > 1 || is_supervised {
            return None;
        }
        Some(match AtTerminal::find()? {
            AtTerminal::Job => format!(
                "process {successor} serves on without the terminal: once this process has exited, the shell goes on, and Ctrl-C \
                 does not reach the service; stop it with `kill {successor}`, or set the option `supervise = \"always\"`, which \
                 keeps the service in the foreground"
            ),
            AtTerminal::Leader => format!(
                "process {successor} serves on without the terminal, which hangs up once this process has exited; set the option \
                 `supervise = \"always\"` for a service that leads the session of its terminal"
            ),
        })
    }

    /// Why an upgrade failed. `reason` has the part that another process or the system said.
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
                format!("the handover to the successor failed: {}", heard("it broke the protocol"))
            }
            Failure::Refused => format!("the successor was refused: {}", heard("it is another service")),
            Failure::NotReady => {
                format!(
                    "the successor was not ready within {}: {}",
                    humantime::format_duration(self.settings.timeouts.upgrade),
                    ending::not_ready_because(self.neighbours.upgrade.dead_successor.unserved.as_deref()),
                )
            }
            Failure::Probe => {
                let probe = self.settings.probe.as_ref().map(|at| at.probe.to_string()).unwrap_or_default();
                format!("the successor failed the probe `{probe}`: {}", heard("it gave no answer"))
            }
            Failure::Verify => {
                let why = heard("the command did not end in time");
                format!("the successor failed the verification: {why}{}", self.how_it_gave_back())
            }
            Failure::Reverted => {
                format!("the upgrade was reverted on request{}", self.how_it_gave_back())
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

    /// How a successor has given the service back, if not in order.
    fn how_it_gave_back(&mut self) -> String {
        let hard = self.neighbours.revert.not_yielded.take();
        if self.state.remnant || !self.neighbours.upgrade.dead_successor.is_killed {
            return String::new();
        }
        let why = hard.map(|why| format!(" ({why})")).unwrap_or_default();
        format!(
            "; it did not give the service back{why} and was killed, so the connections that it had accepted are lost"
        )
    }

    /// What is known of the dead successor: why its body ended, and the process ID that its log is found by. It is used once, so that no
    /// later reason is taken for one of this successor.
    pub(super) fn of_dead_successor(&mut self) -> String {
        let DeadSuccessor { pid, last_words, .. } =
            std::mem::take(&mut self.neighbours.upgrade.dead_successor);
        last_of(pid, last_words)
    }
}

fn step_of(failure: Failure) -> UpgradeStep {
    match failure {
        Failure::Check | Failure::CheckTime => UpgradeStep::Preflight,
        Failure::Spawn => UpgradeStep::Spawn,
        Failure::Exited | Failure::Reported | Failure::Background => UpgradeStep::Start,
        Failure::Refused => UpgradeStep::Identity,
        Failure::NotReady => UpgradeStep::Readiness,
        Failure::Probe => UpgradeStep::Probe,
        Failure::Verify => UpgradeStep::Verify,
        Failure::Reverted => UpgradeStep::Revert,
        Failure::ChannelLost | Failure::NoAnswer => UpgradeStep::Handover,
        Failure::Probation | Failure::Over | Failure::Silent => UpgradeStep::Probation,
        Failure::Unwatched | Failure::Stopped => UpgradeStep::Stop,
    }
}

fn outcome_of(failure: Failure) -> Outcome {
    match failure {
        Failure::Check | Failure::CheckTime => Outcome::Rejected,
        Failure::Unwatched | Failure::Stopped => Outcome::Stopped,
        Failure::Reverted => Outcome::Reverted,
        Failure::Spawn
        | Failure::Exited
        | Failure::Reported
        | Failure::ChannelLost
        | Failure::Refused
        | Failure::NotReady
        | Failure::Probe
        | Failure::NoAnswer
        | Failure::Verify
        | Failure::Probation
        | Failure::Over
        | Failure::Silent
        | Failure::Background => Outcome::Failed,
    }
}

/// Why the body of a successor ended, and the number of its process.
fn last_of(pid: Option<u32>, last_words: Option<String>) -> String {
    let words = last_words.map(|words| format!(": {words}")).unwrap_or_default();
    let pid = pid.map(|pid| format!("; it was process {pid}")).unwrap_or_default();
    words + &pid
}
