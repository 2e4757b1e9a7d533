//! The table of the life cycle is total: the tests visit every pair of state and event, and check the rules of each step.

use super::action::Action as A;
use super::event::{Event as E, Timer};
use super::phase::{Drain, Phase as P, Rescue};
use super::{End, Followed, Known, Overlap, Predecessor, State};

mod every;
mod rules;
mod text;

use every::{FOLLOWED, OVERLAPS, PREDECESSORS, events, is_for_manager, phases, runs};
use rules::check;

#[test]
fn every_pair_of_state_and_event_has_an_answer() {
    let mut visited = 0;
    for phase in phases() {
        for predecessor in PREDECESSORS {
            for body_gone in [false, true] {
                for overlap in OVERLAPS {
                    for event in events() {
                        for followed in FOLLOWED {
                            visited += 1;
                            if is_for_manager(phase) && followed != Followed::This {
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
                                asking: false,
                            };
                            check_variants(state, event);
                        }
                    }
                }
            }
        }
    }
    assert_eq!(visited, phases().len() * 72 * events().len());
}

/// Checks a state, and the same state with each of its flags that can be set.
fn check_variants(state: State, event: E) {
    check(state, event);
    check(State { hastened: true, ..state }, event);
    if matches!(state.phase, P::Serving | P::Yielding | P::Yielded) && state.predecessor == Predecessor::Alive
    {
        check(State { asking: true, ..state }, event);
        if state.phase == P::Serving && state.overlap != Overlap::Refuse {
            check(State { asking: true, pending: true, ..state }, event);
        }
    }
    // A request to upgrade waits in one phase, for the death of the predecessor or of the remnant.
    if state.phase != P::Serving {
        return;
    }
    let may_wait = state.overlap != Overlap::Refuse;
    if runs(state.predecessor) {
        if may_wait {
            check(State { pending: true, ..state }, event);
        }
        return;
    }
    let remnant = State { remnant: true, ..state };
    check(remnant, event);
    if may_wait {
        check(State { pending: true, ..remnant }, event);
    }
}

/// C1: a rescue whose successors all fail has five attempts, with a pause between two of them.
#[test]
fn a_rescue_is_tried_five_times() {
    let replaced = P::Draining(Drain::Replaced { stop: false });
    let (mut state, actions) = State::new(Predecessor::None, Overlap::Refuse, false);
    assert_eq!(actions, [A::Arm(Timer::Upgrade)]);
    state.phase = replaced;
    let mut started = 0;
    let (mut state, mut actions) = state.step(E::Exited);
    for _ in 0..100 {
        started += actions.iter().filter(|action| **action == A::SpawnRescue).count();
        let event = match state.phase {
            P::Ended => break,
            P::Draining(Drain::Rescue { step: Rescue::Waiting, .. }) => E::Expired(Timer::Backoff),
            _ => E::Exited,
        };
        (state, actions) = state.step(event);
    }
    assert_eq!((started, actions.last()), (5, Some(&A::End(End::RescueFailed))));
}

/// What the service manager learns in each phase of the process that it follows.
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
            | P::Probing
            | P::Pausing
            | P::Committed { .. }
            | P::Standby(_)
            | P::Recalling { .. }
            | P::Yielding
            | P::Yielded
            | P::Reverting { .. } => Known::Reloading,
            P::Draining(Drain::Stop { owner: true } | Drain::Leaving { .. } | Drain::Last { .. }) => {
                Known::Stopping
            }
            P::Draining(
                Drain::Stop { owner: false }
                | Drain::Replaced { .. }
                | Drain::Reverted { .. }
                | Drain::Rescue { .. },
            )
            | P::Announcing { .. }
            | P::Ended => Known::Nothing,
        };
        assert_eq!(state.known(), known, "{phase:?}");
        assert_eq!(State { followed: Followed::Other, ..state }.known(), Known::Nothing, "{phase:?}");
        assert_eq!(State { followed: Followed::Nobody, ..state }.known(), known, "{phase:?}");
    }
    // For the operator an upgrade begins with the request, even if it waits.
    assert_eq!(State { pending: true, ..at(P::Serving) }.known(), Known::Reloading);
}

/// A second request to stop ends a process at once, in every phase that has noted the first one.
#[test]
fn a_second_request_to_stop_ends_at_once() {
    let is_noted = |phase| match phase {
        P::Committed { stop }
        | P::Announcing { stop, .. }
        | P::Recalling { stop, .. }
        | P::Reverting { then_stop: stop, .. } => stop,
        P::Draining(
            Drain::Replaced { stop }
            | Drain::Reverted { stop }
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
