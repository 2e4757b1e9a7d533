//! What the engine knows of the body: whether a drain waits for its return.

use std::sync::atomic::Ordering;

use crate::base::sync::primitives::{AtomicBool, AtomicUsize};

/// Flags of the body. `Shutdown`'s documentation has the rule that they implement.
pub(crate) struct BodyFlags {
    /// Whether the body has begun, or never will: one of the three below.
    begin: AtomicUsize,
    /// The body notices a drain and returns: it has awaited a `Shutdown`, or has a listener of `blocking`.
    notices_drain: AtomicBool,
    /// `http::serve` runs. A body that waits for the end of `http::serve` returns at a drain.
    serves_http: AtomicBool,
    /// At its last poll the body waited at a retired managed listener. That wait never ends.
    is_at_end: AtomicBool,
    /// The number of `Shutdown`s, without clones, that the body was given and has not dropped.
    shutdowns: AtomicUsize,
}

const NOT_BEGUN: usize = 0;
const BEGUN: usize = 1;
const NEVER: usize = 2;

impl BodyFlags {
    pub(crate) fn new() -> Self {
        Self {
            begin: AtomicUsize::new(NOT_BEGUN),
            notices_drain: AtomicBool::new(false),
            serves_http: AtomicBool::new(false),
            is_at_end: AtomicBool::new(false),
            shutdowns: AtomicUsize::new(0),
        }
    }

    /// The body begins. Returns false if the engine has decided to end without it: then it never begins.
    pub(crate) fn begin(&self) -> bool {
        self.begin.compare_exchange(NOT_BEGUN, BEGUN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The engine ends without the body. Returns false if the body has begun by now.
    pub(crate) fn forbid(&self) -> bool {
        let before = self.begin.compare_exchange(NOT_BEGUN, NEVER, Ordering::AcqRel, Ordering::Acquire);
        before != Err(BEGUN)
    }

    pub(crate) fn set_notices_drain(&self) {
        self.notices_drain.store(true, Ordering::Release);
    }

    #[cfg(feature = "http")]
    pub(crate) fn set_serves_http(&self) {
        self.serves_http.store(true, Ordering::Release);
    }

    /// Returns whether this is a change.
    pub(crate) fn set_at_end(&self, is_at_end: bool) -> bool {
        self.is_at_end.swap(is_at_end, Ordering::AcqRel) != is_at_end
    }

    pub(crate) fn add_shutdown(&self) {
        self.shutdowns.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn remove_shutdown(&self) {
        // SeqCst, in one order with `Shared::draining`: see `Shared::drop_shutdown`.
        self.shutdowns.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether a drain waits for the body to return.
    pub(crate) fn holds_drain(&self) -> bool {
        self.notices_drain.load(Ordering::Acquire)
            || self.serves_http.load(Ordering::Acquire) && !self.is_at_end.load(Ordering::Acquire)
    }

    /// Whether the body may be about to await its `Shutdown`.
    pub(crate) fn is_undecided(&self) -> bool {
        self.shutdowns.load(Ordering::SeqCst) > 0
            && !self.holds_drain()
            && !self.is_at_end.load(Ordering::Acquire)
    }
}
