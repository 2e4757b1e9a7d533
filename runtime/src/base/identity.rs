//! The identity of a service, by which a successor and its predecessor recognise each other.

#[cfg(upgrades)]
use std::time::Duration;

/// The name of the service. A process recognises by it a successor that is another service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The option `name`.
    pub(crate) name: Option<String>,
    /// The name that the attribute knows: the binary, or else the package.
    pub(crate) program: Option<String>,
    /// The option `version`. It decides nothing.
    pub(crate) version: Option<String>,
}

/// What the predecessor has said about itself. A successor compares it with itself and warns of differences.
#[cfg(upgrades)]
#[derive(Debug)]
pub(crate) struct PredecessorOffer {
    pub(crate) pid: u32,
    pub(crate) identity: Identity,
    /// Empty for no pid file. `None` if the predecessor's release does not send it.
    pub(crate) pidfile: Option<String>,
    /// For how long it watches this process. `None` if the predecessor's release does not send it.
    pub(crate) probation: Option<Duration>,
    /// How many connections and guards the drains of the generations before it have cut.
    pub(crate) aborted: u64,
    /// The names and addresses of its sockets, in the order of the offer.
    pub(crate) listeners: Vec<(String, String)>,
}
