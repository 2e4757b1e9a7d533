//! The engine's part in a graceful revert: the token, and the answers to those who have asked for it.

use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::error::RevertError;
use crate::base::report::{complain, tell};
use crate::between::note::{RevertReply, Reverted};
use crate::engine::core::{Engine, HANDOVER_TIMEOUT};
use crate::lifecycle::{Event, NoRevert, Phase};
use crate::outside::handover::message::Message;
use crate::sys::token::Token;

impl Engine {
    /// A request to revert, by a caller that waits for the answer.
    pub(in crate::engine) fn ask_for_revert(&mut self, reply: Arc<RevertReply>) {
        tell!(self.shared, INFO, phase = "revert", "asked to revert");
        self.neighbours.revert.asking = Some((reply, Instant::now()));
        self.feed(Event::Revert);
        let revert = &mut self.neighbours.revert;
        revert.waiting.extend(revert.asking.take());
    }

    /// Answers the request that is made at this moment, or else those that wait.
    pub(super) fn report_revert(&mut self, outcome: Result<(), NoRevert>) {
        let outcome = match outcome {
            Ok(()) => self.predecessor_serves(),
            Err(reason) => Err(self.no_revert(reason)),
        };
        if let Err(error) = &outcome {
            complain!(self.shared, WARN, "no revert: {error}");
        }
        self.answer_reverts(&outcome);
    }

    fn predecessor_serves(&self) -> Result<(u64, u32), RevertError> {
        let predecessor = self.neighbours.predecessor.as_ref();
        predecessor
            .map(|it| (self.shared.generation.saturating_sub(1), it.offered.pid))
            .ok_or(RevertError::NoStandby)
    }

    /// This process serves again: its callers have what they have asked for. `failure`: it does, but for another reason.
    pub(super) fn revert_has_ended(&mut self, failure: Option<&str>) {
        // In a process that was asked to give the service back, the predecessor says how it ends.
        if self.state.asking {
            return;
        }
        let outcome = match failure {
            None => Ok((self.shared.generation, self.shared.pid)),
            Some(reason) => Err(RevertError::Failed { reason: reason.to_owned() }),
        };
        self.answer_reverts(&outcome);
    }

    fn answer_reverts(&mut self, outcome: &Result<(u64, u32), RevertError>) {
        let revert = &mut self.neighbours.revert;
        let asked = match revert.asking.take() {
            Some(asking) => vec![asking],
            None => mem::take(&mut revert.waiting),
        };
        for (reply, requested) in asked {
            let elapsed = requested.elapsed();
            reply.set(outcome.clone().map(|(generation, pid)| Reverted { generation, pid, elapsed }));
        }
        self.tell_outcome();
    }

    fn no_revert(&self, reason: NoRevert) -> RevertError {
        let failed = |reason: String| RevertError::Failed { reason };
        match reason {
            NoRevert::NoStandby => match self.state.phase {
                Phase::Draining(_) | Phase::Ended => RevertError::Terminating,
                _ => RevertError::NoStandby,
            },
            NoRevert::InProgress => RevertError::InProgress,
            NoRevert::NoAnswer => failed(format!(
                "the process on standby did not answer within {}; if it goes on, it serves again then",
                humantime::format_duration(HANDOVER_TIMEOUT)
            )),
            NoRevert::InVain => failed(format!(
                "the successor serves again, because this process did not take the service within {}",
                humantime::format_duration(HANDOVER_TIMEOUT)
            )),
            NoRevert::Declined => failed("the process that was to serve again cannot".to_owned()),
            NoRevert::Stopped => RevertError::Terminating,
        }
    }

    /// This process ends: nothing is answered any more.
    pub(super) fn refuse_reverts(&mut self) {
        for (reply, _) in self.neighbours.revert.waiting.drain(..) {
            reply.set(Err(RevertError::Terminating));
        }
    }

    pub(super) fn send_recall(&mut self) {
        let successor = self.successor_pid();
        let reason = self.reason.as_deref();
        tell!(
            self.shared,
            INFO,
            phase = "recalling",
            successor,
            reason,
            "the successor is to give the service back"
        );
        self.send_to_successor(&Message::Recall);
    }

    /// Closes the gates of the listeners that come from the predecessor, and makes the token.
    pub(super) fn yield_gates(&mut self) -> Event {
        let token = match Token::new() {
            Ok(token) => token,
            Err(error) => {
                self.reason = Some(format!("cannot make the token of the handover: {error}"));
                return Event::ChannelLost;
            }
        };
        self.neighbours.revert.token = Some(token);
        tell!(self.shared, INFO, phase = "yielding", "the predecessor is to serve again");
        self.close_shared_gates(Engine::comes_from_predecessor)
    }

    pub(super) fn send_yielded(&mut self) {
        let drain_ms = self.settings.timeouts.drain.as_millis().try_into().ok();
        let token = self.neighbours.revert.token.iter().map(Token::share).collect();
        let Some(predecessor) = &mut self.neighbours.predecessor else { return };
        match predecessor.channel.send_with(&Message::Yielded { drain_ms }, token) {
            // The next read notices that the predecessor is gone.
            Ok(()) | Err(_) => {}
        }
    }

    pub(super) fn send_not_yielded(&mut self) {
        let reason = self.reason.take().unwrap_or_else(|| "a gate does not close".to_owned());
        complain!(self.shared, "no revert: {reason}");
        self.send_to_predecessor(&Message::NotYielded { reason });
    }

    /// Takes the token back.
    pub(super) fn reclaim(&self) -> Event {
        match self.neighbours.revert.token.as_ref().map(Token::take) {
            Some(Ok(true)) => Event::Reclaimed,
            Some(Ok(false) | Err(_)) | None => Event::ReclaimedTooLate,
        }
    }

    /// The successor has closed its gates.
    pub(super) fn hear_yielded(&mut self, drain_ms: Option<u64>, fds: Vec<OwnedFd>) -> Event {
        if let Some(successor) = &mut self.neighbours.successor {
            successor.drain = drain_ms.map(Duration::from_millis);
        }
        if !matches!(self.state.phase, Phase::Recalling { .. }) {
            self.reason = Some("it gives the service back, and was not asked to".to_owned());
            return Event::Yielded;
        }
        let token = fds.into_iter().next().map(|fd| Token::received(fd).and_then(|token| token.take()));
        match token {
            Some(Ok(true)) => Event::Yielded,
            Some(Ok(false)) => Event::YieldedInVain,
            Some(Err(error)) => self.not_yielded(format!("the token that it gives back is no good: {error}")),
            None => self.not_yielded("it gives the service back without a token".to_owned()),
        }
    }

    pub(super) fn not_yielded(&mut self, reason: String) -> Event {
        self.neighbours.revert.not_yielded = Some(reason);
        Event::NotYielded
    }

    /// How long a successor that gives the service back may drain.
    pub(in crate::engine) fn drain_of_remnant(&self) -> Duration {
        let theirs = self.neighbours.successor.as_ref().and_then(|successor| successor.drain);
        self.settings.timeouts.drain.max(theirs.unwrap_or_default())
    }
}
