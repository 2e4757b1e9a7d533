//! The table of the life cycle is total: every pair of state and event is visited, and what must hold of each
//! answer is asserted.

use std::collections::{BTreeMap, BTreeSet};

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
        P::Standby(Probation::Running),
        P::Standby(Probation::Asked),
        P::Standby(Probation::Passed),
        P::Ended,
    ];
    for a in [false, true] {
        phases.push(P::Committed { stop: a });
        phases.push(P::Draining(Drain::Stop { owner: a }));
        phases.push(P::Draining(Drain::Replaced { stop: a }));
        phases.push(P::Draining(Drain::Leaving { stop: a }));
        phases.push(P::Draining(Drain::Last { stop: a }));
        for b in [false, true] {
            // Whoever stops it tells the successor to.
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
                Rescue::Probation(Probation::Running),
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

const FAILURES: [Failure; 15] = [
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

const TIMERS: [Timer; 9] = [
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

fn events() -> Vec<Event> {
    let mut events = Vec::new();
    let mut next = Some(E::Upgrade);
    while let Some(event) = next {
        events.push(event);
        next = after(event);
    }
    events.extend(TIMERS.map(E::Expired));
    events
}

/// C2: the events one after the other. The match is exhaustive, so that a new event is visited, or this does not compile.
fn after(event: Event) -> Option<Event> {
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
        E::Prepared => E::Active,
        E::Active => E::Failed,
        E::Failed => E::Leaving,
        E::Leaving => E::Hasten,
        E::Hasten => E::Alive,
        E::Alive => E::SuccessorOver,
        E::SuccessorOver => E::Forked,
        E::Forked => E::Announced,
        E::Announced => E::Followed,
        E::Followed => E::ChannelLost,
        E::ChannelLost => E::Refused,
        E::Refused => E::Exited,
        E::Exited => E::Paused,
        E::Paused => E::TookOver,
        E::TookOver => E::PidfileFailed,
        // The last one is each timer, of which there is a list: the match on timers below is exhaustive.
        E::PidfileFailed | E::Expired(_) => return None,
    })
}

#[test]
fn every_timer_and_every_failure_is_listed() {
    // Exhaustive: a new one does not compile until it is in the lists.
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
    assert_eq!(FAILURES.iter().collect::<std::collections::HashSet<_>>().len(), 15);
}

/// The timers that run in a phase: those that must, and those that may.
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

/// Whether somebody waits for the outcome of an upgrade.
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

#[test]
fn every_pair_of_state_and_event_has_an_answer() {
    let mut visited = 0;
    for phase in phases() {
        for predecessor in [Predecessor::None, Predecessor::Alive, Predecessor::Over, Predecessor::Gone] {
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
                                remnant: false,
                            };
                            check(state, event);
                            check(State { hastened: true, ..state }, event);
                            // An upgrade waits in one phase: for a predecessor that lives, or a successor that is over.
                            let has_predecessor =
                                matches!(predecessor, Predecessor::Alive | Predecessor::Over);
                            if phase == P::Serving && overlap != Overlap::Refuse && has_predecessor {
                                check(State { pending: true, ..state }, event);
                            }
                            if phase == P::Serving && !has_predecessor {
                                let remnant = State { remnant: true, ..state };
                                check(remnant, event);
                                if overlap != Overlap::Refuse {
                                    check(State { pending: true, ..remnant }, event);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(visited, phases().len() * 72 * events().len());
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
    let alone = event == E::Exited || event == E::PredecessorGone && !before.remnant;
    let due = before.pending && alone;
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
    let passed = before.phase == P::Standby(Probation::Passed) && event == E::Expired(Timer::Quiet);
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

    // What a successor is asked for at the end of its probation, it is asked for once.
    let asks = did(|a| matches!(a, A::SendPing));
    assert_eq!(
        asks,
        usize::from(event == E::Expired(Timer::Probation) && is_on_probation(before)),
        "{}",
        context()
    );

    // Haste takes effect: at once in a drain that a successor waits for, else when it begins.
    let is_hurried = before.phase == after.phase && event == E::Hasten;
    let is_replaced = matches!(before.phase, P::Draining(Drain::Replaced { .. }));
    let begins = did(|a| matches!(a, A::Drain)) == 1 && after.hastened;
    let hastens = did(|a| matches!(a, A::Hasten));
    assert_eq!(hastens, usize::from(is_hurried && is_replaced || begins), "{}", context());
    assert_eq!(
        after.hastened,
        event != E::Exited && (before.hastened || event == E::Hasten),
        "{}",
        context()
    );
    assert!(!after.remnant || event != E::Exited, "{}", context());
    assert_eq!(after.body_gone, before.body_gone || event == E::BodyReturned, "{}", context());

    // Of a successor that may have taken the pid file it is taken back before anything else relies on it.
    if event == E::Exited
        && may_have_taken_over(before.phase)
        && !matches!(after.phase, P::Draining(Drain::Leaving { .. }))
    {
        assert!(actions.contains(&A::TakeBack), "{}", context());
    }

    // An upgrade has succeeded when the successor has passed its probation, or serves while this process alone is stopped.
    if actions.contains(&A::Report(Ok(()))) {
        let is_proven = matches!(event, E::Announced | E::Expired(Timer::Announce | Timer::Quiet));
        let is_leaving =
            matches!(before.phase, P::Announcing { leaving: true, .. } | P::Announcing { stop: true, .. });
        assert!(is_proven && !is_leaving, "{}", context());
    }

    // A rescue is tried so often, and no more.
    if let (P::Draining(Drain::Rescue { step, attempt, .. }), E::Exited) = (before.phase, event) {
        let stops = step == Rescue::Killing { stop: true };
        let ended = actions.contains(&A::End(End::RescueFailed));
        if step != Rescue::Waiting && !stops {
            assert_eq!(ended, attempt == 5, "{}", context());
        }
    }

    // A probation is passed by the sign of life alone, and by one that was asked for.
    let passes = |phase| matches!(phase, P::Standby(it) | P::Draining(Drain::Rescue { step: Rescue::Probation(it), .. }) if it == Probation::Passed);
    let asked = |phase| matches!(phase, P::Standby(it) | P::Draining(Drain::Rescue { step: Rescue::Probation(it), .. }) if it == Probation::Asked);
    if passes(after.phase) && !passes(before.phase) {
        assert!(event == E::Alive && asked(before.phase), "{}", context());
    }

    // What is noted in every phase alike.
    let predecessor = match (event, before.predecessor) {
        (E::PredecessorGone, _) => Predecessor::Gone,
        (E::PredecessorOver, Predecessor::Alive) => Predecessor::Over,
        (_, predecessor) => predecessor,
    };
    assert_eq!(after.predecessor, predecessor, "{}", context());
    let begins_to_be_followed =
        before.followed == Followed::Other && matches!(event, E::PredecessorGone | E::Followed);
    let is_announced = matches!(before.phase, P::Announcing { .. })
        && matches!(event, E::Announced | E::Expired(Timer::Announce));
    let followed = match (begins_to_be_followed, is_announced) {
        (true, _) => Followed::This,
        (_, true) => Followed::Other,
        _ => before.followed,
    };
    assert_eq!(after.followed, followed, "{}", context());

    // Timers: none is left behind and none is missing. The one that fired is spent.
    let (mut armed, _) = timers(before);
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
    // The engine disarms what is over with the process.
    if after.phase == P::Ended {
        return;
    }
    let (must, may) = timers(after);
    assert!(must.is_subset(&armed), "missing timer: {}", context());
    let extra: BTreeSet<_> = armed.difference(&must).copied().collect();
    assert!(extra.is_subset(&may), "stray timer {extra:?}: {}", context());
}

fn is_on_probation(state: State) -> bool {
    let running = Probation::Running;
    state.phase == P::Standby(running)
        || matches!(state.phase, P::Draining(Drain::Rescue { step, .. }) if step == Rescue::Probation(running))
}

/// Whether the pid file may name the successor.
fn may_have_taken_over(phase: Phase) -> bool {
    match phase {
        P::Committed { .. } | P::Standby(_) | P::Announcing { .. } | P::Reverting { paused: true, .. } => {
            true
        }
        P::Draining(Drain::Replaced { .. }) => true,
        P::Draining(Drain::Rescue { step, .. }) => step != Rescue::Waiting,
        _ => false,
    }
}

/// C1: one that is never able to serve again is started five times, a second after the other.
#[test]
fn a_rescue_is_tried_five_times() {
    let replaced = P::Draining(Drain::Replaced { stop: false });
    let (mut state, actions) = State::new(Predecessor::None, Overlap::Refuse, false);
    assert_eq!(actions, [A::Arm(Timer::Upgrade)]);
    state.phase = replaced;
    let mut started = 0;
    let (mut state, mut actions) = state.step(E::Exited);
    while state.phase != P::Ended {
        started += actions.iter().filter(|action| **action == A::SpawnRescue).count();
        assert!(started < 100, "it is tried for ever");
        let event = match state.phase {
            P::Draining(Drain::Rescue { step: Rescue::Waiting, .. }) => E::Expired(Timer::Backoff),
            _ => E::Exited,
        };
        (state, actions) = state.step(event);
    }
    assert_eq!((started, actions.last()), (5, Some(&A::End(End::RescueFailed))));
}

/// What the service manager hears of a process in each phase, for the process that it follows.
#[test]
fn a_manager_knows_of_each_phase() {
    let at = |phase| {
        let (state, _) = State::new(Predecessor::None, Overlap::Wait, true);
        State { phase, ..state }
    };
    for phase in phases() {
        let state = at(phase);
        let known = match phase {
            P::Starting | P::Prepared | P::TakingOver => Known::Starting,
            P::Serving => Known::Ready,
            P::Checking
            | P::Upgrading
            | P::Pausing
            | P::Committed { .. }
            | P::Standby(_)
            | P::Reverting { .. } => Known::Reloading,
            P::Draining(Drain::Stop { owner: true } | Drain::Leaving { .. } | Drain::Last { .. }) => {
                Known::Stopping
            }
            P::Draining(Drain::Stop { owner: false } | Drain::Replaced { .. } | Drain::Rescue { .. })
            | P::Announcing { .. }
            | P::Ended => Known::Nothing,
        };
        assert_eq!(state.known(), known, "{phase:?}");
        assert_eq!(State { followed: Followed::Other, ..state }.known(), Known::Nothing, "{phase:?}");
        assert_eq!(State { followed: Followed::Nobody, ..state }.known(), known, "{phase:?}");
    }
    // An upgrade that waits has begun, to whoever asked for it.
    assert_eq!(State { pending: true, ..at(P::Serving) }.known(), Known::Reloading);
}

/// A second request to stop ends a process at once, in every phase in which the first has been noted.
#[test]
fn a_second_request_to_stop_ends_at_once() {
    let is_noted = |phase| match phase {
        P::Committed { stop } | P::Announcing { stop, .. } | P::Reverting { then_stop: stop, .. } => stop,
        P::Draining(
            Drain::Replaced { stop }
            | Drain::Leaving { stop }
            | Drain::Last { stop }
            | Drain::Rescue { step: Rescue::Killing { stop }, .. },
        ) => stop,
        P::Draining(Drain::Stop { .. }) => true,
        _ => false,
    };
    let mut noted = 0;
    for phase in phases() {
        let (state, _) = State::new(Predecessor::None, Overlap::Refuse, false);
        let (after, actions) = State { phase, ..state }.step(E::Stop);
        let ends = actions.last() == Some(&A::End(End::AtOnce));
        assert_eq!(ends, is_noted(phase), "{phase:?} -> {after:?} {actions:?}");
        noted += usize::from(ends);
    }
    assert!(noted > 10, "{noted}");
}

/// What a step depends on beside the phase and the event, by name.
const FLAGS: [&str; 7] =
    ["predecessor", "followed", "body gone", "overlap", "pending", "hastened", "remnant"];

/// The values of the flags of a state, in the order of [`FLAGS`].
fn flags(state: State) -> [String; FLAGS.len()] {
    [
        format!("{:?}", state.predecessor),
        format!("{:?}", state.followed),
        state.body_gone.to_string(),
        format!("{:?}", state.overlap),
        state.pending.to_string(),
        state.hastened.to_string(),
        state.remnant.to_string(),
    ]
}

/// Every state of a phase that there can be.
fn states(phase: Phase) -> Vec<State> {
    let mut states = Vec::new();
    let for_manager = matches!(phase, P::Announcing { .. } | P::Draining(Drain::Last { .. }));
    for predecessor in [Predecessor::None, Predecessor::Alive, Predecessor::Over, Predecessor::Gone] {
        for followed in [Followed::Nobody, Followed::This, Followed::Other] {
            // A first process is followed itself, if there is a manager.
            let is_first = matches!(predecessor, Predecessor::None);
            if for_manager && followed != Followed::This || is_first && followed == Followed::Other {
                continue;
            }
            for overlap in [Overlap::Refuse, Overlap::Wait, Overlap::Hasten] {
                for bits in 0..16 {
                    let [body_gone, pending, hastened, remnant] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
                    let has_predecessor = matches!(predecessor, Predecessor::Alive | Predecessor::Over);
                    let may_wait =
                        phase == P::Serving && overlap != Overlap::Refuse && (has_predecessor || remnant);
                    if pending && !may_wait || remnant && (phase != P::Serving || has_predecessor) {
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
                    });
                }
            }
        }
    }
    states
}

/// What a step comes to, but for what it leaves as it is and for what is noted in every phase alike; `None` if it does nothing.
fn outcome(state: State, event: Event) -> Option<String> {
    let (after, actions) = state.step(event);
    let mut parts = Vec::new();
    if after.phase != state.phase {
        parts.push(format!("-> {:?}", after.phase));
    }
    for (name, before, after) in
        [("pending", state.pending, after.pending), ("remnant", state.remnant, after.remnant)]
    {
        if before != after {
            parts.push(format!("{name} = {after}"));
        }
    }
    parts.extend(actions.iter().map(|action| format!("{action:?}")));
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The steps of one event in one phase, a line for each case that makes a difference.
fn lines(phase: Phase, event: Event) -> Vec<String> {
    let cases: Vec<_> =
        states(phase).into_iter().map(|state| (flags(state), outcome(state, event))).collect();
    // The flags that the outcome depends on: one after the other is left out while the rest still says what comes.
    let mut needed: Vec<usize> = (0..FLAGS.len()).collect();
    for flag in 0..FLAGS.len() {
        let fewer: Vec<usize> = needed.iter().copied().filter(|it| *it != flag).collect();
        let mut seen: BTreeMap<Vec<&String>, &Option<String>> = BTreeMap::new();
        let decides = cases.iter().all(|(flags, outcome)| {
            let key = fewer.iter().map(|at| &flags[*at]).collect();
            *seen.entry(key).or_insert(outcome) == outcome
        });
        if decides {
            needed = fewer;
        }
    }
    let mut of_outcome: BTreeMap<&String, BTreeSet<Vec<&String>>> = BTreeMap::new();
    for (flags, outcome) in &cases {
        let key = needed.iter().map(|at| &flags[*at]).collect();
        if let Some(outcome) = outcome {
            of_outcome.entry(outcome).or_default().insert(key);
        }
    }
    let mut lines = Vec::new();
    for (outcome, keys) in of_outcome {
        for when in conditions(&needed, keys) {
            lines.push(format!("{phase:?} + {event:?}{when}: {outcome}"));
        }
    }
    lines
}

/// When an outcome comes, in one condition if its cases are all those of some values of each flag, and else in one each.
fn conditions(needed: &[usize], keys: BTreeSet<Vec<&String>>) -> Vec<String> {
    let in_words = |values: Vec<BTreeSet<&String>>| {
        let flags = needed.iter().zip(values).map(|(at, values)| {
            let values: Vec<_> = values.into_iter().map(String::as_str).collect();
            format!("{} {}", FLAGS[*at], values.join("|"))
        });
        let flags: Vec<_> = flags.collect();
        if flags.is_empty() { String::new() } else { format!(" [{}]", flags.join(", ")) }
    };
    let values: Vec<BTreeSet<&String>> =
        (0..needed.len()).map(|at| keys.iter().map(|key| key[at]).collect()).collect();
    if values.iter().map(BTreeSet::len).product::<usize>() == keys.len() {
        return vec![in_words(values)];
    }
    keys.into_iter().map(|key| in_words(key.into_iter().map(|value| [value].into()).collect())).collect()
}

/// C1: the whole table as text, in a file of its own. A change of the life cycle is a change of that file, which a review sees.
///
/// `TRANSITIONS=write` writes it anew.
#[test]
fn every_transition_is_written_down() {
    let is_one_of_its_kind = |phase: &Phase| match phase {
        P::Reverting { failure, .. } => *failure == Failure::Exited,
        P::Draining(Drain::Rescue { attempt, step, .. }) => {
            *attempt == 1 || *attempt == RESCUE_ATTEMPTS && *step == Rescue::Initialising
        }
        _ => true,
    };
    let phases = phases().into_iter().filter(is_one_of_its_kind);
    let table: Vec<_> =
        phases.flat_map(|phase| events().into_iter().flat_map(move |event| lines(phase, event))).collect();
    let table = table.join("\n") + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lifecycle/transitions.txt");
    if std::env::var_os("TRANSITIONS").is_some_and(|value| value == "write") {
        std::fs::write(path, table).unwrap();
        return;
    }
    let written = std::fs::read_to_string(path).unwrap();
    let differs = written.lines().zip(table.lines()).find(|(written, is)| written != is);
    assert_eq!(differs, None, "TRANSITIONS=write writes the table anew");
    assert!(written == table, "the table has lines more or fewer; TRANSITIONS=write writes it anew");
}
