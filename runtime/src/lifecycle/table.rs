//! The table of the life cycle is total: every pair of state and event is visited, and what must hold of each
//! answer is asserted.

use std::collections::BTreeSet;

use super::*;

fn phases() -> Vec<Phase> {
    let mut phases = vec![
        P::Starting,
        P::Prepared,
        P::TakingOver,
        P::Serving,
        P::Checking,
        P::Upgrading,
        P::Pausing,
        P::Standby,
        P::Ended,
    ];
    for a in [false, true] {
        phases.push(P::Committed { stop: a });
        phases.push(P::Draining(Drain::Stop { owner: a }));
        phases.push(P::Draining(Drain::Replaced { stop: a }));
        phases.push(P::Draining(Drain::Leaving { stop: a }));
        phases.push(P::Draining(Drain::Last { stop: a }));
        for b in [false, true] {
            phases.push(P::Announcing { stop: a, leaving: b });
            for failure in FAILURES {
                phases.push(P::Reverting { paused: a, then_stop: b, failure });
            }
        }
        for attempt in 1..=RESCUE_ATTEMPTS {
            for step in [
                Rescue::Initialising,
                Rescue::Committed,
                Rescue::Probation,
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

const FAILURES: [Failure; 10] = [
    Failure::Check,
    Failure::CheckTime,
    Failure::Spawn,
    Failure::Exited,
    Failure::Reported,
    Failure::ChannelLost,
    Failure::NotReady,
    Failure::NoAnswer,
    Failure::Probation,
    Failure::Stopped,
];

const TIMERS: [Timer; 7] = [
    Timer::Upgrade,
    Timer::Handover,
    Timer::Probation,
    Timer::Drain,
    Timer::Exit,
    Timer::Backoff,
    Timer::Announce,
];

fn events() -> Vec<Event> {
    let mut events = vec![
        E::Upgrade,
        E::Stop,
        E::Ready,
        E::NotReady,
        E::BodyReturned,
        E::Drained,
        E::Commit,
        E::PredecessorGone,
        E::Checked,
        E::CheckFailed,
        E::SpawnFailed,
        E::Prepared,
        E::Active,
        E::Failed,
        E::Leaving,
        E::Hasten,
        E::Announced,
        E::Followed,
        E::ChannelLost,
        E::Exited,
        E::Paused,
        E::TookOver,
        E::PidfileFailed,
    ];
    events.extend(TIMERS.map(E::Expired));
    events
}

/// The timers that run in a phase: those that must, and those that may.
fn timers(phase: Phase) -> (BTreeSet<Timer>, BTreeSet<Timer>) {
    let (must, may): (&[Timer], &[Timer]) = match phase {
        P::Starting | P::Checking | P::Upgrading | P::Pausing => (&[Timer::Upgrade], &[]),
        P::Prepared | P::Committed { .. } => (&[Timer::Handover], &[]),
        P::Standby => (&[Timer::Probation], &[]),
        P::Announcing { .. } => (&[Timer::Announce], &[]),
        P::Reverting { .. } => (&[], &[Timer::Exit]),
        P::TakingOver | P::Serving => (&[], &[]),
        P::Draining(Drain::Rescue { step, finished, .. }) => {
            let drain: &[Timer] = if finished { &[] } else { &[Timer::Drain] };
            let own: &[Timer] = match step {
                Rescue::Initialising => &[Timer::Upgrade],
                Rescue::Committed => &[Timer::Handover],
                Rescue::Probation => &[Timer::Probation],
                Rescue::Killing { .. } => &[],
                Rescue::Waiting => &[Timer::Backoff],
            };
            let must = drain.iter().chain(own).copied().collect();
            return (must, BTreeSet::from([Timer::Drain, Timer::Exit]));
        }
        P::Draining(_) => (&[Timer::Drain], &[]),
        P::Ended => (&[], &TIMERS),
    };
    (must.iter().copied().collect(), may.iter().copied().collect())
}

/// Whether somebody waits for the outcome of an upgrade.
fn owes_outcome(state: State) -> bool {
    state.pending
        || matches!(
            state.phase,
            P::Checking
                | P::Upgrading
                | P::Pausing
                | P::Committed { .. }
                | P::Standby
                | P::Announcing { .. }
                | P::Reverting { .. }
        )
}

#[test]
fn every_pair_of_state_and_event_has_an_answer() {
    let mut visited = 0;
    for phase in phases() {
        for predecessor in [Predecessor::None, Predecessor::Alive, Predecessor::Gone] {
            for body_gone in [false, true] {
                for overlap in [Overlap::Refuse, Overlap::Wait, Overlap::Hasten] {
                    for event in events() {
                        for followed in [Followed::Nobody, Followed::This, Followed::Other] {
                            visited += 1;
                            // Who waits for a manager, or outlives another for it, has one that follows it.
                            let for_manager =
                                matches!(phase, P::Announcing { .. } | P::Draining(Drain::Last { .. }));
                            if for_manager && followed != Followed::This {
                                continue;
                            }
                            let state = State {
                                phase,
                                predecessor,
                                body_gone,
                                overlap,
                                pending: false,
                                hastened: false,
                                followed,
                            };
                            check(state, event);
                            check(State { hastened: true, ..state }, event);
                            // Who waits does so in one phase, for a predecessor that lives.
                            let may_wait = overlap != Overlap::Refuse && predecessor == Predecessor::Alive;
                            if phase == P::Serving && may_wait {
                                check(State { pending: true, ..state }, event);
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(visited, phases().len() * 54 * events().len());
}

fn check(before: State, event: Event) {
    let (after, actions) = before.step(event);
    let context = || format!("{before:?} + {event:?} -> {after:?} {actions:?}");
    let did = |wanted: fn(&Action) -> bool| actions.iter().filter(|action| wanted(action)).count();

    // Nothing brings a process that is over back, and it is over exactly when it was told to end.
    let ends = did(|a| matches!(a, A::End(_)));
    assert_eq!(ends == 1, before.phase != P::Ended && after.phase == P::Ended, "{}", context());
    if before.phase == P::Ended {
        assert_eq!(after.phase, P::Ended, "{}", context());
    }

    // A request to upgrade is never dropped: it is refused, or kept until the predecessor is gone, or the release is
    // checked; a successor is started of a release that was.
    let answers = did(|a| matches!(a, A::Refuse(_) | A::Postpone | A::Check));
    let due = before.pending && event == E::PredecessorGone;
    assert_eq!(answers, usize::from(event == E::Upgrade || due), "{}", context());
    assert_eq!(after.pending && !before.pending, actions.contains(&A::Postpone), "{}", context());
    assert!(!after.pending || after.phase == P::Serving || after.phase == P::Ended, "{}", context());

    let checked = before.phase == P::Checking && event == E::Checked;
    assert_eq!(did(|a| matches!(a, A::Spawn)), usize::from(checked), "{}", context());
    let leaves_check = before.phase == P::Checking && after.phase != P::Checking && !checked;
    assert_eq!(did(|a| matches!(a, A::EndCheck)), usize::from(leaves_check), "{}", context());

    // An upgrade has one outcome. A process that is about to exit answers by exiting.
    let outcomes = did(|a| matches!(a, A::Report(_)));
    if after.phase != P::Ended {
        let owed = owes_outcome(before) && !owes_outcome(after);
        assert_eq!(outcomes, usize::from(owed), "{}", context());
    } else {
        assert!(outcomes <= 1, "{}", context());
    }

    // The manager is told whom to follow by whom it follows, and only of a successor that has passed its probation.
    let announces = did(|a| matches!(a, A::Announce));
    let passed = before.phase == P::Standby && event == E::Expired(Timer::Probation);
    assert_eq!(announces == 1, passed && before.followed == Followed::This, "{}", context());
    if before.followed != after.followed {
        let reason =
            matches!(event, E::Announced | E::Followed | E::PredecessorGone | E::Expired(Timer::Announce));
        assert!(reason && before.followed != Followed::Nobody, "{}", context());
    }

    // The gates follow the phase.
    let opens = did(|a| matches!(a, A::Open)) == 1;
    let closes = did(|a| matches!(a, A::Pause | A::Drain | A::End(_))) > 0;
    if opens {
        assert!(!before.is_open() && after.is_open(), "{}", context());
    }
    if before.is_open() && !after.is_open() {
        assert!(closes, "{}", context());
    }
    if !before.is_open() && after.is_open() {
        assert!(opens, "{}", context());
    }

    // Of what a successor does not have the drain removes the paths: nothing is let go of before that.
    let at = |wanted: fn(&Action) -> bool| actions.iter().position(wanted);
    if let (P::Draining(Drain::Leaving { .. }), Some(let_go), Some(drain)) =
        (after.phase, at(|a| matches!(a, A::LetGo)), at(|a| matches!(a, A::Drain)))
    {
        assert!(drain < let_go, "{}", context());
    }

    // Timers: none is left behind and none is missing. The one that fired is spent.
    let (mut armed, _) = timers(before.phase);
    for action in &actions {
        match action {
            A::Arm(timer) => _ = armed.insert(*timer),
            A::Disarm(timer) => _ = armed.remove(timer),
            _ => {}
        }
    }
    if let E::Expired(timer) = event {
        if !actions.contains(&A::Arm(timer)) && after.phase != before.phase {
            armed.remove(&timer);
        }
    }
    let (must, may) = timers(after.phase);
    assert!(must.is_subset(&armed), "missing timer: {}", context());
    let extra: BTreeSet<_> = armed.difference(&must).copied().collect();
    assert!(extra.is_subset(&may), "stray timer {extra:?}: {}", context());
}
