//! Open connections that move to the successor, over the [link](crate::outside::handover::link).
//!
//! | file | content |
//! |---|---|
//! | `session.rs` | what travels with a connection besides its descriptor |
//! | `giving.rs` | the predecessor's side: offers connections, and keeps what the successor does not take |
//! | `taking.rs` | the successor's side: gives the offers to those that wait for them, and answers |
//!
//! Each side has one thread. Who owns a connection is decided by [`lifecycle::moving`](crate::lifecycle): the threads feed its
//! events and carry out its actions. A process is the giver of one link at most and the taker of one.

#[cfg_attr(not(upgrades), path = "portable/moving/giving.rs")]
pub(crate) mod giving;
pub(crate) mod session;
#[cfg_attr(not(upgrades), path = "portable/moving/taking.rs")]
pub(crate) mod taking;

use std::sync::Arc;

use giving::Giving;
use taking::Taking;

/// Both sides of this process.
#[derive(Debug, Default)]
pub(crate) struct Moving {
    pub(crate) giving: Giving,
    pub(crate) taking: Arc<Taking>,
}

impl Moving {
    /// The service of a test has ended: its threads end too.
    pub(crate) fn end(&self) {
        self.giving.end();
        self.taking.end();
    }
}
