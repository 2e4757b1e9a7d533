//! The two ends of the handover: what is said ([`message`]) and how it travels ([`channel`]).

pub(crate) mod channel;
pub(crate) mod message;
