//! What operators see of the neighbours, and what the successor and the clients of the control socket are told of this process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::base::status::{self, Executable, Generation, PredecessorState, Status, Upgrades};
use crate::between::gate_control::{Change, News};
use crate::engine::core::Engine;
use crate::engine::neighbours::{DrainEnd, PredecessorLink, Successor, ToldOpen};
use crate::engine::status::phase_of;
use crate::lifecycle::{Drain, Phase, Predecessor, Timer};
use crate::outside::handover::message::{Message, NO_LIMIT};

/// How often a successor is told how many connections are open here.
const OPEN_INTERVAL: Duration = Duration::from_secs(1);

impl Engine {
    /// Adds the predecessor, the successor and the upgrades to a status.
    pub(in crate::engine) fn add_neighbours(&self, status: &mut Status) {
        let predecessor = self.neighbours.predecessor.as_ref();
        status.executable = self.executable();
        status.predecessor = predecessor.map(|predecessor| predecessor.offered.pid);
        status.predecessor_state = predecessor.and_then(|predecessor| self.state_of(predecessor));
        status.history = self.neighbours.history.iter().cloned().collect();
        status.last_drain = self.neighbours.last_drain.clone();
        status.aborted_total = self.neighbours.aborted;
        status.successor = self.successor_pid();
        // Each makes a generation; the start of the service made the first.
        status.upgrades =
            Upgrades { done: self.shared.generation - 1, ..self.neighbours.upgrade.counts.clone() };
        status.moves = self.moves();
        if let Some(predecessor) = predecessor {
            let (generation, pid) = (self.shared.generation - 1, predecessor.offered.pid);
            status.generations.insert(0, Generation { generation, pid, open: predecessor.open });
        }
        if let Some(successor) = &self.neighbours.successor {
            let (generation, pid) = (successor.generation, successor.pid());
            status.generations.push(Generation { generation, pid, open: None });
        }
    }

    /// What the predecessor does. `None` if it is not known: a message was lost, or the predecessor is of an older release.
    fn state_of(&self, predecessor: &PredecessorLink) -> Option<PredecessorState> {
        let open = predecessor.open;
        if self.state.predecessor == Predecessor::Over {
            return Some(PredecessorState { phase: status::Phase::Ended, open: None, remaining: None });
        }
        let phase = status::Phase::Draining;
        match predecessor.drain_end {
            DrainEnd::At(end) => {
                let remaining = Some(end.saturating_duration_since(Instant::now()));
                Some(PredecessorState { phase, open, remaining })
            }
            DrainEnd::Never => Some(PredecessorState { phase, open, remaining: None }),
            // It does something else while this process starts, or has given the service back.
            DrainEnd::NotTold => {
                if self.state.phase != Phase::Serving {
                    return None;
                }
                let remaining = Some(self.standby_of_predecessor()?);
                Some(PredecessorState { phase: status::Phase::Standby, open, remaining })
            }
        }
    }

    /// Tells the successor, which answers operators by now, how many connections are open here and how long the drain lasts: at once,
    /// at the begin of the drain, and then at most once a second if something has changed.
    pub(super) fn tell_open(&mut self) {
        let now = Instant::now();
        let is_due = self.open_is_due().is_some_and(|due| due <= now);
        let drain_end = self.drain_end();
        let Some(successor) = self.neighbours.successor.as_mut().filter(|_| is_due) else { return };
        let open = u64::try_from(self.shared.counted()).unwrap_or(u64::MAX);
        let mut told = self.neighbours.told_open.and_then(|it| it.told);
        if told != Some((open, drain_end)) {
            let drain_ms = match drain_end {
                DrainEnd::NotTold => None,
                DrainEnd::At(end) => in_milliseconds(end.saturating_duration_since(now)),
                DrainEnd::Never => Some(NO_LIMIT),
            };
            // A message that does not fit into the socket is sent later. One that finds no reader is not missed.
            match successor.channel.send_unless_full(&Message::Open { open, drain_ms }) {
                Ok(true) | Err(_) => told = Some((open, drain_end)),
                Ok(false) => {}
            }
        }
        self.neighbours.told_open = Some(ToldOpen { told, at: now });
    }

    /// When the successor is told next, if there is one that answers operators.
    pub(super) fn open_is_due(&self) -> Option<Instant> {
        self.neighbours.successor.as_ref()?;
        let is_told = matches!(
            self.state.phase,
            Phase::Standby(_) | Phase::Draining(Drain::Replaced { .. } | Drain::Leaving { .. })
        );
        is_told.then(|| match self.neighbours.told_open {
            Some(ToldOpen { at, .. }) if at >= self.phase_since => at + OPEN_INTERVAL,
            _ => self.phase_since,
        })
    }

    /// The deadline of the drain.
    fn drain_end(&self) -> DrainEnd {
        match self.timers.get(&Timer::Drain) {
            _ if !matches!(self.state.phase, Phase::Draining(_)) => DrainEnd::NotTold,
            Some(end) => DrainEnd::At(*end),
            None => DrainEnd::Never,
        }
    }

    /// The file that this process runs, also when its path is gone.
    fn executable(&self) -> Option<Executable> {
        let path = self.neighbours.spawner.executable()?.to_owned();
        let file = fs::metadata("/proc/self/exe").ok()?;
        Some(Executable { path, device: Some(file.dev()), inode: file.ino(), modified: file.mtime() })
    }

    pub(super) fn successor_pid(&self) -> Option<u32> {
        self.neighbours.successor.as_ref().map(Successor::pid)
    }

    /// Tells the clients of the control socket that another phase has begun. This comes before the outcome.
    pub(super) fn tell_phase(&mut self) {
        let phase = phase_of(self.state.phase);
        if phase != self.neighbours.told_phase {
            self.neighbours.told_phase = phase;
            if let Some(control) = &self.neighbours.control {
                let change = Change { phase, successor: self.successor_pid(), at: self.phase_since };
                control.tell(News::Phase(change));
            }
        }
    }

    /// Tells the thread of the control socket that replies are set, which its clients may wait for.
    pub(in crate::engine) fn tell_outcome(&self) {
        if let Some(control) = &self.neighbours.control {
            control.tell(News::Outcome);
        }
    }
}

/// The end of a drain that lasts so long yet.
pub(super) fn drain_end(drain_ms: Option<u64>) -> DrainEnd {
    match drain_ms {
        None => DrainEnd::NotTold,
        Some(NO_LIMIT) => DrainEnd::Never,
        // A time that no clock counts to never comes.
        Some(left) => {
            Instant::now().checked_add(Duration::from_millis(left)).map_or(DrainEnd::Never, DrainEnd::At)
        }
    }
}

fn in_milliseconds(time: Duration) -> Option<u64> {
    u64::try_from(time.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A predecessor may say any number.
    #[test]
    fn the_end_of_a_drain_is_a_time_or_none() {
        assert_eq!(drain_end(None), DrainEnd::NotTold);
        assert_eq!(drain_end(Some(NO_LIMIT)), DrainEnd::Never);
        let begin = Instant::now();
        match drain_end(Some(5000)) {
            DrainEnd::At(end) => {
                let left = end.duration_since(begin);
                assert!((Duration::from_secs(5)..Duration::from_secs(65)).contains(&left), "{left:?}");
            }
            other => panic!("{other:?}"),
        }
        assert_ne!(drain_end(Some(NO_LIMIT - 1)), DrainEnd::NotTold);
        assert_eq!(in_milliseconds(Duration::MAX), None);
    }
}
