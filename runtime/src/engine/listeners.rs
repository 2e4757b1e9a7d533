//! The sockets of the service and their gates: opened, drained, closed.

use std::sync::Arc;
use std::time::Instant;

use crate::base::report::tell;
use crate::between::gate_control::{CONTROL_SOCKET, GateControl};
use crate::engine::core::{Engine, PAUSE_TIMEOUT};
use crate::engine::data::Preparation;
use crate::lifecycle::{Drain, Phase};
use crate::outside::sockets::{self, BoundSocket};

impl Engine {
    /// Takes a socket that was bound or adopted, and the gates of the listeners that the body has taken. In a drain they are closed at once.
    pub(super) fn add_socket(&mut self, socket: Option<BoundSocket>, gates: Vec<Arc<dyn GateControl>>) {
        if matches!(self.state.phase, Phase::Draining(_) | Phase::Ended) {
            sockets::forget(socket.as_slice(), self.shared.who());
            retire(&gates);
            return;
        }
        if let Some(socket) = socket {
            self.listeners.ports.extend(socket.port());
            // The control socket stays the last.
            self.listeners.sockets.insert(self.sockets_of_body().len(), socket);
        }
        self.listeners.gates.extend(gates);
    }

    /// The sockets without the control socket, which is the last.
    pub(super) fn sockets_of_body(&self) -> &[BoundSocket] {
        match self.listeners.sockets.split_last() {
            Some((last, others)) if last.name == CONTROL_SOCKET => others,
            _ => &self.listeners.sockets,
        }
    }

    /// The listeners that the body has not asked for a connection yet, also those that it has not taken.
    pub(super) fn unserved(&self) -> Vec<String> {
        if self.body.preparation != Preparation::Done {
            return self.sockets_of_body().iter().map(|socket| socket.name.clone()).collect();
        }
        let not_asked =
            self.listeners.gates.iter().filter(|gate| !gate.asked()).map(|gate| gate.name().to_owned());
        let pool = self.shared.pool();
        let not_taken = pool.iter().flat_map(|pool| &pool.declared).map(|socket| socket.name.clone());
        not_asked.chain(not_taken).collect()
    }

    /// Opens every gate.
    pub(super) fn open(&mut self) {
        self.before_open();
        self.listeners.gates.iter().for_each(|gate| gate.open());
        if self.serving_since.is_none() {
            let (listeners, version) = (self.sockets_of_body().len(), self.settings.version.as_deref());
            tell!(self.shared, INFO, phase = "serving", listeners, version, "serving");
            self.serving_since = Some(Instant::now());
            self.shared.serving.set(true);
        }
    }

    /// Closes every listener and removes the paths, unless a successor has the listeners and removes the paths itself.
    pub(super) fn let_go(&mut self) {
        let ours = self.state.phase == Phase::Draining(Drain::Stop { owner: true });
        for socket in std::mem::take(&mut self.listeners.sockets) {
            if ours {
                socket.remove(self.shared.who());
            }
        }
    }

    /// Begins the drain: closes the gates for good, and the listeners that no successor has adopted.
    pub(super) fn drain(&mut self) {
        self.draining_since = Some(Instant::now());
        self.shared.start_draining();
        self.shared.moving.taking.close();
        self.retire();
        self.let_body_decide();
        // Before this process has served, and once its predecessor serves again, the paths of adopted sockets belong to that one.
        let is_reverted = matches!(self.state.phase, Phase::Draining(Drain::Reverted { .. }));
        let ours = self.state.phase != Phase::Draining(Drain::Stop { owner: false }) && !is_reverted;
        let sockets = std::mem::take(&mut self.listeners.sockets);
        // A rescue needs the sockets of the process that serves.
        let (kept, given_up): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|socket| {
            self.is_adopted(&socket.name) || is_reverted && self.comes_from_predecessor(&socket.name)
        });
        if is_reverted {
            self.tell_lost_queues(&given_up);
        }
        for socket in given_up {
            if ours || socket.created {
                socket.remove(self.shared.who());
            }
        }
        self.listeners.sockets = kept;
        let open = self.shared.counted();
        let timeout = humantime::format_duration(self.settings.timeouts.drain);
        tell!(self.shared, INFO, phase = "draining", open, %timeout, "draining");
    }

    /// Closes every gate for good. Returns whether no thread is left in an accept.
    pub(super) fn retire(&self) -> bool {
        retire(&self.listeners.gates)
    }
}

fn retire(gates: &[Arc<dyn GateControl>]) -> bool {
    let deadline = Instant::now() + PAUSE_TIMEOUT;
    let stuck = gates.iter().filter(|gate| !gate.retire(deadline)).count();
    stuck == 0
}
