//! There is no neighbour where a process cannot be upgraded.

use crate::lifecycle::Predecessor;

/// A service is always the first generation, and no service manager follows it.
#[derive(Default)]
pub(crate) struct Neighbours {
    pub(super) follows: bool,
    pub(super) dead: [u32; 0],
}

impl Neighbours {
    pub(crate) fn first(&self, _had_predecessor: bool) -> Predecessor {
        Predecessor::None
    }
}
