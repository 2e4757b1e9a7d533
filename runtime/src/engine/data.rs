//! What the engine knows of the body, of the listeners and of the requests.

use std::sync::Arc;
use std::time::Instant;

use crate::base::report::Thinned;
use crate::base::returned::BodyEnd;
use crate::between::gate_control::GateControl;
use crate::engine::stops::Stops;
use crate::outside::sockets::BoundSocket;
use crate::sys::signals::{self, Signal};

/// How far the start of this process is. It goes on in the thread of `main` while the engine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Preparation {
    /// The listeners are being bound, or the body is being prepared.
    #[default]
    UnderWay,
    /// The body runs.
    Done,
    /// There will be no body. The thread of `main` says why, and returns.
    Failed,
}

/// What the engine has heard from the body.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) preparation: Preparation,
    /// The body says itself when it is ready.
    pub(super) manual_ready: bool,
    pub(super) ready: bool,
    pub(super) ready_dropped: bool,
    pub(super) returned: bool,
    /// Until then a drain waits for a body that has a `Shutdown` and has not awaited it.
    pub(super) undecided_until: Option<Instant>,
    pub(super) returned_fed: bool,
    pub(super) end: BodyEnd,
}

/// The sockets of the service.
#[derive(Default)]
pub(super) struct SocketTable {
    /// Every socket of the service, in the order of an offer. The control socket is the last.
    pub(super) sockets: Vec<BoundSocket>,
    /// The ports that the IP sockets are bound to.
    pub(super) ports: Vec<u16>,
    /// The gates of the managed listeners and of the control socket.
    pub(super) gates: Vec<Arc<dyn GateControl>>,
}

/// The requests to stop and to upgrade.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// The signals that have come and are not fed yet.
    pub(super) signals: signals::Pending,
    /// The signals that have asked to stop.
    pub(super) stops: Stops,
    /// The last signal of a request to stop.
    pub(super) stopping: Option<Signal>,
    pub(super) asked_to_stop: Thinned,
    pub(super) refused: Thinned,
}
