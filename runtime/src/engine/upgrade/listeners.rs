//! The sockets that another process has as well: they pause at a handover, and what the other process has done to them is undone.

use std::time::Instant;

use crate::base::report::{complain, tell};
use crate::engine::core::{Engine, PAUSE_TIMEOUT};
use crate::lifecycle::Event;

impl Engine {
    /// Whether the successor keeps the listener of this name.
    pub(in crate::engine) fn is_adopted(&self, name: &str) -> bool {
        self.neighbours.successor.as_ref().is_some_and(|successor| successor.adopted.contains(name))
    }

    /// Only what the successor adopted is paused: on a listener that it does not know nobody else would accept, and
    /// its clients would wait in the queue for nothing.
    pub(super) fn pause(&mut self) -> Event {
        let successor = self.successor_pid();
        tell!(self.shared, INFO, phase = "handing-over", successor, "the successor is ready");
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        let stuck =
            self.listeners.gates.iter().find(|gate| self.is_adopted(gate.name()) && !gate.close(deadline));
        match stuck {
            None => Event::Paused,
            Some(gate) => {
                self.reason = Some(stuck_in(gate.name()));
                Event::ChannelLost
            }
        }
    }

    /// From here on another process has the sockets, and may clear O_NONBLOCK on them: every thread here that takes from
    /// one of them knows. One that is asleep in an accept already, because somebody has cleared it before, could not be
    /// paused; a client that comes wakes it.
    pub(super) fn begin_sharing(&self) -> Result<(), String> {
        self.restore_nonblocking();
        self.shared.set_shares_sockets(true);
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        match self.listeners.gates.iter().find(|gate| !gate.settle(deadline)) {
            None => Ok(()),
            Some(gate) => Err(stuck_in(gate.name())),
        }
    }

    /// The predecessor or the successor is dead. What it may have done to the sockets is undone before anybody relies on
    /// it again.
    pub(super) fn end_sharing(&mut self) {
        self.restore_nonblocking();
        if self.neighbours.successor.is_none() {
            self.undo_tuning();
        }
        self.shared
            .set_shares_sockets(self.neighbours.predecessor.is_some() || self.neighbours.successor.is_some());
    }

    /// Another process that has them may have cleared it.
    pub(super) fn restore_nonblocking(&self) {
        for held in &self.listeners.sockets {
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
        self.listeners
            .sockets
            .iter_mut()
            .try_for_each(|held| held.tune().map_err(|error| cannot(&held.name, error)))
    }

    /// A successor that was told to serve had set the options of its own release. This process, or the one that it starts in
    /// the place of the dead one, serves with those that were set before.
    fn undo_tuning(&mut self) {
        for held in &mut self.listeners.sockets {
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
}

fn stuck_in(listener: &str) -> String {
    format!("a thread of this process is stuck in an accept of `{listener}`")
}
