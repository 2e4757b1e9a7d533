//! The other generations of the service: the messages, and the channel that they go through.

use crate::base::limits::Identity;

pub(crate) mod channel;
pub(crate) mod message;

/// What the predecessor has said of itself, for the warnings of a successor that is something else.
#[derive(Debug)]
pub(crate) struct PredecessorOffer {
    pub(crate) pid: u32,
    pub(crate) identity: Identity,
    /// Empty for none; `None` from a release that does not say.
    pub(crate) pidfile: Option<String>,
    /// The names and addresses of its sockets, by their place in the offer.
    pub(crate) listeners: Vec<(String, String)>,
}
