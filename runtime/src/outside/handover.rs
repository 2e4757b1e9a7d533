//! The other generations of the service: the messages, and the channel between two processes.

pub(crate) mod channel;
pub(crate) mod message;
