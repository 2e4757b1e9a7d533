//! There is no successor in a test either.

use std::sync::Arc;

use crate::begin::{Host, Started};
use crate::fd::OwnedFd;
use crate::shared::Shared;

#[derive(Default)]
pub(super) struct Next(());

/// What its twin starts at the next upgrade.
pub(super) type Job = Box<dyn FnOnce(OwnedFd) -> Arc<ThreadChild> + Send>;

impl Next {
    /// An upgrade answers `Unsupported` before it is asked for this.
    pub(super) fn set(&self, _job: Option<Job>) {}

    pub(super) fn host(&self, _parent: Option<OwnedFd>, started: Started) -> Host {
        Host::Test { started }
    }
}

/// What a predecessor would see of a service.
pub(super) struct ThreadChild;

impl ThreadChild {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn started(&self, _shared: Arc<Shared>) {}

    pub(super) fn dead(&self) {}
}
