//! What operators and the body see of the engine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::{Engine, Successor};
use crate::control::{self, Change, News};
use crate::handover::message::Message;
use crate::lifecycle::{Drain, Phase};
use crate::sockets::Held;
use crate::status::{Executable, Generation, Status, Upgrades};

/// How often a successor is told how many connections are open here.
const OPEN_INTERVAL: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) fn status(&self) -> Status {
        let mut status = Status {
            version: self.settings.version.clone(),
            serving: self.serving_since.map(|since| since.elapsed()),
            unserved: if self.state.phase == Phase::Starting { self.unserved() } else { Vec::new() },
            executable: self.executable(),
            predecessor: self.parent.as_ref().map(|parent| parent.offered.pid),
            successor: self.successor_pid(),
            // Each makes a generation; the start of the service made the first.
            upgrades: Upgrades { done: self.shared.generation - 1, ..self.upgrades.clone() },
            ..Status::of(&self.shared, self.state.phase, self.held_by_body(), &self.doors)
        };
        if let Some(parent) = &self.parent {
            let generation = self.shared.generation - 1;
            status
                .generations
                .insert(0, Generation { generation, pid: parent.offered.pid, open: parent.open });
        }
        if let Some(successor) = &self.successor {
            let (generation, pid) = (successor.generation, successor.pid());
            status.generations.push(Generation { generation, pid, open: None });
        }
        status
    }

    /// Tells the successor, which answers to operators by now, how many connections are left here: at once, and then
    /// at most once a second if it is another number.
    pub(super) fn tell_open(&mut self) {
        let now = Instant::now();
        let is_due = self.open_is_due().is_some_and(|due| due <= now);
        let Some(successor) = self.successor.as_mut().filter(|_| is_due) else { return };
        let open = u64::try_from(self.shared.counted()).unwrap_or(u64::MAX);
        if self.told_open.is_none_or(|(told, _)| told != open) {
            // It is news: what does not fit, or comes to nobody, is not missed.
            match successor.channel.send_unless_full(&Message::Open { open }) {
                Ok(true | false) | Err(_) => {}
            }
        }
        self.told_open = Some((open, now));
    }

    /// When the successor is to be told, if there is one that answers to operators.
    pub(super) fn open_is_due(&self) -> Option<Instant> {
        self.successor.as_ref()?;
        matches!(
            self.state.phase,
            Phase::Standby(_) | Phase::Draining(Drain::Replaced { .. } | Drain::Leaving { .. })
        )
        .then(|| self.told_open.map_or(self.phase_since, |(_, at)| at + OPEN_INTERVAL))
    }

    /// Without the control socket, which is the last of all.
    pub(super) fn held_by_body(&self) -> &[Held] {
        match self.held.split_last() {
            Some((last, others)) if last.name == control::NAME => others,
            _ => &self.held,
        }
    }

    /// The file of this process, whatever became of its path.
    fn executable(&self) -> Option<Executable> {
        let path = self.spawner.executable()?.to_owned();
        let file = fs::metadata("/proc/self/exe").ok()?;
        Some(Executable { path, inode: file.ino(), modified: file.mtime() })
    }

    pub(super) fn successor_pid(&self) -> Option<u32> {
        self.successor.as_ref().map(Successor::pid)
    }

    /// Tells whoever waits at the control socket that another phase has begun: before they are told the outcome.
    pub(super) fn tell_phase(&mut self) {
        let phase = self.state.phase.into();
        if phase != self.told_phase {
            self.told_phase = phase;
            if let Some(control) = &self.control {
                let change = Change { phase, successor: self.successor_pid(), at: self.phase_since };
                control.tell(News::Phase(change));
            }
        }
    }

    /// Replies have been set, which some of those who wait there may wait for.
    pub(super) fn tell_outcome(&self) {
        if let Some(control) = &self.control {
            control.tell(News::Outcome);
        }
    }
}
