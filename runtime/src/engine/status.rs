//! What operators and the body see of the engine.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::Engine;
use crate::control::{self, Change, News};
use crate::sockets::Held;
use crate::status::{Executable, Status};

impl Engine {
    pub(super) fn status(&self) -> Status {
        Status {
            serving: self.serving_since.map(|since| since.elapsed()),
            executable: self.executable(),
            predecessor: self.parent.as_ref().map(|parent| parent.pid),
            successor: self.successor_pid(),
            upgrades: self.upgrades.clone(),
            ..Status::of(&self.shared, self.state.phase, self.held_by_body(), &self.doors)
        }
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

    fn successor_pid(&self) -> Option<u32> {
        self.successor.as_ref().map(|successor| successor.child.pid())
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
