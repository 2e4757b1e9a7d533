//! One point of a sweep: a service under load, one upgrade, one fault; and what must be true after it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::errors;
use crate::manager::{Manager, SLOW, SOCKET};
use crate::scene::{Fault, Scene, Side, descriptors};

/// More than are accepted at a turn, so that some wait in the queue.
const CLIENTS: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The fault happened before the upgrade was over.
    pub(crate) reached: bool,
    /// The system call that it hit.
    pub(crate) call: String,
    pub(crate) alone: bool,
    /// The service had ended to its manager, which started it again.
    pub(crate) restarted: bool,
    /// The new process served.
    pub(crate) upgraded: bool,
    /// If not, what was said.
    pub(crate) reason: String,
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    pub(crate) violation: Option<String>,
    pub(crate) log: String,
}

/// Makes a service, under a service manager or by itself, upgrades it, and breaks it meanwhile.
pub(crate) fn run(managed: bool, side: Side, fault: Fault) -> Outcome {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut outcome = Outcome::default();
    // As soon as can be where the fault is to hit a successor beside a drain.
    let probation = if matches!(fault, Fault::KillBesideDrain { .. }) { "1ms" } else { "50ms" };
    // One is quicker than whoever is left after a death, the next is not.
    let delay = if fault.number() % 2 == 0 { SLOW } else { Duration::ZERO };
    let manager = managed.then(|| Manager::new(dir.path(), delay));
    match Scene::start(dir.path(), probation, manager) {
        Ok(mut scene) => {
            outcome.violation = play(&mut scene, dir.path(), side, fault, &mut outcome).err();
            outcome.log = scene.log();
        }
        Err(violation) => outcome.violation = Some(violation),
    }
    outcome
}

fn play(
    scene: &mut Scene,
    dir: &Path,
    side: Side,
    fault: Fault,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let old = scene.named().unwrap_or_default();
    let open = descriptors(old);
    if matches!(fault, Fault::KillBesideDrain { .. }) {
        scene.hold().map_err(|error| error.to_string())?;
    }
    scene.trace(old)?;
    scene.put_under_load(CLIENTS, Duration::ZERO)?;
    let Some(hit) = scene.break_it(side, fault, None)? else { return Ok(()) };
    outcome.reached = true;
    outcome.call.clone_from(&hit.call);
    outcome.alone = hit.alone;
    if hit.alone && !scene.is_managed() {
        return Ok(());
    }
    let serving = scene.outcome(&hit)?;
    outcome.restarted = scene.restarted;
    outcome.upgraded = serving != old && !scene.restarted;
    if !outcome.upgraded {
        outcome.reason = scene.said_since(&hit);
    }
    match fault {
        Fault::Delay { .. } if !outcome.upgraded => return Err("a delay made the upgrade fail".to_owned()),
        Fault::Error { call, error, .. }
            if !outcome.upgraded && !errors::is_named(&outcome.reason, call, error) =>
        {
            return Err(format!("the reason does not name {error}"));
        }
        _ => {}
    }
    if serving == old {
        scene.hear_of_failure()?;
    }

    // And it can be upgraded.
    scene.reload(serving);
    scene.until("a further upgrade", |scene| scene.named() != Some(serving))?;
    let last = scene.settle()?;
    scene.load.stop();
    scene.until("the last answer", |scene| scene.load.is_finished())?;
    scene.until("as many descriptors as before", |_| descriptors(last) == open)?;

    outcome.answered = scene.load.tally().answers();
    outcome.lost = scene.judge_losses(&hit)?;

    scene.stop(last)?;
    let left: Vec<_> = fs::read_dir(dir)
        .expect("the directory is there")
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name != "log" && name != SOCKET)
        .collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
}
