//! One point of a sweep: a service under load, one upgrade, one fault, and the conditions that must hold after it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::errors;
use crate::fault::{Fault, Hit, Side};
use crate::manager::{Manager, SLOW, SOCKET};
use crate::release::{EXECUTABLE, Release};
use crate::scene::{Scene, Setup, descriptors};
use crate::service::{MANNER, PIDFILE, TOLD_OF_SUCCESS};

/// The probation: as short as can be where the fault is to hit a successor beside a drain.
const PROBATION: Duration = Duration::from_millis(50);
const NO_PROBATION: Duration = Duration::from_millis(1);

/// How long a successor may take that is stopped in between. One that is not is quicker on any machine.
const STALLED_FOR: Duration = Duration::from_secs(2);

/// How a process says that an upgrade has failed.
const FAILED: &str = "upgrade failed: ";

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
    /// The service was told to stop, and did.
    pub(crate) stopped: bool,
    /// The new process served.
    pub(crate) upgraded: bool,
    /// If not, what was said.
    pub(crate) reason: String,
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    pub(crate) violation: Option<String>,
    pub(crate) log: String,
}

/// Starts a service, under a service manager or by itself, upgrades it, and makes the fault happen meanwhile.
pub(crate) fn run(managed: bool, release: Release, side: Side, fault: Fault) -> Outcome {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut outcome = Outcome::default();
    let probation = if matches!(fault, Fault::KillBesideDrain { .. }) { NO_PROBATION } else { PROBATION };
    let upgrade_timeout = matches!(fault, Fault::Stall { .. }).then_some(STALLED_FOR);
    let setup = Setup { release, probation, upgrade_timeout };
    // Every second manager learns of a death later than the surviving processes.
    let delay = if fault.number() % 2 == 0 { SLOW } else { Duration::ZERO };
    let manager = managed.then(|| Manager::new(dir.path(), delay));
    match Scene::start(dir.path(), setup, manager) {
        Ok(mut scene) => {
            outcome.violation = play(&mut scene, dir.path(), release, side, fault, &mut outcome).err();
            outcome.log = scene.log();
        }
        Err(violation) => outcome.violation = Some(violation),
    }
    outcome
}

fn play(
    scene: &mut Scene,
    dir: &Path,
    release: Release,
    side: Side,
    fault: Fault,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let old = scene.named().unwrap_or_default();
    let open = scene.descriptors_without_clients(old)?;
    let Some(mut hit) = upgrade_and_break(scene, side, fault)? else { return Ok(()) };
    outcome.reached = true;
    outcome.call.clone_from(&hit.call);
    outcome.alone = hit.alone;
    if hit.alone && !scene.is_managed() {
        return Ok(());
    }
    let Some(serving) = wait_for_outcome(scene, &hit)? else {
        outcome.stopped = true;
        outcome.answered = scene.load.tally().answers();
        return is_empty(dir, &hit, release);
    };
    outcome.restarted = scene.restarted;
    outcome.upgraded = serving != old && !scene.restarted;
    outcome.reason = scene.said_since(&hit);
    judge_outcome(release, fault, &hit, outcome)?;
    if serving == old {
        scene.hear_of_failure()?;
    }
    if !release.is_sound() {
        scene.excuse_all_but(serving, &mut hit);
        scene.install(Release::Plain);
    }
    let last = upgrade_once_more(scene, serving, open)?;
    outcome.answered = scene.load.tally().answers();
    outcome.lost = scene.judge_losses(&hit)?;

    scene.stop(last)?;
    is_empty(dir, &hit, release)
}

/// Puts the service under load, upgrades it, and makes the fault happen.
fn upgrade_and_break(scene: &mut Scene, side: Side, fault: Fault) -> Result<Option<Hit>, String> {
    if matches!(fault, Fault::KillBesideDrain { .. }) {
        scene.hold().map_err(|error| error.to_string())?;
    }
    // A request by a signal gets no answer where it succeeds.
    if matches!(fault, Fault::Stop { .. } | Fault::Stall { .. } | Fault::Fork { .. }) {
        scene.prepare_to_ask().map_err(|error| error.to_string())?;
    }
    let old = scene.named().unwrap_or_default();
    scene.trace(old)?;
    scene.put_under_load(CLIENTS, Duration::ZERO)?;
    scene.break_it(side, fault, None)
}

/// Waits for the process that serves in the end. `None` if the service was told to stop, and did.
fn wait_for_outcome(scene: &mut Scene, hit: &Hit) -> Result<Option<i32>, String> {
    let Some(stopped) = hit.stopped else { return scene.outcome(hit).map(Some) };
    let serving = scene.outcome_of_stop(hit, stopped)?;
    judge_stop(scene, hit, stopped, serving)?;
    Ok(serving)
}

/// Whether the upgrade has succeeded or failed as it had to, and said so.
fn judge_outcome(release: Release, fault: Fault, hit: &Hit, outcome: &Outcome) -> Result<(), String> {
    let Outcome { upgraded, reason, .. } = outcome;
    if reason.contains(TOLD_OF_SUCCESS) && !upgraded {
        return Err("an upgrade that has failed was told as a successful one".to_owned());
    }
    let has_to_fail = !release.is_sound() || matches!(fault, Fault::Fork { .. } | Fault::Stall { .. });
    if *upgraded && hit.victim != Some(hit.old) && has_to_fail {
        return Err("an upgrade that had to fail has succeeded".to_owned());
    }
    match fault {
        _ if *upgraded || !release.is_sound() => Ok(()),
        Fault::Delay { .. } => Err("a delay made the upgrade fail".to_owned()),
        Fault::Error { call, error, .. } if !errors::is_named(reason, call, error) => {
            Err(format!("the reason does not name {error}"))
        }
        _ => Ok(()),
    }
}

/// The process that serves can be upgraded again, and its successor has as many descriptors open as the first process had. Returns
/// that successor.
fn upgrade_once_more(scene: &mut Scene, serving: i32, open: usize) -> Result<i32, String> {
    scene.reload(serving);
    scene.until("a further upgrade", |scene| scene.named() != Some(serving))?;
    let last = scene.settle()?;
    scene.load.stop();
    scene.until("the last answer", |scene| scene.load.is_finished())?;
    scene.until("as many descriptors as before", |_| descriptors(last) == open)?;
    Ok(last)
}

/// Whether nothing is left in the directory of a service but what this program has put there.
pub(crate) fn is_empty(dir: &Path, hit: &Hit, release: Release) -> Result<(), String> {
    // If a process behind a script is killed before its first message, the old process does not know its number.
    let unheard = |name: &OsStr| {
        let is_of = |process: &i32| name == OsStr::new(&format!(".{PIDFILE}.{process}"));
        release.has_parent_between() && hit.victim.is_some() && hit.losers.iter().any(is_of)
    };
    let left: Vec<_> = fs::read_dir(dir)
        .expect("the directory is there")
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| !["log", SOCKET, MANNER, EXECUTABLE].map(OsStr::new).contains(&name.as_os_str()))
        .filter(|name| !unheard(name))
        .collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
}

/// Whether a stop has come to what it has to: to the end of all, if it reached the process that the pid file named; to the end of that
/// process alone, if another one serves.
fn judge_stop(scene: &Scene, hit: &Hit, stopped: i32, serving: Option<i32>) -> Result<(), String> {
    let said = scene.said_since(hit);
    let (is_old, moment) = (stopped == hit.old, hit.moment);
    let is_named = moment.named == Some(stopped);
    let is_told_of_success = said.contains(TOLD_OF_SUCCESS);
    let wrong = match serving {
        // It had got `commit` and not yet sent `active`: whether the old process knew that it serves is unknown.
        Some(_) if is_old && is_named && !moment.is_committed => {
            "the stop of the service has left somebody who serves"
        }
        Some(_) if !is_old && is_named => {
            "the stop of the process that the pid file named has left another one that serves"
        }
        Some(serving) if serving == hit.old && is_told_of_success => {
            "an upgrade that was stopped was told as a successful one"
        }
        Some(serving) if serving == hit.old && !said.contains(FAILED) => {
            "an upgrade that was stopped was not told as one that failed"
        }
        None if is_old && moment.is_known_active => {
            "the stop of a process that another one had replaced has ended that one as well"
        }
        None if !is_old && !is_named && !moment.is_committed => {
            "the stop of a process that served nobody has ended the service"
        }
        None if is_told_of_success && (is_old || !moment.is_asked) => {
            "a service that was stopped was told as one that is upgraded"
        }
        _ => return Ok(()),
    };
    Err(format!("{wrong}; {stopped} was told to stop at {moment:?}, {serving:?} serves"))
}
