//! The sockets that another process has as well: they pause at a handover, and what the other process has done to them is undone.

use std::time::Instant;

use crate::base::report::{complain, tell};
use crate::engine::core::{Engine, PAUSE_TIMEOUT};
use crate::lifecycle::Event;
use crate::outside::sockets::BoundSocket;

impl Engine {
    /// Whether the successor keeps the listener of this name.
    pub(in crate::engine) fn is_adopted(&self, name: &str) -> bool {
        self.neighbours.successor.as_ref().is_some_and(|successor| successor.adopted.contains(name))
    }

    /// Whether the predecessor has the listener of this name as well.
    pub(in crate::engine) fn comes_from_predecessor(&self, name: &str) -> bool {
        let adopted = self.neighbours.predecessor.iter().flat_map(|predecessor| &predecessor.adopted);
        adopted.into_iter().any(|(_, adopted)| adopted == name)
    }

    /// Names the listeners that end with this process although the service goes on, and the connections in their queues.
    pub(in crate::engine) fn tell_lost_queues(&self, given_up: &[BoundSocket]) {
        for socket in given_up {
            let waiting = match socket.queue() {
                Some((waiting, _)) if waiting > 0 => format!("; {waiting} connections in its queue are lost"),
                _ => String::new(),
            };
            complain!(
                self.shared,
                WARN,
                "listener `{}` ({}) is only of this release, and is closed{waiting}",
                socket.name,
                socket.address.identity()
            );
        }
    }

    /// Closes the gates of the listeners that the successor has adopted. No other process accepts on the rest: their clients would wait
    /// in the queue in vain.
    pub(super) fn pause(&mut self) -> Event {
        let successor = self.successor_pid();
        tell!(self.shared, INFO, phase = "handing-over", successor, "the successor is ready");
        self.close_shared_gates(Engine::is_adopted)
    }

    /// Closes the gates of the listeners that both processes have.
    pub(super) fn close_shared_gates(&mut self, is_shared: fn(&Engine, &str) -> bool) -> Event {
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        let gates = self.listeners.gates.iter().filter(|gate| is_shared(self, gate.name()));
        let stuck = gates.map(|gate| (gate, gate.close(deadline))).find(|(_, is_closed)| !is_closed);
        match stuck.map(|(gate, _)| gate) {
            None => Event::Paused,
            Some(gate) => {
                self.reason = Some(stuck_in(gate.name()));
                Event::ChannelLost
            }
        }
    }

    /// From here on another process has the sockets, and may clear O_NONBLOCK on them. Every thread that takes from a socket knows it from
    /// here on, and polls first.
    ///
    /// # Errors
    ///
    /// A thread sleeps in an accept already, because O_NONBLOCK was cleared before. Its gate could not be closed.
    pub(super) fn begin_sharing(&self) -> Result<(), String> {
        self.restore_nonblocking();
        self.shared.set_shares_sockets(true);
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        match self.listeners.gates.iter().find(|gate| !gate.settle(deadline)) {
            None => Ok(()),
            Some(gate) => Err(stuck_in(gate.name())),
        }
    }

    /// The predecessor or the successor is dead. Undoes what it may have done to the sockets.
    pub(super) fn end_sharing(&mut self) {
        self.restore_nonblocking();
        if self.neighbours.successor.is_none() {
            self.undo_tuning();
        }
        self.shared
            .set_shares_sockets(self.neighbours.predecessor.is_some() || self.neighbours.successor.is_some());
    }

    /// Sets O_NONBLOCK again where another process has cleared it.
    pub(super) fn restore_nonblocking(&self) {
        for socket in &self.listeners.sockets {
            match socket.restore_nonblocking() {
                Ok(false) => {}
                Ok(true) => complain!(
                    self.shared,
                    "listener `{}`: another process had cleared O_NONBLOCK; it is set again",
                    socket.name
                ),
                Err(error) => complain!(self.shared, "listener `{}`: {error}", socket.name),
            }
        }
    }

    /// Sets the options of the addresses on the adopted sockets. Until the COMMIT only the predecessor served with them.
    pub(super) fn tune(&mut self) -> Result<(), String> {
        let cannot =
            |name: &str, error| format!("listener `{name}`: cannot set the options of its address: {error}");
        self.listeners
            .sockets
            .iter_mut()
            .try_for_each(|socket| socket.tune().map_err(|error| cannot(&socket.name, error)))
    }

    /// Sets back the options that a successor of another release has set. This process, or its rescue, serves with the former ones.
    pub(super) fn undo_tuning(&mut self) {
        for socket in &mut self.listeners.sockets {
            match socket.undo_tuning() {
                Ok(undone) if undone.is_empty() => {}
                Ok(undone) => tell!(
                    self.shared,
                    INFO,
                    listener = socket.name,
                    options = undone.join(", "),
                    "the successor had changed options of the socket; they are set back"
                ),
                Err(error) => complain!(
                    self.shared,
                    "listener `{}`: cannot set back the options that the successor had changed: {error}",
                    socket.name
                ),
            }
        }
    }
}

fn stuck_in(listener: &str) -> String {
    format!("a thread of this process is stuck in an accept of `{listener}`")
}
