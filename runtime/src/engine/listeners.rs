//! What the actions of the life cycle do to the listeners.

use std::sync::Arc;
use std::time::Instant;

use super::{Engine, PAUSE_TIMEOUT};
use crate::gate::Door;
use crate::lifecycle::{Drain, Event, Phase};
use crate::report::{complain, tell};
use crate::sockets::{self, Held};

impl Engine {
    /// A socket that was bound or adopted, and what the body has taken. What comes when all others are closed is closed.
    pub(super) fn have(&mut self, held: Option<Held>, doors: Vec<Arc<dyn Door>>) {
        if matches!(self.state.phase, Phase::Draining(_) | Phase::Ended) {
            sockets::forget(held.as_slice(), &self.shared);
            let deadline = Instant::now() + PAUSE_TIMEOUT;
            doors.iter().for_each(|door| _ = door.retire(deadline));
            return;
        }
        if let Some(held) = held {
            self.ports.extend(held.port());
            // The control socket stays the last.
            self.held.insert(self.held_by_body().len(), held);
        }
        self.doors.extend(doors);
    }

    /// Whether the successor keeps the listener of this name.
    fn is_adopted(&self, name: &str) -> bool {
        self.successor.as_ref().is_some_and(|successor| successor.adopted.contains(name))
    }

    /// Only what the successor adopted is paused: on a listener that it does not know nobody else would accept, and
    /// its clients would wait in the queue for nothing.
    pub(super) fn pause(&mut self) -> Event {
        let successor = self.successor_pid();
        tell!(self.shared, INFO, phase = "handing-over", successor, "the successor is ready");
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        let stuck = self.doors.iter().find(|door| self.is_adopted(door.name()) && !door.close(deadline));
        match stuck {
            None => Event::Paused,
            Some(door) => {
                self.reason = Some(stuck_in(door.name()));
                Event::ChannelLost
            }
        }
    }

    /// From here on another process has the sockets, and may clear O_NONBLOCK on them: every thread here that takes from
    /// one of them knows. One that is asleep in an accept already, because somebody has cleared it before, could not be
    /// paused; a client that comes wakes it.
    pub(super) fn expect_company(&self) -> Result<(), String> {
        self.restore_nonblocking();
        self.shared.set_accompanied(true);
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        match self.doors.iter().find(|door| !door.settle(deadline)) {
            None => Ok(()),
            Some(door) => Err(stuck_in(door.name())),
        }
    }

    /// The predecessor or the successor is dead. What it may have done to the sockets is undone before anybody relies on
    /// it again.
    pub(super) fn lose_company(&mut self) {
        self.restore_nonblocking();
        if self.successor.is_none() {
            self.undo_tuning();
        }
        self.shared.set_accompanied(self.parent.is_some() || self.successor.is_some());
    }

    pub(super) fn open(&mut self) {
        self.restore_nonblocking();
        self.shared.set_handed_over(false);
        self.doors.iter().for_each(|door| door.open());
        if self.serving_since.is_none() {
            let (listeners, version) = (self.held_by_body().len(), self.settings.version.as_deref());
            tell!(self.shared, INFO, phase = "serving", listeners, version, "serving");
            self.serving_since = Some(Instant::now());
            self.shared.serving.set(true);
        }
    }

    /// Another process that has them may have cleared it.
    pub(super) fn restore_nonblocking(&self) {
        for held in &self.held {
            match held.restore_nonblocking() {
                Ok(false) => {}
                Ok(true) => complain!(
                    self.shared,
                    "listener `{}`: another process had cleared O_NONBLOCK; it is set again",
                    held.name
                ),
                Err(error) => complain!(self.shared, "listener `{}`: {error}", held.name),
            }
        }
    }

    /// Sets the options of the addresses on the sockets that were adopted. Until this process was told to serve they were the
    /// predecessor's alone.
    pub(super) fn tune(&mut self) -> Result<(), String> {
        let cannot =
            |name: &str, error| format!("listener `{name}`: cannot set the options of its address: {error}");
        self.held.iter_mut().try_for_each(|held| held.tune().map_err(|error| cannot(&held.name, error)))
    }

    /// A successor that was told to serve had set the options of its own release. This process, or the one that it starts in
    /// the place of the dead one, serves with those that were set before.
    fn undo_tuning(&mut self) {
        for held in &mut self.held {
            match held.undo_tuning() {
                Ok(undone) if undone.is_empty() => {}
                Ok(undone) => tell!(
                    self.shared,
                    INFO,
                    listener = held.name,
                    options = undone.join(", "),
                    "the successor had changed options of the socket; they are set back"
                ),
                Err(error) => complain!(
                    self.shared,
                    "listener `{}`: cannot set back the options that the successor had changed: {error}",
                    held.name
                ),
            }
        }
    }

    /// Closes every listener. Their paths go with them, unless a successor still has them and removes them itself.
    pub(super) fn let_go(&mut self) {
        let ours = self.state.phase == Phase::Draining(Drain::Stop { owner: true });
        for held in std::mem::take(&mut self.held) {
            if ours {
                held.remove(&self.shared);
            }
        }
    }

    pub(super) fn drain(&mut self) {
        self.shared.start_draining();
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        self.doors.iter().for_each(|door| _ = door.retire(deadline));
        // Before it ever served, what it inherited is its predecessor's.
        let ours = self.state.phase != Phase::Draining(Drain::Stop { owner: false });
        let held = std::mem::take(&mut self.held);
        let (kept, given_up): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|held| self.is_adopted(&held.name));
        for held in given_up {
            if ours || held.created {
                held.remove(&self.shared);
            }
        }
        self.held = kept;
        let open = self.shared.counted();
        let timeout = humantime::format_duration(self.settings.timeouts.drain);
        tell!(self.shared, INFO, phase = "draining", open, %timeout, "draining");
    }
}

fn stuck_in(listener: &str) -> String {
    format!("a thread of this process is stuck in an accept of `{listener}`")
}
