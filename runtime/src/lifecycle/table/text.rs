//! The whole table as text.

use std::collections::{BTreeMap, BTreeSet};

use super::every::{events, phases, states};
use crate::lifecycle::phase::{Drain, Phase, Rescue};
use crate::lifecycle::rescue::RESCUE_ATTEMPTS;
use crate::lifecycle::{Event, Failure, State};

/// The names of the fields that a step depends on, besides the phase and the event.
const FLAGS: [&str; 8] =
    ["predecessor", "followed", "body gone", "overlap", "pending", "hastened", "remnant", "asking"];

/// The values of these fields, in the order of [`FLAGS`].
fn flags(state: State) -> [String; FLAGS.len()] {
    [
        format!("{:?}", state.predecessor),
        format!("{:?}", state.followed),
        state.body_gone.to_string(),
        format!("{:?}", state.overlap),
        state.pending.to_string(),
        state.hastened.to_string(),
        state.remnant.to_string(),
        state.asking.to_string(),
    ]
}

/// The outcome of a step, or `None` if it does nothing. Fields that change in every phase alike are left out.
fn outcome(state: State, event: Event) -> Option<String> {
    let (after, actions) = state.step(event);
    let mut parts = Vec::new();
    if after.phase != state.phase {
        parts.push(format!("-> {:?}", after.phase));
    }
    for (name, before, after) in [
        ("pending", state.pending, after.pending),
        ("remnant", state.remnant, after.remnant),
        ("asking", state.asking, after.asking),
    ] {
        if before != after {
            parts.push(format!("{name} = {after}"));
        }
    }
    parts.extend(actions.iter().map(|action| format!("{action:?}")));
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The steps of one event in one phase, one line for each case with a different outcome.
fn lines(phase: Phase, event: Event) -> Vec<String> {
    let cases: Vec<_> =
        states(phase).into_iter().map(|state| (flags(state), outcome(state, event))).collect();
    let needed = needed_flags(&cases);
    let mut values_of_outcome: BTreeMap<&String, BTreeSet<Vec<&String>>> = BTreeMap::new();
    for (flags, outcome) in &cases {
        let values = needed.iter().map(|at| &flags[*at]).collect();
        if let Some(outcome) = outcome {
            values_of_outcome.entry(outcome).or_default().insert(values);
        }
    }
    let mut lines = Vec::new();
    for (outcome, values) in values_of_outcome {
        for when in conditions(&needed, values) {
            lines.push(format!("{phase:?} + {event:?}{when}: {outcome}"));
        }
    }
    lines
}

/// The flags that decide the outcome: a flag is left out while the others still determine it.
fn needed_flags(cases: &[([String; FLAGS.len()], Option<String>)]) -> Vec<usize> {
    let mut needed: Vec<usize> = (0..FLAGS.len()).collect();
    for flag in 0..FLAGS.len() {
        let fewer: Vec<usize> = needed.iter().copied().filter(|it| *it != flag).collect();
        let mut seen: BTreeMap<Vec<&String>, &Option<String>> = BTreeMap::new();
        let decides = cases.iter().all(|(flags, outcome)| {
            let values = fewer.iter().map(|at| &flags[*at]).collect();
            *seen.entry(values).or_insert(outcome) == outcome
        });
        if decides {
            needed = fewer;
        }
    }
    needed
}

/// The conditions of an outcome. It is one condition if its cases are all combinations of some values of each flag. Otherwise
/// each case is a condition.
fn conditions(needed: &[usize], cases: BTreeSet<Vec<&String>>) -> Vec<String> {
    let in_words = |values: Vec<BTreeSet<&String>>| {
        let flags = needed.iter().zip(values).map(|(at, values)| {
            let values: Vec<_> = values.into_iter().map(String::as_str).collect();
            format!("{} {}", FLAGS[*at], values.join("|"))
        });
        let flags: Vec<_> = flags.collect();
        if flags.is_empty() { String::new() } else { format!(" [{}]", flags.join(", ")) }
    };
    let values: Vec<BTreeSet<&String>> =
        (0..needed.len()).map(|at| cases.iter().map(|case| case[at]).collect()).collect();
    if values.iter().map(BTreeSet::len).product::<usize>() == cases.len() {
        return vec![in_words(values)];
    }
    cases.into_iter().map(|case| in_words(case.into_iter().map(|value| [value].into()).collect())).collect()
}

/// C1: the file `transitions.txt` has the whole table. Each change of the life cycle changes that file, which a review sees.
///
/// `TRANSITIONS=write` writes it anew.
#[test]
fn every_transition_is_written_down() {
    // Phases that differ in a failure or an attempt alone have the same lines: one of them is enough.
    let is_written = |phase: &Phase| match phase {
        Phase::Reverting { failure, .. } => *failure == Failure::Exited,
        Phase::Recalling { failure, .. } => *failure == Failure::Reverted,
        Phase::Draining(Drain::Rescue { attempt, step, .. }) => {
            *attempt == 1 || *attempt == RESCUE_ATTEMPTS && *step == Rescue::Initialising
        }
        _ => true,
    };
    let phases = phases().into_iter().filter(is_written);
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
