//! What operators and the body see of the engine.

use std::sync::Arc;

use crate::base::status::{self, Generation, Listener, Status};
use crate::between::gate_control::GateControl;
use crate::between::shared::Shared;
use crate::engine::core::Engine;
use crate::lifecycle::{Drain, Phase};
use crate::outside::sockets::BoundSocket;

impl Engine {
    pub(super) fn status(&self) -> Status {
        let mut status = Status {
            version: self.settings.version.clone(),
            serving: self.serving_since.map(|since| since.elapsed()),
            unserved: if self.state.phase == Phase::Starting { self.unserved() } else { Vec::new() },
            ..own_status(&self.shared, self.state.phase, self.sockets_of_body(), &self.listeners.gates)
        };
        self.add_neighbours(&mut status);
        if let Some(drain) = &self.drained {
            status.aborted_total += drain.aborted;
            status.last_drain = Some(drain.clone());
        }
        status
    }
}

/// The status of a process without its neighbours.
fn own_status(
    shared: &Shared,
    phase: Phase,
    sockets: &[BoundSocket],
    gates: &[Arc<dyn GateControl>],
) -> Status {
    let listener = |socket: &BoundSocket| {
        let (waiting, backlog) = socket.queue().unzip();
        let taken = taken(gates, &socket.name);
        Listener { name: socket.name.clone(), address: bound(socket), taken, waiting, backlog }
    };
    let open = u64::try_from(shared.counted()).unwrap_or(u64::MAX);
    let us = Generation { generation: shared.generation, pid: shared.pid, open: Some(open) };
    Status {
        uptime: shared.began.elapsed(),
        open,
        generations: vec![us],
        listeners: sockets.iter().map(listener).collect(),
        ..Status::new(shared.generation, shared.pid, phase_of(phase))
    }
}

/// The address, with the port that the kernel has assigned.
pub(super) fn bound(socket: &BoundSocket) -> String {
    let identity = socket.address.identity();
    match (identity.strip_suffix(":0"), socket.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        _ => identity,
    }
}
#[cfg(upgrades)]
fn taken(gates: &[Arc<dyn GateControl>], name: &str) -> Option<u64> {
    gates.iter().find(|gate| gate.name() == name).map(|gate| gate.taken())
}
#[cfg(not(upgrades))]
fn taken(_gates: &[Arc<dyn GateControl>], _name: &str) -> Option<u64> {
    None
}
/// The phase that operators and the body are told.
pub(super) fn phase_of(phase: Phase) -> status::Phase {
    use status::Phase as Told;
    match phase {
        Phase::Starting | Phase::Prepared | Phase::TakingOver => Told::Starting,
        Phase::Serving => Told::Serving,
        Phase::Checking => Told::Checking,
        Phase::Upgrading => Told::Upgrading,
        Phase::Probing => Told::Probing,
        Phase::Pausing | Phase::Committed { .. } => Told::HandingOver,
        Phase::Standby(_) | Phase::Announcing { .. } => Told::Standby,
        Phase::Recalling { .. } => Told::Recalling,
        Phase::Yielding | Phase::Yielded => Told::Yielding,
        Phase::Reverting { .. } => Told::Reverting,
        Phase::Draining(Drain::Rescue { .. }) => Told::Rescuing,
        Phase::Draining(_) => Told::Draining,
        Phase::Ended => Told::Ended,
    }
}
