//! The gates as the engine sees them: that of a managed listener, and that of the control socket.

#[cfg(upgrades)]
use std::sync::Arc;
use std::time::Instant;

#[cfg(upgrades)]
use crate::base::status::Phase;

/// A gate as the engine sees it.
pub(crate) trait GateControl: Send + Sync {
    /// The name of the listener.
    fn name(&self) -> &str;
    /// Hands out connections.
    fn open(&self);
    /// Stops handing out connections. Returns true once no thread is inside an accept, and false if one still is
    /// at the deadline: somebody has cleared O_NONBLOCK on the shared description.
    #[cfg_attr(not(upgrades), expect(dead_code, reason = "only an upgrade pauses"))]
    fn close(&self, deadline: Instant) -> bool;
    /// Leaves it as it is. Returns true once no thread is inside that was there before, and false if one still is at
    /// the deadline.
    #[cfg(upgrades)]
    fn settle(&self, deadline: Instant) -> bool;
    /// Closes for good and lets go of the body's descriptor. If a thread is inside until the deadline, which is complained
    /// of, the descriptor stays, and nobody else gets in. Returns whether nobody is inside.
    fn retire(&self, deadline: Instant) -> bool;
    /// Whether the body has asked for its first connection.
    fn asked(&self) -> bool;
    /// How many connections or datagrams were taken.
    #[cfg(upgrades)]
    fn taken(&self) -> u64;
}

/// The control socket as the engine sees it: a gate, and a thread that tells its clients the news.
#[cfg(upgrades)]
pub(crate) trait ControlSocket: GateControl {
    /// The same as a gate.
    fn as_gate(self: Arc<Self>) -> Arc<dyn GateControl>;
    /// What its clients are told when its thread next [wakes](Self::wake).
    fn tell(&self, news: News);
    /// Makes its thread look: after a change, and after an answer.
    fn wake(&self);
    /// Tells the clients what there is to tell, as far as they read it, and ends the thread, which waits for nothing.
    fn end(&self);
}

/// The name of the control socket among the listeners. No listener of a service can have it: it has a space.
pub(crate) const CONTROL_SOCKET: &str = "control socket";

/// What the engine has to tell.
#[cfg(upgrades)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum News {
    Phase(Change),
    /// Replies to requests to upgrade have been set.
    Outcome,
}

/// A phase of the process has begun.
#[cfg(upgrades)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) phase: Phase,
    pub(crate) successor: Option<u32>,
    pub(crate) at: Instant,
}
