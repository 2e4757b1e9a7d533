//! The rules that every step keeps.

use std::collections::BTreeSet;

use super::every::TIMERS;
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
        let is_alone_now = event == E::Exited || event == E::PredecessorGone && !before.remnant;
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

    fn check_gates(&self) {
        let (before, after) = (self.before, self.after);
        let opens = self.count(|action| matches!(action, A::Open)) == 1;
        let closes = self.count(|action| matches!(action, A::Pause | A::Drain | A::End(_))) > 0;
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
        let moving = P::Draining(Drain::Replaced { stop: false });
        let begins = after == moving && !matches!(before, P::Draining(_));
        let moves = self.count(|action| matches!(action, A::MoveConnections));
        self.assert(
            moves == usize::from(begins),
            "connections move from the begin of the drain after an upgrade",
        );
        let are_adjacent = self.actions.windows(2).any(|pair| pair == [A::MoveConnections, A::Drain]);
        self.assert(are_adjacent == begins, "the body hears of the drain when its connections can move");

        let is_reason =
            matches!(self.event, E::Stop | E::Leaving | E::SuccessorOver | E::ChannelLost | E::Exited);
        let keeps = self.count(|action| matches!(action, A::KeepConnections));
        self.assert(
            keeps == usize::from(before == moving && is_reason),
            "connections stay from a stop, or from the end of the successor, on",
        );
        let leaves = before == moving && after != moving && after != P::Ended;
        self.assert(!leaves || keeps == 1, "no connection moves in another drain");
    }

    fn check_haste(&self) {
        let (before, after, event) = (self.before, self.after, self.event);
        let is_hurried = before.phase == after.phase && event == E::Hasten;
        let is_replaced = matches!(before.phase, P::Draining(Drain::Replaced { .. }));
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
        let ends_time = self.event == E::Expired(Timer::Probation)
            && probation_of(self.before.phase) == Some(Probation::Running);
        let pings = self.count(|action| matches!(action, A::SendPing));
        self.assert(pings == usize::from(ends_time), "the end of the probation asks once for a sign of life");
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
        P::Starting | P::Checking | P::Upgrading | P::Pausing => (&[Timer::Upgrade], &[]),
        P::Prepared | P::Committed { .. } => (&[Timer::Handover], &[]),
        P::Standby(probation) => (&[probation.timer()], &[]),
        P::Announcing { .. } => (&[Timer::Announce], &[]),
        P::Reverting { .. } => (&[Timer::Exit], &[]),
        P::Serving if state.remnant => (&[Timer::Remnant], &[]),
        P::TakingOver | P::Serving => (&[], &[]),
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
                | P::Pausing
                | P::Committed { .. }
                | P::Standby(_)
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
        P::Committed { .. } | P::Standby(_) | P::Announcing { .. } | P::Reverting { paused: true, .. } => {
            true
        }
        P::Draining(Drain::Replaced { .. }) => true,
        P::Draining(Drain::Rescue { step, .. }) => step != Rescue::Waiting,
        _ => false,
    }
}
