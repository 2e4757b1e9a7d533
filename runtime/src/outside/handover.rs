//! The other generations of the service: the messages and the channel between two processes, and the link over which connections
//! move.

pub(crate) mod channel;
pub(crate) mod link;
pub(crate) mod message;
