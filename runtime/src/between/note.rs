//! The notes that the start, the body and the control socket send to the engine.

use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{RevertError, UpgradeError};
use crate::base::returned::BodyEnd;
use crate::base::status::{Release, Requester, Status};
use crate::base::sync::Latch;
#[cfg(upgrades)]
use crate::between::gate_control::ControlSocket;
use crate::between::gate_control::GateControl;
use crate::outside::sockets::BoundSocket;
#[cfg(upgrades)]
use crate::outside::spawner::Image;
#[cfg(upgrades)]
use crate::outside::systemd::Manager;

/// A message to the engine.
pub(crate) enum Note {
    /// The control socket is bound.
    #[cfg(upgrades)]
    Control { socket: Box<BoundSocket>, control: Arc<dyn ControlSocket> },
    /// The start is complete, and the body runs next.
    Prepared(Box<Prepared>),
    /// The start fails before the body runs.
    StartFailed { reason: String },
    /// `Ready::notify`.
    Ready,
    /// The body dropped `Ready` without `notify`.
    ReadyDropped,
    /// The body returned or panicked.
    BodyReturned(BodyEnd),
    /// `Upgrader::upgrade`, or `upgrade` or `rollback` at the control socket.
    Upgrade { reply: Arc<UpgradeReply>, order: Order },
    /// `Upgrader::revert`, or `revert` at the control socket.
    Revert(Arc<RevertReply>),
    /// `Upgrader::stop`.
    Stop,
    /// `stop` at the control socket.
    #[cfg(upgrades)]
    StopService,
    /// The runtime of the body runs: the answer to a [`Pulse`](crate::base::sync::Pulse).
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "there is no runtime"))]
    Alive,
    /// `Upgrader::status`, or `status` at the control socket.
    Status(Arc<Latch<Status>>),
    /// A declared listener is open, or `Listeners` has taken or bound a listener.
    Listener {
        /// `None` for a declared listener that `Listeners` took: the engine has its socket already.
        socket: Option<Box<BoundSocket>>,
        gates: Vec<Arc<dyn GateControl>>,
        /// The place of the socket in the predecessor's offer and the name of its listener here, if it was adopted from there.
        adopted: Option<(usize, String)>,
    },
}

/// What a request for an upgrade asks for, and who asks.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(upgrades), allow(dead_code, reason = "every request is refused"))]
pub(crate) struct Order {
    pub(crate) by: Requester,
    /// No connection moves to the successor.
    pub(crate) no_move: bool,
    /// The command that checks the successor on probation, in the place of the option `verify`.
    pub(crate) verify: Option<String>,
    /// The file that the successor executes.
    #[cfg(upgrades)]
    pub(crate) image: Image,
}

impl Order {
    /// An ordinary upgrade.
    pub(crate) fn by(by: Requester) -> Self {
        Self { by, ..Self::default() }
    }
}

/// What the start has prepared for the engine.
pub(crate) struct Prepared {
    /// The gates of the managed listeners that the body has taken.
    pub(crate) gates: Vec<Arc<dyn GateControl>>,
    /// The body reports its readiness by `Ready`.
    pub(crate) manual_ready: bool,
    pub(crate) inherited: Inheritance,
}

/// What a start has received from the predecessor and from the service manager.
#[derive(Default)]
#[cfg(upgrades)]
pub(crate) struct Inheritance {
    /// The places of the adopted sockets in the predecessor's offer, and the names of their listeners here.
    pub(crate) adopted: Vec<(usize, String)>,
    pub(crate) manager: Option<Manager>,
    /// The names and addresses of the listeners in the predecessor's offer. The service manager may store them.
    pub(crate) stored: Vec<(String, String)>,
    /// What this process does without, in words.
    pub(crate) warnings: Vec<String>,
}

/// A start inherits nothing on a platform without upgrades.
#[cfg(not(upgrades))]
#[derive(Default)]
pub(crate) struct Inheritance;

/// The outcome of an upgrade, for its requester.
pub(crate) type UpgradeReply = Latch<Result<Upgraded, UpgradeError>>;

/// The outcome of a revert, for its requester.
pub(crate) type RevertReply = Latch<Result<Reverted, RevertError>>;

/// A predecessor that serves again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reverted {
    /// The generation of the process that serves again.
    pub generation: u64,
    /// Its process ID.
    pub pid: u32,
    /// The time from the request until that process served.
    pub elapsed: Duration,
}

/// A successor that serves and has passed its probation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upgraded {
    /// The generation of the successor.
    pub generation: u64,
    /// The process ID of the successor.
    pub pid: u32,
    /// The time from the request until the successor served, without the probation.
    pub elapsed: Duration,
    /// The release that was asked to upgrade.
    pub from: Release,
    /// The release that serves.
    pub to: Release,
    /// What the service has lost by the upgrade, in words. Examples are a listener or a pid file that the successor does not
    /// declare, and a name that has changed.
    pub warnings: Vec<String>,
}
