//! A service of a test as its predecessor sees it: a thread of the same process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

#[cfg(upgrades)]
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::kill;
use crate::between::shared::Shared;
use crate::config::environment::Environment;
use crate::run::host::{ServiceHost, Started};
use crate::sys::fd::OwnedFd;

/// The service that the next upgrade starts.
#[derive(Clone, Default)]
pub(super) struct Next(Arc<Mutex<Option<Job>>>);

pub(super) type Job = Box<dyn FnOnce(OwnedFd) -> Arc<ThreadChild> + Send>;

impl Next {
    pub(super) fn set(&self, job: Option<Job>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = job;
    }

    #[cfg(upgrades)]
    pub(super) fn take(&self) -> Option<Job> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Where the predecessor of this service runs.
    pub(super) fn host(
        &self,
        environment: Environment,
        parent: Option<OwnedFd>,
        started: Started,
    ) -> ServiceHost {
        // Where a process cannot be upgraded, no service has a channel.
        #[cfg(not(upgrades))]
        drop(parent);
        ServiceHost::Test {
            environment,
            #[cfg(upgrades)]
            parent,
            #[cfg(upgrades)]
            spawner: Box::new(self.clone()),
            started,
        }
    }
}

/// A service that runs on a thread.
pub(super) struct ThreadChild {
    shared: OnceLock<Arc<Shared>>,
    killed: AtomicBool,
    /// Readable once it has ended.
    #[cfg(upgrades)]
    pub(super) ended: EventFd,
}

impl ThreadChild {
    pub(super) fn new() -> Self {
        Self {
            shared: OnceLock::new(),
            killed: AtomicBool::new(false),
            #[cfg(upgrades)]
            ended: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .expect("a test has descriptors left"),
        }
    }

    pub(super) fn started(&self, shared: Arc<Shared>) {
        let shared = self.shared.get_or_init(|| shared);
        if self.killed.load(Ordering::SeqCst) {
            kill(shared);
        }
    }

    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        if let Some(shared) = self.shared.get() {
            kill(shared);
        }
    }

    pub(super) fn dead(&self) {
        if let Some(shared) = self.shared.get() {
            // It will never serve: end the wait for that.
            shared.serving.set(false);
        }
        #[cfg(upgrades)]
        self.ended.write(1).expect("it is written once");
    }
}
