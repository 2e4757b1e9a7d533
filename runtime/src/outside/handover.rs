//! The other generations of the service: the messages, and the channel between two processes.

use crate::base::limits::Identity;

pub(crate) mod channel;
pub(crate) mod message;

/// What the predecessor has said about itself. A successor compares it with itself and warns of differences.
#[derive(Debug)]
pub(crate) struct PredecessorOffer {
    pub(crate) pid: u32,
    pub(crate) identity: Identity,
    /// Empty for no pid file. `None` if the predecessor's release does not send it.
    pub(crate) pidfile: Option<String>,
    /// The names and addresses of its sockets, in the order of the offer.
    pub(crate) listeners: Vec<(String, String)>,
}
