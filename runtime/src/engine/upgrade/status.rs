//! What operators see of the neighbours, and what the successor and the clients of the control socket are told of this process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::base::status::{Executable, Generation, Status, Upgrades};
use crate::between::gate_control::{Change, News};
use crate::engine::core::Engine;
use crate::engine::neighbours::Successor;
use crate::engine::status::phase_of;
use crate::lifecycle::{Drain, Phase};
use crate::outside::handover::message::Message;

/// How often a successor is told how many connections are open here.
const OPEN_INTERVAL: Duration = Duration::from_secs(1);

impl Engine {
    /// Adds the predecessor, the successor and the upgrades to a status.
    pub(in crate::engine) fn add_neighbours(&self, status: &mut Status) {
        let predecessor = self.neighbours.predecessor.as_ref();
        status.executable = self.executable();
        status.predecessor = predecessor.map(|predecessor| predecessor.offered.pid);
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

    /// Tells the successor, which answers operators by now, how many connections are open here: at once, and then at most once a second
    /// if the number has changed.
    pub(super) fn tell_open(&mut self) {
        let now = Instant::now();
        let is_due = self.open_is_due().is_some_and(|due| due <= now);
        let Some(successor) = self.neighbours.successor.as_mut().filter(|_| is_due) else { return };
        let open = u64::try_from(self.shared.counted()).unwrap_or(u64::MAX);
        if self.neighbours.told_open.is_none_or(|(told, _)| told != open) {
            // A count that does not fit into the socket, or finds no reader, is not missed.
            match successor.channel.send_unless_full(&Message::Open { open }) {
                Ok(true | false) | Err(_) => {}
            }
        }
        self.neighbours.told_open = Some((open, now));
    }

    /// When the successor is told next, if there is one that answers operators.
    pub(super) fn open_is_due(&self) -> Option<Instant> {
        self.neighbours.successor.as_ref()?;
        matches!(
            self.state.phase,
            Phase::Standby(_) | Phase::Draining(Drain::Replaced { .. } | Drain::Leaving { .. })
        )
        .then(|| self.neighbours.told_open.map_or(self.phase_since, |(_, at)| at + OPEN_INTERVAL))
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
