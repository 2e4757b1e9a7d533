//! Where a service runs: as a process, or in a test.

use std::sync::Arc;

use crate::between::shared::Shared;
use crate::outside::sockets::BoundSocket;
#[cfg(upgrades)]
use crate::{outside::spawner::Spawner, sys::fd::OwnedFd};

/// Where a service runs.
pub(crate) enum ServiceHost {
    /// This process is the service: its environment, its signals, its arguments.
    Process,
    /// One of several services in the process of a test.
    Test {
        /// The channel to the predecessor.
        #[cfg(upgrades)]
        parent: Option<OwnedFd>,
        #[cfg(upgrades)]
        spawner: Box<dyn Spawner>,
        started: Started,
    },
}

/// A test is called as soon as the listeners of the service are bound.
pub(crate) type Started = Box<dyn FnOnce(&Arc<Shared>, &[BoundSocket]) + Send>;
