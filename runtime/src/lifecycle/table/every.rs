//! Every phase, every event and every state.

use std::collections::{BTreeSet, HashSet};

use crate::lifecycle::event::{Event as E, Timer};
use crate::lifecycle::phase::{Drain, Phase as P, Probation, Rescue};
use crate::lifecycle::rescue::RESCUE_ATTEMPTS;
use crate::lifecycle::{Failure, Followed, Overlap, Predecessor, State};

pub(super) const PREDECESSORS: [Predecessor; 4] =
    [Predecessor::None, Predecessor::Alive, Predecessor::Over, Predecessor::Gone];

pub(super) const OVERLAPS: [Overlap; 3] = [Overlap::Refuse, Overlap::Wait, Overlap::Hasten];

pub(super) const FOLLOWED: [Followed; 3] = [Followed::Nobody, Followed::This, Followed::Other];

const FAILURES: [Failure; 18] = [
    Failure::Probe,
    Failure::Verify,
    Failure::Reverted,
    Failure::Over,
    Failure::Silent,
    Failure::Unwatched,
    Failure::Background,
    Failure::Check,
    Failure::CheckTime,
    Failure::Spawn,
    Failure::Exited,
    Failure::Reported,
    Failure::ChannelLost,
    Failure::Refused,
    Failure::NotReady,
    Failure::NoAnswer,
    Failure::Probation,
    Failure::Stopped,
];

pub(super) const TIMERS: [Timer; 9] = [
    Timer::Quiet,
    Timer::Remnant,
    Timer::Upgrade,
    Timer::Handover,
    Timer::Probation,
    Timer::Drain,
    Timer::Exit,
    Timer::Backoff,
    Timer::Announce,
];

pub(super) fn phases() -> Vec<P> {
    let mut phases = vec![
        P::Starting,
        P::Prepared,
        P::TakingOver,
        P::Serving,
        P::Checking,
        P::Upgrading,
        P::Probing,
        P::Pausing,
        P::Yielding,
        P::Yielded,
        P::Standby(Probation::Running),
        P::Standby(Probation::Verified),
        P::Standby(Probation::Unverified),
        P::Standby(Probation::Asked),
        P::Standby(Probation::Passed),
        P::Ended,
    ];
    for a in [false, true] {
        phases.push(P::Committed { stop: a });
        phases.push(P::Draining(Drain::Stop { owner: a }));
        phases.push(P::Draining(Drain::Replaced { stop: a }));
        phases.push(P::Draining(Drain::Leaving { stop: a }));
        phases.push(P::Draining(Drain::Reverted { stop: a }));
        phases.push(P::Draining(Drain::Last { stop: a }));
        for failure in [Failure::Reverted, Failure::Verify] {
            phases.push(P::Recalling { stop: a, failure });
        }
        for b in [false, true] {
            // A stop of this process is passed on to the successor.
            if b || !a {
                phases.push(P::Announcing { stop: a, leaving: b });
            }
            for failure in FAILURES {
                phases.push(P::Reverting { paused: a, then_stop: b, failure });
            }
        }
        for attempt in 1..=RESCUE_ATTEMPTS {
            for step in [
                Rescue::Initialising,
                Rescue::Committed,
                Rescue::Probation(Probation::Verified),
                Rescue::Probation(Probation::Asked),
                Rescue::Probation(Probation::Passed),
                Rescue::Killing { stop: false },
                Rescue::Killing { stop: true },
                Rescue::Waiting,
            ] {
                phases.push(P::Draining(Drain::Rescue { step, attempt, finished: a }));
            }
        }
    }
    phases
}

pub(super) fn events() -> Vec<E> {
    let mut events = Vec::new();
    let mut next = Some(E::Upgrade);
    while let Some(event) = next {
        events.push(event);
        next = after(event);
    }
    events.extend(TIMERS.map(E::Expired));
    events
}

/// C2: the event after this one. The match is exhaustive, so this file does not compile until a new event is in the chain.
fn after(event: E) -> Option<E> {
    Some(match event {
        E::Upgrade => E::Stop,
        E::Stop => E::Ready,
        E::Ready => E::NotReady,
        E::NotReady => E::BodyReturned,
        E::BodyReturned => E::Drained,
        E::Drained => E::Commit,
        E::Commit => E::PredecessorGone,
        E::PredecessorGone => E::PredecessorOver,
        E::PredecessorOver => E::PredecessorLost,
        E::PredecessorLost => E::Checked,
        E::Checked => E::CheckFailed,
        E::CheckFailed => E::SpawnFailed,
        E::SpawnFailed => E::Prepared,
        E::Prepared => E::Probed,
        E::Probed => E::ProbeFailed,
        E::ProbeFailed => E::Active,
        E::Active => E::Verified,
        E::Verified => E::VerifyFailed,
        E::VerifyFailed => E::Failed,
        E::Failed => E::Leaving,
        E::Leaving => E::Hasten,
        E::Hasten => E::Alive,
        E::Alive => E::Revert,
        E::Revert => E::AskedBack,
        E::AskedBack => E::Recall,
        E::Recall => E::Yielded,
        E::Yielded => E::YieldedInVain,
        E::YieldedInVain => E::NotYielded,
        E::NotYielded => E::Resumed,
        E::Resumed => E::Declined,
        E::Declined => E::Reclaimed,
        E::Reclaimed => E::ReclaimedTooLate,
        E::ReclaimedTooLate => E::SuccessorOver,
        E::SuccessorOver => E::Forked,
        E::Forked => E::Announced,
        E::Announced => E::Followed,
        E::Followed => E::ChannelLost,
        E::ChannelLost => E::Refused,
        E::Refused => E::Exited,
        E::Exited => E::Paused,
        E::Paused => E::TookOver,
        E::TookOver => E::PidfileFailed,
        // The timers follow from their own list.
        E::PidfileFailed | E::Expired(_) => return None,
    })
}

#[test]
fn every_timer_and_every_failure_is_listed() {
    // The matches are exhaustive, so this test does not compile until a new one is in them.
    for timer in TIMERS {
        match timer {
            Timer::Upgrade
            | Timer::Handover
            | Timer::Probation
            | Timer::Drain
            | Timer::Exit
            | Timer::Backoff
            | Timer::Announce
            | Timer::Remnant
            | Timer::Quiet => {}
        }
    }
    for failure in FAILURES {
        match failure {
            Failure::Check
            | Failure::Probe
            | Failure::Verify
            | Failure::Reverted
            | Failure::CheckTime
            | Failure::Spawn
            | Failure::Exited
            | Failure::Reported
            | Failure::ChannelLost
            | Failure::Refused
            | Failure::NotReady
            | Failure::NoAnswer
            | Failure::Probation
            | Failure::Over
            | Failure::Silent
            | Failure::Unwatched
            | Failure::Background
            | Failure::Stopped => {}
        }
    }
    assert_eq!(BTreeSet::from(TIMERS).len(), 9);
    assert_eq!(FAILURES.iter().collect::<HashSet<_>>().len(), 18);
}

/// Whether only a process that a service manager follows reaches this phase.
pub(super) fn is_for_manager(phase: P) -> bool {
    matches!(phase, P::Announcing { .. } | P::Draining(Drain::Last { .. }))
}

/// Whether the predecessor still runs.
pub(super) fn runs(predecessor: Predecessor) -> bool {
    matches!(predecessor, Predecessor::Alive | Predecessor::Over)
}

/// Every state of a phase that can exist.
pub(super) fn states(phase: P) -> Vec<State> {
    let mut states = Vec::new();
    for predecessor in PREDECESSORS {
        for followed in FOLLOWED {
            // A service manager follows the first process, not another one.
            let is_first = predecessor == Predecessor::None;
            let needs_manager = is_for_manager(phase) && followed != Followed::This;
            if needs_manager || is_first && followed == Followed::Other {
                continue;
            }
            for overlap in OVERLAPS {
                for bits in 0..32 {
                    let [body_gone, pending, hastened, remnant, asking] =
                        [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
                    let has_other_process = runs(predecessor) || remnant;
                    let may_wait = phase == P::Serving && overlap != Overlap::Refuse && has_other_process;
                    let may_have_remnant = phase == P::Serving && !runs(predecessor);
                    let may_ask = matches!(phase, P::Serving | P::Yielding | P::Yielded)
                        && predecessor == Predecessor::Alive;
                    if pending && !may_wait || remnant && !may_have_remnant || asking && !may_ask {
                        continue;
                    }
                    let hastened =
                        hastened && matches!(phase, P::Standby(_) | P::Announcing { .. } | P::Draining(_));
                    states.push(State {
                        phase,
                        predecessor,
                        body_gone,
                        overlap,
                        pending,
                        hastened,
                        followed,
                        remnant,
                        asking,
                    });
                }
            }
        }
    }
    states
}
