//! One upgrade with one fault in it: which system call the fault hits, and when what follows is over.

use std::collections::HashSet;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use processes::proc::is_running;

use super::words::{Words, says_failure, tells_outcome};
use super::{DEADLINE, LAST_CALLS, Scene, find_unheard_of, named_in};
use crate::errors;
use crate::fault::{Fault, Hit, Side};
use crate::release::{Release, is_shell};
use crate::service::TOLD_OF_SUCCESS;
use crate::tracer::{Call, Verdict};

/// How far an upgrade with a fault is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    GoesOn,
    /// The fault came when the old process had done its part: it is none of the upgrade.
    CameTooLate,
    Over,
}

/// An upgrade under way, with the fault that hits it.
struct Breaking {
    side: Side,
    fault: Fault,
    spared: Option<Duration>,
    release: Release,
    dir: PathBuf,
    old: i32,
    /// The length of the log before the request.
    log: usize,
    /// A connection waits for the outcome.
    is_asking: bool,
    /// How many system calls there were that the fault may hit.
    count: usize,
    /// How many system calls the old process has made since the request, or since the fault.
    calls_of_old: usize,
    /// The processes that have executed their program.
    executed: HashSet<i32>,
    words: Words,
    /// When the new process was first seen.
    since_two: Option<Instant>,
    hit: Option<Hit>,
}

impl Scene {
    /// Asks the service, which is traced, for an upgrade, and makes a fault happen in it. `None` if the upgrade was over before
    /// that. `spared`: the fault hits neither a process that is alone, nor a successor that is older than this.
    pub(crate) fn break_it(
        &mut self,
        side: Side,
        fault: Fault,
        spared: Option<Duration>,
    ) -> Result<Option<Hit>, String> {
        let mut breaking = Breaking::new(self, side, fault, spared);
        self.reload(breaking.old);
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.pump_with(|processes, call| breaking.judge(processes, call));
            self.look_for_violation()?;
            match breaking.progress(self) {
                Progress::CameTooLate => return Ok(None),
                Progress::Over => return Ok(breaking.end(self)),
                Progress::GoesOn => {}
            }
            if Instant::now() > deadline {
                return Err("the upgrade did not come to an end".to_owned());
            }
            thread::sleep(Duration::from_micros(20));
        }
    }
}

impl Breaking {
    fn new(scene: &Scene, side: Side, fault: Fault, spared: Option<Duration>) -> Self {
        Self {
            side,
            fault,
            spared,
            release: scene.setup.release,
            dir: scene.dir.clone(),
            old: scene.processes[0],
            log: scene.log().len(),
            is_asking: scene.asking.is_some(),
            count: 0,
            calls_of_old: 0,
            executed: HashSet::new(),
            words: Words::default(),
            since_two: None,
            hit: None,
        }
    }

    /// What becomes of a system call. `processes`: how many there have been.
    fn judge(&mut self, processes: usize, call: &Call) -> Verdict {
        if self.is_asking {
            self.words.hear(call, self.old, self.hit.as_mut().map(|hit| &mut hit.moment));
        }
        if let Call::Exit { process, number: libc::SYS_execve, result: 0, .. } = *call {
            self.executed.insert(process);
        }
        let Call::Entry { process, number, arguments, .. } = *call else { return Verdict::Pass };
        self.calls_of_old += usize::from(process == self.old);
        if processes > 1 {
            self.since_two.get_or_insert_with(Instant::now);
        }
        let is_of_side = (process == self.old) == (self.side == Side::Old);
        if self.hit.is_some() || self.is_spared() || !is_of_side {
            return Verdict::Pass;
        }
        if !self.is_counted(process, number, arguments) {
            return Verdict::Pass;
        }
        self.count += 1;
        if self.count == self.fault.number() { self.take_down(process, number) } else { Verdict::Pass }
    }

    fn is_spared(&self) -> bool {
        self.spared.is_some_and(|age| self.since_two.is_none_or(|since| since.elapsed() > age))
    }

    /// Whether the number of the fault counts this system call.
    fn is_counted(&self, process: i32, number: i64, arguments: [u64; 2]) -> bool {
        match self.fault {
            Fault::Kill { .. }
            | Fault::KillBesideDrain { .. }
            | Fault::Delay { .. }
            | Fault::Pause { .. }
            | Fault::Stop { .. } => true,
            // Before that the thread of its parent waits for it.
            Fault::Fork { .. } => self.executed.contains(&process),
            // A script that waits for the service must not be stopped: no process waits for the script.
            Fault::Stall { .. } => {
                self.executed.contains(&process) && !(self.release == Release::Wrapper && is_shell(process))
            }
            Fault::Error { call, error, .. } => {
                call == number && errors::can_fail(process, call, error, arguments)
            }
        }
    }

    /// Takes down that the fault hits this system call of a process.
    fn take_down(&mut self, process: i32, number: i64) -> Verdict {
        let verdict = self.fault.verdict();
        let ends = matches!(verdict, Verdict::Kill | Verdict::Stall | Verdict::Fork);
        let victim = ends.then_some(process);
        let stopped = (verdict == Verdict::Stop).then_some(process);
        self.hit = Some(Hit {
            call: errors::name(number),
            victim,
            losers: victim.into_iter().collect(),
            moment: self.words.moment(named_in(&self.dir), stopped),
            stopped,
            alone: false,
            is_unregistered: victim.is_none() && number == libc::SYS_epoll_ctl,
            old: self.old,
            log: self.log,
        });
        self.calls_of_old = 0;
        verdict
    }

    fn progress(&self, scene: &Scene) -> Progress {
        let victim = self.hit.as_ref().and_then(|hit| hit.victim);
        if let Some(hit) = self.hit.as_ref().filter(|_| scene.follows_connections()) {
            return self.progress_beside_move(scene, hit);
        }
        let had_decided_to_exit = scene.exited.contains(&(self.old, 0)) && self.calls_of_old < LAST_CALLS;
        if self.side == Side::New && victim.is_some() && had_decided_to_exit {
            return Progress::CameTooLate;
        }
        if let Some(hit) = self.hit.as_ref().filter(|hit| hit.victim.is_some() && self.is_asking) {
            let told = scene.said_since(hit);
            if told.contains(TOLD_OF_SUCCESS) && hit.moment.is_asked {
                // It had given its last sign of life by then.
                return Progress::CameTooLate;
            }
            if is_running(self.old) && !tells_outcome(&told) {
                return Progress::GoesOn;
            }
        }
        if self.is_over(scene) { Progress::Over } else { Progress::GoesOn }
    }

    /// The same of a fault while connections move. An old process without connections exits at once, and closes them after its decision.
    fn progress_beside_move(&self, scene: &Scene, hit: &Hit) -> Progress {
        let is_told = says_failure(&scene.said_since(hit));
        match hit.victim {
            None => Progress::Over,
            Some(victim) if is_running(victim) => Progress::GoesOn,
            Some(victim) if victim == self.old || is_told => Progress::Over,
            Some(_) if is_running(self.old) => Progress::GoesOn,
            Some(_) if self.calls_of_old < LAST_CALLS => Progress::CameTooLate,
            Some(_) => Progress::Over,
        }
    }

    fn is_over(&self, scene: &Scene) -> bool {
        let stopped = self.hit.as_ref().and_then(|hit| hit.stopped);
        let ends = self.hit.as_ref().and_then(|hit| hit.victim.or(stopped));
        match ends {
            Some(ends) => {
                let old_goes_on = self.side == Side::Old
                    || self.calls_of_old >= LAST_CALLS
                    || stopped.is_some() && !is_running(self.old)
                    || scene.has_ended();
                old_goes_on && !is_running(ends)
            }
            None => self.hit.is_some() || !is_running(self.old) || self.release_has_failed(scene),
        }
    }

    /// Whether nothing is left of a release that cannot be upgraded to. The old process serves for ever then.
    fn release_has_failed(&self, scene: &Scene) -> bool {
        !self.release.is_sound()
            && says_failure(&scene.log().split_off(self.log))
            && scene.alive() == [self.old]
    }

    /// The hit, with the processes that were lost by it.
    fn end(self, scene: &mut Scene) -> Option<Hit> {
        // The old process may have been starting its successor when it was killed.
        find_unheard_of(&scene.tracer, &mut scene.processes);
        let hit = self.hit?;
        let count = scene.processes.len();
        let is_lost =
            |process: &i32| hit.victim.is_some_and(|it| scene.root_of(*process) == scene.root_of(it));
        let losers = scene.processes.iter().copied().filter(is_lost).collect();
        Some(Hit { alone: hit.victim == Some(self.old) && count == 1, losers, ..hit })
    }
}
