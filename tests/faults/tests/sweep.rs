//! A slice of the sweeps and a short soak. Each day has another slice; with `SLOW_TESTS` or `CI` set a week has all of the first seven,
//! eight weeks all of the others, four weeks those of connections that move, four weeks those of a revert but for the stalls, and twelve
//! weeks all of those under a service manager.

use std::io::{self, Write};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use processes::{is_slow_wanted, skip};

/// By how much the soak and the sweeps are shorter without `SLOW_TESTS` or `CI`.
const FEWER: u64 = 10;

/// Runs the program, and shows what it has printed, in the output of CI as well.
fn run(words: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_faults")).args(words).output().expect("it can be run");
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(77) => skip(said.trim()),
        Some(0) => {
            let mut stderr = io::stderr().lock();
            let mut show = |line| writeln!(stderr, "faults {}: {line}", words.join(" "));
            printed.lines().try_for_each(&mut show).expect("stderr can be written");
        }
        status => panic!("faults {} ended with {status:?}:\n{printed}{said}", words.join(" ")),
    }
}

/// The number of the day.
fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_secs() / 86_400
}

/// Which of so many slices is the one at this time.
fn slice(time: u64, slices: u64) -> String {
    let slices = if is_slow_wanted() { slices } else { slices * FEWER };
    format!("{}/{slices}", time % slices + 1)
}

fn sweep(what: &str, side: &str) {
    sweep_slice(what, side, 7);
}

fn sweep_slice(what: &str, side: &str, slices: u64) {
    run(&[what, side, "--slice", &slice(today(), slices)]);
}

#[test]
fn the_old_process_is_killed_at_any_system_call() {
    sweep("kill", "old");
}

#[test]
fn the_new_process_is_killed_at_any_system_call() {
    sweep("kill", "new");
}

#[test]
fn the_new_process_is_killed_beside_a_drain() {
    sweep("rescue", "new");
}

#[test]
fn any_system_call_of_the_old_process_is_late() {
    sweep("delay", "old");
}

#[test]
fn any_system_call_of_the_new_process_is_late() {
    sweep("delay", "new");
}

#[test]
fn any_system_call_of_the_old_process_fails() {
    sweep("errors", "old");
}

#[test]
fn any_system_call_of_the_new_process_fails() {
    sweep("errors", "new");
}

#[test]
fn the_old_process_is_told_to_stop_at_any_system_call() {
    sweep_slice("stop", "old", 14);
}

#[test]
fn the_new_process_is_told_to_stop_at_any_system_call() {
    sweep_slice("stop", "new", 14);
}

/// Each point is as long as a successor may take to be ready.
#[test]
fn the_new_process_is_stalled_at_any_system_call() {
    sweep_slice("stall", "new", 56);
}

/// What a process has left behind is looked for once a second.
#[test]
fn the_new_process_forks_at_any_system_call() {
    sweep_slice("fork", "new", 28);
}

/// Each day another of the sweeps, with another kind of release.
#[test]
fn the_same_with_a_release_of_another_kind() {
    const RELEASES: [&str; 5] = ["script", "wrapper", "background", "lingers", "returns"];
    const SWEEPS: [[&str; 2]; 9] = [
        ["kill", "old"],
        ["kill", "new"],
        ["stop", "old"],
        ["stop", "new"],
        ["fork", "new"],
        ["delay", "old"],
        ["delay", "new"],
        ["errors", "old"],
        ["errors", "new"],
    ];
    // Five and nine have no common divisor, so 45 days have every pair.
    let (release, sweep) = (RELEASES[today() as usize % 5], SWEEPS[today() as usize % 9]);
    let [what, side] = match (release, sweep) {
        // There are no such points, see `Extent::has`.
        ("returns", ["kill" | "stop" | "delay", "old"]) => [sweep[0], "new"],
        _ => sweep,
    };
    let is_slow = release == "background" || what == "fork";
    let slices = if is_slow { 56 } else { 14 };
    run(&[what, side, "--release", release, "--slice", &slice(today() / 45, slices)]);
}

/// Each day another of the sweeps: a slice of each would be a long day.
#[test]
fn the_same_under_a_service_manager() {
    const SWEEPS: [[&str; 2]; 7] = [
        ["kill", "old"],
        ["kill", "new"],
        ["rescue", "new"],
        ["delay", "old"],
        ["delay", "new"],
        ["errors", "old"],
        ["errors", "new"],
    ];
    let (week, day) = (today() / 7, today() % 7);
    let [what, side] = SWEEPS[usize::try_from(day).expect("a week has seven days")];
    run(&[what, side, "--managed", "--slice", &slice(week, 12)]);
}

/// A slice of a sweep of connections that move. It is a short one, so that no slice is empty.
fn sweep_move(what: &str, side: &str, slices: u64) {
    let slices = if is_slow_wanted() { slices } else { 84 };
    run(&[what, side, "--slice", &format!("{}/{slices}", today() % slices + 1)]);
}

#[test]
fn either_process_is_killed_while_connections_move() {
    sweep_move("move-kill", "old", 28);
    sweep_move("move-kill", "new", 28);
}

#[test]
fn any_system_call_is_late_while_connections_move() {
    sweep_move("move-delay", "old", 28);
    sweep_move("move-delay", "new", 28);
    // Each point is longer than an offer may be without an answer.
    sweep_move("move-late", "new", 56);
}

#[test]
fn any_system_call_fails_while_connections_move() {
    sweep_move("move-errors", "old", 28);
    sweep_move("move-errors", "new", 28);
}

/// A slice of the sweeps of a revert. The number of slices is odd: a point differs from the next one by whom is asked.
fn sweep_revert(what: &str, slices: u64) {
    let slices = if is_slow_wanted() { slices } else { 101 };
    for side in ["old", "new"] {
        run(&[what, side, "--slice", &format!("{}/{slices}", today() % slices + 1)]);
    }
}

#[test]
fn either_process_is_killed_in_a_revert() {
    sweep_revert("revert-kill", 29);
}

/// Half of the points are longer than a handover may take.
#[test]
fn either_process_is_stalled_in_a_revert() {
    sweep_revert("revert-stall", 113);
}

#[test]
fn any_system_call_is_late_in_a_revert() {
    sweep_revert("revert-delay", 29);
}

#[test]
fn either_process_is_told_to_stop_in_a_revert() {
    sweep_revert("revert-stop", 29);
}

#[test]
fn any_system_call_fails_in_a_revert() {
    sweep_revert("revert-errors", 29);
}

#[test]
fn upgrades_under_load_with_a_fault_in_one_of_ten() {
    let upgrades = if is_slow_wanted() { 100 } else { 100 / FEWER };
    run(&["soak", "--upgrades", &upgrades.to_string()]);
}
