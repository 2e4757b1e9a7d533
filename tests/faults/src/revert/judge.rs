//! What must be true after a fault in a revert.

use serde_json::Value;

use crate::fault::{Fault, Hit};
use crate::moving::{End, Ledger, Owner, Story};
use crate::scene::Words;

/// How the old process says that it has killed the new one, and what that costs.
const KILLED: &str = "the connections that it had accepted are lost";

/// What came of the connections of the new process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fates {
    /// Served by another process.
    pub(super) moved: usize,
    /// The new process kept it, and said goodbye or served on.
    pub(super) stayed: usize,
    /// It ended with its process.
    pub(super) lost: usize,
}

/// What the operators were told. `None`: the connection has ended.
pub(super) struct Answers {
    pub(super) upgrading: Option<Value>,
    pub(super) asking: Option<Value>,
}

/// What the conditions depend on.
pub(super) struct Facts {
    pub(super) old: i32,
    pub(super) new: i32,
    /// The old process was asked for the revert.
    pub(super) asks_old: bool,
    /// The process that served in the end, if any.
    pub(super) serving: Option<i32>,
    /// The successor of that one, in a further upgrade.
    pub(super) last: Option<i32>,
    /// The first request to revert has failed, and the second has not.
    pub(super) is_refused: bool,
    pub(super) fault: Fault,
    pub(super) victim: Option<i32>,
    pub(super) stopped: Option<i32>,
    pub(super) ledger: Ledger,
    /// Every process, in order.
    pub(super) processes: Vec<i32>,
    /// What was said since the request.
    pub(super) log: String,
}

impl Fates {
    pub(super) fn add(&mut self, other: Self) {
        self.moved += other.moved;
        self.stayed += other.stayed;
        self.lost += other.lost;
    }
}

impl Facts {
    /// Whether the process is the right one that serves, or the service has ended as it was told.
    pub(super) fn judge_end(&self, hit: &Hit, words: Words) -> Result<(), String> {
        let Self { old, new, serving, .. } = *self;
        let is_named = hit.moment.named == self.stopped;
        let wrong = match (self.stopped, serving) {
            _ if self.accept_beside_each_other() => "two processes have accepted beside each other",
            (None, None) => "nobody serves, and nobody was told to stop",
            (None, Some(serving)) if self.victim == Some(old) && serving == old => "a dead process serves",
            (None, Some(serving)) if self.victim != Some(old) && serving != old => {
                "the old process lives, and another one serves"
            }
            (None, Some(_)) if self.is_refused && !self.may_fail() => "a request to revert has failed",
            (Some(_), Some(_)) if is_named => {
                "the stop of the process that the pid file named has left another one that serves"
            }
            // It was stopped alone, before the revert.
            (Some(stopped), Some(serving)) if stopped == serving => "a process that was stopped serves",
            (Some(stopped), None) if stopped == old && !is_named && !self.ledger.is_recalled() => {
                "the stop of a process on standby has ended the service"
            }
            (Some(stopped), None) if stopped == new && words.is_known_resumed => {
                "the stop of a process that had given the service back has ended the service"
            }
            _ => return Ok(()),
        };
        let accepted = self.ledger.accepted();
        Err(format!(
            "{wrong}: old {old}, new {new}, {serving:?} serves; {accepted:?} have accepted; killed {:?}; {:?} was told to stop when the pid file named {:?}, {words:?}",
            self.victim, self.stopped, hit.moment.named
        ))
    }

    /// Whether the new process has accepted a connection after the old one has, which lives.
    fn accept_beside_each_other(&self) -> bool {
        let accepted = self.ledger.accepted();
        let old = accepted.iter().position(|process| *process == self.old);
        self.victim != Some(self.old) && old.is_some_and(|old| accepted[old..].contains(&self.new))
    }

    /// Whether the fault may keep the processes from a revert.
    fn may_fail(&self) -> bool {
        matches!(self.fault, Fault::Error { .. } | Fault::Stall { .. } | Fault::Stop { .. })
    }

    /// Whether each operator has a true answer.
    pub(super) fn judge_answers(&self, answers: &Answers) -> Result<(), String> {
        let asked = if self.asks_old { self.old } else { self.new };
        let serves_again = self.serving == Some(self.old) && !self.is_refused;
        let is_hit = |process| self.victim == Some(process) || self.stopped.is_some();
        let wrong = match (&answers.upgrading, &answers.asking) {
            (Some(upgrade), _) if upgrade["reply"] == "upgraded" => {
                "an upgrade that has not passed its probation was answered as a successful one"
            }
            (Some(upgrade), _) if upgrade["reply"] != "error" => "the upgrade got an answer that is none",
            (None, _) if !is_hit(self.old) => "the upgrade got no answer, and its process was not hit",
            (_, None) if !is_hit(asked) && !self.log.contains(KILLED) => {
                "the revert got no answer, and its process was not hit"
            }
            (_, Some(revert)) if revert["reply"] == "reverted" => {
                let is_so = serves_again || is_hit(self.old);
                if is_so && revert["pid"] == self.old {
                    return Ok(());
                }
                "a revert was answered as done, and the old process does not serve"
            }
            (_, Some(revert)) if revert["reply"] != "error" => "the revert got an answer that is none",
            // A delay and a pause change nothing.
            (_, Some(_)) if self.victim.is_none() && self.stopped.is_none() && !self.may_fail() => {
                "the revert was answered by an error"
            }
            // The old process can serve for another reason, and says which.
            (_, Some(revert)) if serves_again && !self.asks_old && self.stopped.is_none() => {
                return Err(format!(
                    "an error was the answer to a revert, and the old process serves: {revert}"
                ));
            }
            _ => return Ok(()),
        };
        Err(format!(
            "{wrong}: old {}, new {}, {:?} serves; the upgrade: {:?}; the revert: {:?}",
            self.old, self.new, self.serving, answers.upgrading, answers.asking
        ))
    }

    /// The hit, with the new process among the losers if the old one has killed it and says so.
    pub(super) fn with_losers(&self, hit: &Hit) -> Hit {
        let mut hit = hit.clone();
        if self.is_killed() && !hit.losers.contains(&self.new) {
            hit.losers.push(self.new);
        }
        hit
    }

    /// Whether the old process has killed the new one, because an error kept it from giving the service back.
    fn is_killed(&self) -> bool {
        self.may_fail() && self.log.contains(KILLED)
    }

    /// Whether each connection has come to a right end.
    pub(super) fn judge_connections(
        &self,
        before: &[Story],
        during: &[Story],
        hit: &Hit,
    ) -> Result<Fates, String> {
        let mut fates = Fates::default();
        // tokio closes a connection that it cannot register, docs/reliability.md.
        let mut excused = usize::from(hit.is_unregistered && matches!(self.fault, Fault::Error { .. }));
        let wrong = |story: &Story, wrong: String| {
            let owner = self.ledger.owner(story.port, self.victim);
            let Self { old, new, victim, stopped, serving, processes, .. } = self;
            format!(
                "{wrong}: {story:?}, owner {owner:?}; old {old}, new {new}, killed {victim:?}, stopped {stopped:?}, serving \
                 {serving:?} of {processes:?}"
            )
        };
        for story in before {
            self.judge_before(story).map_err(|what| wrong(story, what))?;
        }
        for story in during {
            let fate = self.judge_during(story, &mut excused).map_err(|what| wrong(story, what))?;
            *match fate {
                Fate::Moved => &mut fates.moved,
                Fate::Stayed => &mut fates.stayed,
                Fate::Lost => &mut fates.lost,
            } += 1;
        }
        Ok(fates)
    }

    /// A connection of the old process, which never moves.
    fn judge_before(&self, story: &Story) -> Result<(), String> {
        if story.answered != [self.old] {
            return Err("another process than the old one has answered".to_owned());
        }
        match story.end {
            End::Wrong(ref what) => Err(what.clone()),
            End::Cut if self.victim == Some(self.old) => Ok(()),
            End::Goodbye(process) if process == self.old && self.stopped.is_some() => Ok(()),
            End::Goodbye(process) | End::Stopped(process) if Some(process) == self.serving => Ok(()),
            _ => Err("a connection of the old process has ended".to_owned()),
        }
    }

    fn judge_during(&self, story: &Story, excused: &mut usize) -> Result<Fate, String> {
        let owner = self.ledger.owner(story.port, self.victim);
        let mut order = vec![self.new, self.old];
        order.extend(self.processes.iter().filter(|it| ![self.new, self.old].contains(it)));
        let place = |process| order.iter().position(|it| *it == process);
        if !story.answered.is_sorted_by(|one, next| place(*one) < place(*next)) {
            return Err("a process has answered after a later one".to_owned());
        }
        match story.end {
            End::Wrong(ref what) => Err(what.clone()),
            End::Cut => {
                let is_of_victim = match owner {
                    Owner::Giver | Owner::Back { .. } => self.victim == Some(self.new) || self.is_killed(),
                    Owner::Taker(taker) => self.victim == Some(taker),
                    // Whichever lives has it.
                    Owner::Offered => false,
                    Owner::Undecided => self.victim.is_some(),
                };
                if !is_of_victim && *excused == 0 {
                    return Err("cut off, and its owner was not killed".to_owned());
                }
                *excused -= usize::from(!is_of_victim);
                Ok(Fate::Lost)
            }
            // A client that was about to send a line when the process that serves was told to stop.
            End::Goodbye(process) | End::Stopped(process) if Some(process) == self.serving => {
                Ok(if process == self.new { Fate::Stayed } else { Fate::Moved })
            }
            End::Goodbye(process) if process == self.new => {
                let may_stay = match owner {
                    Owner::Taker(_) => false,
                    Owner::Back { is_refused: false } => true,
                    // No answer came in time for others, and then it was not offered any more.
                    Owner::Giver if self.ledger.has_withdrawn() => true,
                    _ => self.victim.is_some() || self.stopped.is_some() || self.may_fail(),
                };
                if may_stay { Ok(Fate::Stayed) } else { Err("a goodbye without a reason".to_owned()) }
            }
            // It had moved back, and the service was told to stop.
            End::Goodbye(process) if process == self.old && self.stopped.is_some() => Ok(Fate::Moved),
            End::Goodbye(process) | End::Stopped(process) => Err(format!("{process} has ended it")),
        }
    }
}

enum Fate {
    Moved,
    Stayed,
    Lost,
}
