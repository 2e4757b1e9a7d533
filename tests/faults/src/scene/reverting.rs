//! One revert with one fault in it: which system call the fault hits, and when the fault has done its work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use processes::proc::is_running;

use super::{DEADLINE, LAST_CALLS, Scene, named_in};
use crate::errors;
use crate::fault::{Fault, Hit, Moment, Side};
use crate::tracer::{Call, Verdict, text_of};

/// A revert under way, with the fault that hits it.
pub(crate) struct Reverting {
    side: Side,
    fault: Fault,
    dir: PathBuf,
    old: i32,
    new: i32,
    /// The length of the log before the request.
    log: usize,
    /// How many system calls there were that the fault may hit.
    count: usize,
    /// How often each process has made each call that an error may hit.
    calls: BTreeMap<(bool, i64), usize>,
    /// How many system calls the new process has made since the fault.
    calls_of_new: usize,
    words: Words,
    hit: Option<Hit>,
    /// What had been said when the fault came.
    words_of_hit: Words,
}

/// What the two processes have said to each other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Words {
    /// It serves again, and has said so.
    is_resumed: bool,
    /// The new process has received a message since then.
    pub(crate) is_known_resumed: bool,
}

/// What came of a fault in a revert.
pub(crate) enum Broken {
    /// The new process had ended before that, or had decided to end. It had no call like that.
    TooLate(BTreeMap<(bool, i64), usize>),
    Hit(Hit, Words),
}

impl Scene {
    /// Makes a fault happen in a revert of the processes that are traced. `request` asks for the revert.
    pub(crate) fn break_revert(
        &mut self,
        side: Side,
        fault: Fault,
        request: impl FnOnce(),
    ) -> Result<Broken, String> {
        let mut reverting = Reverting {
            side,
            fault,
            dir: self.dir.clone(),
            old: self.processes[0],
            new: self.processes[1],
            log: self.log().len(),
            count: 0,
            calls: BTreeMap::new(),
            calls_of_new: 0,
            words: Words::default(),
            hit: None,
            words_of_hit: Words::default(),
        };
        request();
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.pump_with(|_, call| reverting.judge(call));
            self.look_for_violation()?;
            match &reverting.hit {
                None if !is_running(reverting.new) => return Ok(Broken::TooLate(reverting.calls)),
                Some(hit) if hit.victim.is_none_or(|victim| !is_running(victim) || is_stalled(fault)) => {
                    break;
                }
                _ => {}
            }
            if Instant::now() > deadline {
                return Err("the revert did not come to an end".to_owned());
            }
            thread::sleep(Duration::from_micros(20));
        }
        if reverting.comes_when_new_has_ended(self)? {
            return Ok(Broken::TooLate(reverting.calls));
        }
        let hit = reverting.hit.expect("the loop ends with it");
        Ok(Broken::Hit(hit, reverting.words_of_hit))
    }
}

fn is_stalled(fault: Fault) -> bool {
    matches!(fault, Fault::Stall { .. })
}

impl Reverting {
    fn judge(&mut self, call: &Call) -> Verdict {
        self.words.hear(call, self.old, self.new);
        let Call::Entry { process, number, arguments, .. } = *call else { return Verdict::Pass };
        if self.hit.is_some() {
            self.calls_of_new += usize::from(process == self.new);
            return Verdict::Pass;
        }
        let of_old = process == self.old;
        if errors::all()
            .any(|(call, error)| call == number && errors::can_fail(process, call, error, arguments))
        {
            *self.calls.entry((of_old, number)).or_default() += 1;
        }
        if process != (if self.side == Side::Old { self.old } else { self.new }) {
            return Verdict::Pass;
        }
        if let Fault::Error { call, error, .. } = self.fault {
            if call != number || !errors::can_fail(process, call, error, arguments) {
                return Verdict::Pass;
            }
        }
        self.count += 1;
        if self.count == self.fault.number() { self.take_down(process, number) } else { Verdict::Pass }
    }

    fn take_down(&mut self, process: i32, number: i64) -> Verdict {
        let verdict = self.fault.verdict();
        let victim = matches!(verdict, Verdict::Kill | Verdict::Stall).then_some(process);
        let stopped = (verdict == Verdict::Stop).then_some(process);
        self.words_of_hit = self.words;
        self.hit = Some(Hit {
            call: errors::name(number),
            victim,
            losers: victim.into_iter().collect(),
            moment: Moment { named: named_in(&self.dir), ..Moment::default() },
            stopped,
            alone: false,
            is_unregistered: victim.is_none() && number == libc::SYS_epoll_ctl,
            old: self.old,
            log: self.log,
        });
        verdict
    }

    /// Whether the fault has ended an old process that was alone: the new one had decided to exit, and does.
    fn comes_when_new_has_ended(&self, scene: &mut Scene) -> Result<bool, String> {
        let hit = self.hit.as_ref().expect("there is one");
        if self.side == Side::New || hit.victim.is_none() || !self.words_of_hit.is_known_resumed {
            return Ok(false);
        }
        if is_stalled(self.fault) {
            return Ok(false);
        }
        let (new, log) = (self.new, self.log);
        let mut calls = self.calls_of_new;
        let deadline = Instant::now() + DEADLINE;
        // Either it starts its own image, or it makes few calls to its end.
        loop {
            scene.pump_with(|_, call| {
                calls += usize::from(matches!(call, Call::Entry { process, .. } if *process == new));
                Verdict::Pass
            });
            if !is_running(new) {
                return Ok(scene.exited.contains(&(new, 0)) && calls < LAST_CALLS);
            }
            if scene.log()[log..].contains(RESCUED) || scene.named() == Some(new) {
                return Ok(false);
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{new} neither ends nor serves after the death of the process that served"
                ));
            }
            thread::sleep(Duration::from_micros(50));
        }
    }
}

/// How a process says that it starts its own image in the place of a dead one.
pub(crate) const RESCUED: &str = " is started in its place";

impl Words {
    fn hear(&mut self, call: &Call, old: i32, new: i32) {
        match *call {
            Call::Entry { process, number: libc::SYS_sendmsg, arguments, .. } if process == old => {
                let text = text_of(process, arguments[1]);
                self.is_resumed |= text.contains("\"type\":\"resumed\"");
            }
            Call::Exit { process, number: libc::SYS_recvmsg, result: 1.., .. } if process == new => {
                self.is_known_resumed |= self.is_resumed;
            }
            _ => {}
        }
    }
}
