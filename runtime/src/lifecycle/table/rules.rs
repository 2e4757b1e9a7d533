//! The rules that every step keeps.

use std::collections::BTreeSet;

use super::every::{TIMERS, runs};
use crate::lifecycle::action::Action as A;
use crate::lifecycle::event::{Event as E, Timer};
use crate::lifecycle::phase::{Drain, Phase as P, Probation, Rescue};
use crate::lifecycle::{End, Followed, Predecessor, State};

/// One step, whose rules are checked.
struct Step {
    before: State,
    event: E,
    after: State,
    actions: Vec<A>,
}

pub(super) fn check(before: State, event: E) {
    let (after, actions) = before.step(event);
    let step = Step { before, event, after, actions };
    step.check_end();
    step.check_request_to_upgrade();
    step.check_outcome();
    step.check_manager();
    step.check_probe_and_verification();
    step.check_revert();
    step.check_gates();
    step.check_moving();
    step.check_haste();
    step.check_pid_file();
    step.check_probation();
    step.check_rescue();
    step.check_notes();
    step.check_timers();
}

impl Step {
    #[track_caller]
    fn assert(&self, holds: bool, rule: &str) {
        let Step { before, event, after, actions } = self;
        assert!(holds, "{rule}: {before:?} + {event:?} -> {after:?} {actions:?}");
    }

    fn count(&self, wanted: fn(&A) -> bool) -> usize {
        self.actions.iter().filter(|action| wanted(action)).count()
    }

    fn has(&self, action: A) -> bool {
        self.actions.contains(&action)
    }

    fn check_end(&self) {
        let ends = self.count(|action| matches!(action, A::End(_))) == 1;
        let enters_end = self.before.phase != P::Ended && self.after.phase == P::Ended;
        self.assert(ends == enters_end, "a process is over exactly when it has the action for that");
        let stays = self.before.phase != P::Ended || self.after.phase == P::Ended;
        self.assert(stays, "a process that is over stays over");
    }

    fn check_request_to_upgrade(&self) {
        let (before, after, event) = (self.before, self.after, self.event);
        let answers = self.count(|action| matches!(action, A::Refuse(_) | A::Postpone | A::Check));
        let is_alone_now =
            event == E::Exited && !runs(before.predecessor) || event == E::PredecessorGone && !before.remnant;
        let is_due = before.pending && is_alone_now;
        self.assert(
            answers == usize::from(event == E::Upgrade || is_due),
            "each request to upgrade is refused, postponed or begun",
        );
        let begins_to_wait = after.pending && !before.pending;
        self.assert(begins_to_wait == self.has(A::Postpone), "a postponed request is pending");
        self.assert(
            !after.pending || after.phase == P::Serving || after.phase == P::Ended,
            "a request waits only while this process serves",
        );

        let is_checked = before.phase == P::Checking && event == E::Checked;
        let spawns = self.count(|action| matches!(action, A::Spawn));
        self.assert(spawns == usize::from(is_checked), "only a checked release is started");
        let leaves_check = before.phase == P::Checking && after.phase != P::Checking && !is_checked;
        let ends_check = self.count(|action| matches!(action, A::EndCheck));
        self.assert(ends_check == usize::from(leaves_check), "a check without an answer is ended");
    }

    fn check_outcome(&self) {
        let reports = self.count(|action| matches!(action, A::Report(_)));
        if self.after.phase == P::Ended {
            self.assert(reports <= 1, "an upgrade has one outcome; the exit of the process may be it");
        } else {
            let is_owed = owes_outcome(self.before) && !owes_outcome(self.after);
            self.assert(reports == usize::from(is_owed), "an upgrade has one outcome");
        }
        if self.has(A::Report(Ok(()))) {
            let is_proven = matches!(self.event, E::Announced | E::Expired(Timer::Announce | Timer::Quiet));
            let is_leaving = matches!(
                self.before.phase,
                P::Announcing { leaving: true, .. } | P::Announcing { stop: true, .. }
            );
            self.assert(is_proven && !is_leaving, "an upgrade succeeds only after the probation");
        }
    }

    fn check_manager(&self) {
        let (before, event) = (self.before, self.event);
        let announces = self.count(|action| matches!(action, A::Announce)) == 1;
        let passes = before.phase == P::Standby(Probation::Passed) && event == E::Expired(Timer::Quiet);
        self.assert(
            announces == (passes && before.followed == Followed::This),
            "the followed process announces a successor that has passed its probation",
        );
        if before.followed != self.after.followed {
            let is_reason = matches!(
                event,
                E::Announced | E::Followed | E::PredecessorGone | E::Expired(Timer::Announce)
            );
            self.assert(
                is_reason && before.followed != Followed::Nobody,
                "the manager follows another process only for a reason",
            );
        }
    }

    fn check_probe_and_verification(&self) {
        let (before, after, event) = (self.before.phase, self.after.phase, self.event);
        let probes = self.count(|action| matches!(action, A::Probe));
        let is_prepared = before == P::Upgrading && event == E::Prepared;
        self.assert(probes == usize::from(is_prepared), "each successor that is prepared is probed");
        self.assert(
            after != P::Pausing || before == P::Pausing || before == P::Probing && event == E::Probed,
            "only a successor that has passed the probe gets the service",
        );
        let is_answered = matches!(event, E::Probed | E::ProbeFailed);
        let leaves_probe = before == P::Probing && after != P::Probing && !is_answered;
        let ends = self.count(|action| matches!(action, A::EndProbe));
        self.assert(ends == usize::from(leaves_probe), "a probe without an answer is ended");

        let is_standby = |phase| matches!(phase, P::Standby(_));
        let verifies = self.count(|action| matches!(action, A::Verify));
        self.assert(
            verifies == usize::from(is_standby(after) && !is_standby(before)),
            "a successor is verified from the begin of the standby",
        );
        let ends = self.count(|action| matches!(action, A::EndVerify));
        self.assert(
            ends == usize::from(is_standby(before) && !is_standby(after)),
            "the verification ends with the standby",
        );
        let succeeds = self.has(A::Report(Ok(())));
        let has_passed = matches!(before, P::Standby(Probation::Passed) | P::Announcing { .. });
        self.assert(!succeeds || has_passed, "an upgrade succeeds only after its verification");
        if is_standby(before) && event == E::VerifyFailed {
            let ends = matches!(after, P::Recalling { .. } | P::Reverting { .. });
            self.assert(ends, "a successor that fails its verification does not serve on");
        }
    }

    fn check_revert(&self) {
        let (before, after, event) = (self.before, self.after, self.event);
        let is_recalling = |state: State| matches!(state.phase, P::Recalling { .. });
        let begins_to_recall = is_recalling(after) && !is_recalling(before);
        let recalls = self.count(|action| matches!(action, A::SendRecall));
        self.assert(recalls == usize::from(begins_to_recall), "the service is recalled once");
        self.assert(!begins_to_recall || !before.body_gone, "a process without a body recalls nothing");
        if event == E::AskedBack {
            let declines = self.has(A::SendDeclined);
            self.assert(declines != is_recalling(after), "a successor that asks is recalled or told no");
        }
        let reports = self.count(|action| matches!(action, A::ReportRevert(_)));
        let begins_to_ask = after.asking && !before.asking;
        let is_refused = event == E::Revert && !begins_to_recall && !begins_to_ask;
        let gives_up = is_recalling(before) && matches!(after.phase, P::Standby(_) | P::Committed { .. });
        let is_answered = before.asking && !after.asking;
        self.assert(
            reports == usize::from(is_refused || gives_up || is_answered) || after.phase == P::Ended,
            "each request to revert has one answer",
        );
        if self.has(A::ReportRevert(Ok(()))) {
            let is_known = before.phase == P::Yielded && event == E::Resumed;
            self.assert(is_known, "a revert has succeeded when the predecessor says so");
        }

        let yields = self.count(|action| matches!(action, A::SendYielded));
        let has_yielded = after.phase == P::Yielded && before.phase != P::Yielded;
        self.assert(yields == usize::from(has_yielded), "closed gates are told once");
        self.assert(!has_yielded || event == E::Paused, "the gates are closed before that is told");
        if matches!(before.phase, P::Yielding | P::Yielded) && after.phase != before.phase {
            let is_reason = match after.phase {
                P::TakingOver => {
                    matches!(event, E::Commit | E::PredecessorGone | E::PredecessorOver | E::Reclaimed)
                }
                P::Serving => before.phase == P::Yielding && event == E::ChannelLost,
                P::Draining(Drain::Reverted { stop }) => {
                    before.phase == P::Yielded && event == if stop { E::Stop } else { E::Resumed }
                }
                P::Draining(Drain::Stop { owner: true }) => before.phase == P::Yielding && event == E::Stop,
                P::Yielded => true,
                P::Ended => event == E::BodyReturned,
                _ => false,
            };
            self.assert(
                is_reason,
                "a process that has yielded serves again only if its predecessor does not",
            );
        }
        let at = |wanted: A| self.actions.iter().position(|action| *action == wanted);
        if let Some(resumed) = at(A::SendResumed) {
            self.assert(is_recalling(before) && event == E::Yielded, "only a token resumes the service");
            let (pid_file, open) = (at(A::TakeBack), at(A::Open));
            self.assert(
                pid_file.is_some() && pid_file < open && open < Some(resumed),
                "the pid file comes first, then the gates, then the message",
            );
        }
        let serves_no_more =
            before.phase == P::Serving && after.phase != P::Serving && after.phase != P::Checking;
        if serves_no_more && before.remnant {
            self.assert(self.has(A::SendStop), "the end of the service is the end of the remnant");
        }
    }

    fn check_gates(&self) {
        let (before, after) = (self.before, self.after);
        let opens = self.count(|action| matches!(action, A::Open)) == 1;
        let closes = self.count(|action| matches!(action, A::Pause | A::Yield | A::Drain | A::End(_))) > 0;
        self.assert(
            opens == (!before.is_open() && after.is_open()),
            "the gates open when a phase with open gates begins",
        );
        let leaves = before.is_open() && !after.is_open();
        self.assert(!leaves || closes, "the gates close when a phase with open gates ends");

        // The drain removes the paths of the listeners that the successor does not have.
        let at = |wanted: A| self.actions.iter().position(|action| *action == wanted);
        if let (P::Draining(Drain::Leaving { .. }), Some(let_go), Some(drain)) =
            (after.phase, at(A::LetGo), at(A::Drain))
        {
            self.assert(drain < let_go, "the drain begins before the other listeners are closed");
        }
    }

    fn check_moving(&self) {
        let (before, after) = (self.before.phase, self.after.phase);
        let is_moving = |phase| {
            let (replaced, reverted) = (Drain::Replaced { stop: false }, Drain::Reverted { stop: false });
            phase == P::Draining(replaced) || phase == P::Draining(reverted)
        };
        let begins = is_moving(after) && !matches!(before, P::Draining(_));
        let moves = self.count(|action| matches!(action, A::MoveConnections));
        self.assert(
            moves == usize::from(begins),
            "connections move from the begin of the drain after an upgrade or a revert",
        );
        let are_adjacent = self.actions.windows(2).any(|pair| pair == [A::MoveConnections, A::Drain]);
        self.assert(are_adjacent == begins, "the body hears of the drain when its connections can move");

        let is_reason = match before {
            P::Draining(Drain::Reverted { .. }) => {
                matches!(self.event, E::Stop | E::PredecessorOver | E::PredecessorGone)
                    && !(self.event == E::PredecessorOver && self.before.predecessor != Predecessor::Alive)
            }
            _ => matches!(self.event, E::Stop | E::Leaving | E::SuccessorOver | E::ChannelLost | E::Exited),
        };
        let keeps = self.count(|action| matches!(action, A::KeepConnections));
        self.assert(
            keeps == usize::from(is_moving(before) && is_reason),
            "connections stay from a stop, or from the end of the other process, on",
        );
        let leaves = is_moving(before) && !is_moving(after) && after != P::Ended;
        self.assert(!leaves || keeps == 1, "no connection moves in another drain");
    }

    fn check_haste(&self) {
        let (before, after, event) = (self.before, self.after, self.event);
        let is_hurried = before.phase == after.phase && event == E::Hasten;
        let is_replaced =
            matches!(before.phase, P::Draining(Drain::Replaced { .. } | Drain::Reverted { .. }));
        let begins_hurried = self.count(|action| matches!(action, A::Drain)) == 1 && after.hastened;
        let hastens = self.count(|action| matches!(action, A::Hasten));
        self.assert(
            hastens == usize::from(is_hurried && is_replaced || begins_hurried),
            "haste shortens the drain of a replaced process at once, and each other drain at its beginning",
        );
        let hastened = event != E::Exited && (before.hastened || event == E::Hasten);
        self.assert(after.hastened == hastened, "haste lasts until the successor is dead");
    }

    fn check_pid_file(&self) {
        let is_leaving = matches!(self.after.phase, P::Draining(Drain::Leaving { .. }));
        if self.event == E::Exited && may_have_taken_over(self.before.phase) && !is_leaving {
            self.assert(self.has(A::TakeBack), "the pid file is restored after the death of a successor");
        }
    }

    fn check_probation(&self) {
        let ends_time = match probation_of(self.before.phase) {
            Some(Probation::Verified) => self.event == E::Expired(Timer::Probation),
            Some(Probation::Unverified) => self.event == E::Verified,
            _ => false,
        };
        let pings = self.count(|action| matches!(action, A::SendPing));
        self.assert(
            pings == usize::from(ends_time),
            "the end of the probation and of a verification asks once for a sign of life",
        );
        let passed = Some(Probation::Passed);
        if probation_of(self.after.phase) == passed && probation_of(self.before.phase) != passed {
            let was_asked = probation_of(self.before.phase) == Some(Probation::Asked);
            self.assert(
                self.event == E::Alive && was_asked,
                "only a requested sign of life passes the probation",
            );
        }
    }

    fn check_rescue(&self) {
        if let (P::Draining(Drain::Rescue { step, attempt, .. }), E::Exited) = (self.before.phase, self.event)
        {
            let stops = step == Rescue::Killing { stop: true };
            if step != Rescue::Waiting && !stops {
                let gives_up = self.has(A::End(End::RescueFailed));
                self.assert(gives_up == (attempt == 5), "a rescue has five attempts");
            }
        }
    }

    /// The facts that every phase notes alike.
    fn check_notes(&self) {
        let (before, after, event) = (self.before, self.after, self.event);
        self.assert(!after.remnant || event != E::Exited, "a remnant that is dead is none");
        let body_gone = before.body_gone || event == E::BodyReturned;
        self.assert(after.body_gone == body_gone, "the return of the body is noted");
        let predecessor = match (event, before.predecessor) {
            (E::PredecessorGone, _) => Predecessor::Gone,
            (E::PredecessorOver, Predecessor::Alive) => Predecessor::Over,
            (_, predecessor) => predecessor,
        };
        self.assert(after.predecessor == predecessor, "the end of the predecessor is noted");
        let becomes_followed =
            before.followed == Followed::Other && matches!(event, E::PredecessorGone | E::Followed);
        let is_announced = matches!(before.phase, P::Announcing { .. })
            && matches!(event, E::Announced | E::Expired(Timer::Announce));
        let followed = match (becomes_followed, is_announced) {
            (true, _) => Followed::This,
            (_, true) => Followed::Other,
            _ => before.followed,
        };
        self.assert(after.followed == followed, "the followed process is noted");
    }

    /// No timer is left behind and none is missing. A timer that has expired is not armed any more.
    fn check_timers(&self) {
        let (mut armed, _) = timers(self.before);
        for action in &self.actions {
            match action {
                A::Arm(timer) => _ = armed.insert(*timer),
                A::Disarm(timer) => _ = armed.remove(timer),
                _ => {}
            }
        }
        if let E::Expired(timer) = self.event {
            if !self.has(A::Arm(timer)) && self.after.phase != self.before.phase {
                armed.remove(&timer);
            }
        }
        // At the end of a process the engine disarms every timer.
        if self.after.phase == P::Ended {
            return;
        }
        let (must, may) = timers(self.after);
        self.assert(must.is_subset(&armed), "a timer is missing");
        let extra: BTreeSet<_> = armed.difference(&must).copied().collect();
        self.assert(extra.is_subset(&may), "a timer is left behind");
    }
}

/// The timers that run in a state: those that must, and those that may.
fn timers(state: State) -> (BTreeSet<Timer>, BTreeSet<Timer>) {
    let (must, may): (&[Timer], &[Timer]) = match state.phase {
        P::Starting | P::Checking | P::Upgrading | P::Probing | P::Pausing => (&[Timer::Upgrade], &[]),
        P::Prepared | P::Committed { .. } | P::Recalling { .. } | P::Yielded => (&[Timer::Handover], &[]),
        P::Serving if state.asking => (&[Timer::Handover], &[]),
        P::Standby(probation) => (&[probation.timer()], &[]),
        P::Announcing { .. } => (&[Timer::Announce], &[]),
        P::Reverting { .. } => (&[Timer::Exit], &[]),
        P::Serving if state.remnant => (&[Timer::Remnant], &[]),
        P::TakingOver | P::Serving | P::Yielding => (&[], &[]),
        P::Draining(Drain::Rescue { step, finished, .. }) => {
            let drain: &[Timer] = if finished { &[] } else { &[Timer::Drain] };
            let own: &[Timer] = match step {
                Rescue::Initialising => &[Timer::Upgrade],
                Rescue::Committed => &[Timer::Handover],
                Rescue::Probation(probation) => &[probation.timer()],
                Rescue::Killing { .. } => &[Timer::Exit],
                Rescue::Waiting => &[Timer::Backoff],
            };
            let must = drain.iter().chain(own).copied().collect();
            return (must, BTreeSet::from([Timer::Drain]));
        }
        P::Draining(_) => (&[Timer::Drain], &[]),
        P::Ended => (&[], &TIMERS),
    };
    (must.iter().copied().collect(), may.iter().copied().collect())
}

/// Whether an operator waits for the outcome of an upgrade.
fn owes_outcome(state: State) -> bool {
    state.pending
        || matches!(
            state.phase,
            P::Checking
                | P::Upgrading
                | P::Probing
                | P::Pausing
                | P::Committed { .. }
                | P::Standby(_)
                | P::Recalling { .. }
                | P::Announcing { .. }
                | P::Reverting { .. }
        )
}

fn probation_of(phase: P) -> Option<Probation> {
    match phase {
        P::Standby(probation) | P::Draining(Drain::Rescue { step: Rescue::Probation(probation), .. }) => {
            Some(probation)
        }
        _ => None,
    }
}

/// Whether the pid file may name the successor.
fn may_have_taken_over(phase: P) -> bool {
    match phase {
        P::Committed { .. }
        | P::Standby(_)
        | P::Recalling { .. }
        | P::Announcing { .. }
        | P::Reverting { paused: true, .. } => true,
        P::Draining(Drain::Replaced { .. }) => true,
        P::Draining(Drain::Rescue { step, .. }) => step != Rescue::Waiting,
        _ => false,
    }
}
