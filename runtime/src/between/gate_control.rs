//! The traits by which the engine controls the gates: of a managed listener, and of the control socket.

#[cfg(upgrades)]
use std::sync::Arc;
use std::time::Instant;

#[cfg(upgrades)]
use crate::base::status::{LastDrain, Phase};
#[cfg(upgrades)]
use crate::sys::fd::OwnedFd;

/// The engine's control of a gate.
pub(crate) trait GateControl: Send + Sync {
    /// The name of the listener.
    fn name(&self) -> &str;
    /// Opens the gate: the body gets connections.
    fn open(&self);
    /// Closes the gate. Returns true once no thread is inside an accept. Returns false if a thread is still inside at the
    /// deadline, because another process has cleared O_NONBLOCK on the shared description. The gate
    /// is then as it was.
    #[cfg_attr(not(any(upgrades, test)), expect(dead_code, reason = "only an upgrade pauses"))]
    fn close(&self, deadline: Instant) -> bool;
    /// Waits until no thread is inside that was inside at the call, and leaves the gate as it is. Returns false if such a
    /// thread is still inside at the deadline.
    #[cfg(upgrades)]
    fn settle(&self, deadline: Instant) -> bool;
    /// Closes the gate for good and drops the body's descriptor. If a thread is still inside at the deadline, this logs it,
    /// the descriptor stays, and no other thread gets in. Returns whether no thread is inside.
    fn retire(&self, deadline: Instant) -> bool;
    /// Whether the body has asked for its first connection.
    fn asked(&self) -> bool;
    /// The number of connections or datagrams that the body has taken.
    #[cfg(upgrades)]
    fn taken(&self) -> u64;
    /// Gives one more connection to the body, although the gate is closed. It does not come from the queue of the
    /// listener, and is not counted as taken.
    #[cfg(upgrades)]
    fn inject(&self, connection: OwnedFd);
}

/// The engine's control of the control socket: a gate, and a thread that sends news to the clients.
#[cfg(upgrades)]
pub(crate) trait ControlSocket: GateControl {
    /// The gate of the control socket.
    fn as_gate(self: Arc<Self>) -> Arc<dyn GateControl>;
    /// Queues news for the clients. The thread sends them when it next [wakes](Self::wake).
    fn tell(&self, news: News);
    /// Wakes the thread. Call it after a change of the gate, after news and after an answer.
    fn wake(&self);
    /// Ends the thread. It sends the clients what is left, as far as their sockets take it at once, and waits for nothing.
    fn end(&self);
}

/// The name of the control socket among the listeners. Its space keeps it apart from every name that a service can declare.
pub(crate) const CONTROL_SOCKET: &str = "control socket";

/// News of the engine for the clients of the control socket.
#[cfg(upgrades)]
#[derive(Clone, Debug)]
pub(crate) enum News {
    Phase(Change),
    /// The outcome of an upgrade is known.
    Outcome,
    /// This process or a neighbour ends.
    Drained(LastDrain),
}

/// A phase of the process has begun.
#[cfg(upgrades)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) phase: Phase,
    pub(crate) successor: Option<u32>,
    pub(crate) at: Instant,
}
