//! There is no successor in a test either.

use std::sync::{Arc, OnceLock};

use super::kill;
use crate::between::shared::Shared;
use crate::run::begin::{Host, Started};
use crate::sys::fd::OwnedFd;

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

/// What ends with the thread of a service.
pub(super) struct ThreadChild {
    shared: OnceLock<Arc<Shared>>,
}

impl ThreadChild {
    pub(super) fn new() -> Self {
        Self { shared: OnceLock::new() }
    }

    pub(super) fn started(&self, shared: Arc<Shared>) {
        self.shared.get_or_init(|| shared);
    }

    pub(super) fn kill(&self) {
        if let Some(shared) = self.shared.get() {
            kill(shared);
        }
    }

    pub(super) fn dead(&self) {
        if let Some(shared) = self.shared.get() {
            // Whoever still waits for it to serve waits in vain.
            shared.serving.set(false);
        }
    }
}
