//! A successor that is a thread of the same test.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::kill;
use crate::between::shared::Shared;
use crate::config::environment;
use crate::outside::preflight::Check;
use crate::outside::spawner::{Child, Image, Spawner};
use crate::run::begin::{Host, Started};

/// The service that the next upgrade starts.
#[derive(Clone, Default)]
pub(super) struct Next(Arc<Mutex<Option<Job>>>);

pub(super) type Job = Box<dyn FnOnce(OwnedFd) -> Arc<ThreadChild> + Send>;

impl Next {
    pub(super) fn set(&self, job: Option<Job>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = job;
    }

    /// Where the service runs whose next upgrade this is.
    pub(super) fn host(&self, parent: Option<OwnedFd>, started: Started) -> Host {
        Host::Test { parent, spawner: Box::new(self.clone()), started }
    }
}

impl Spawner for Next {
    fn spawn(&mut self, _what: Image, channel: OwnedFd) -> Result<Box<dyn Child>, String> {
        let job = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match job {
            Some(job) => Ok(Box::new(Shareable(job(channel)))),
            None => Err("in a test a service is upgraded with `Running::replace`".to_owned()),
        }
    }

    fn executable(&self) -> Option<&Path> {
        None
    }

    fn check(&self, command: &OsStr) -> io::Result<Check> {
        let environment = environment::passed_on(env::vars_os());
        Check::start(command, Path::new("sh"), &[], Path::new("/"), &environment, None)
    }
}

/// What its predecessor sees of a service that runs on a thread.
pub(super) struct ThreadChild {
    shared: OnceLock<Arc<Shared>>,
    killed: AtomicBool,
    /// Readable once it has ended.
    ended: EventFd,
}

impl ThreadChild {
    pub(super) fn new() -> Self {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let ended = EventFd::from_flags(flags).expect("a test has descriptors left");
        Self { shared: OnceLock::new(), killed: AtomicBool::new(false), ended }
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
            // Whoever still waits for it to serve waits in vain.
            shared.serving.set(false);
        }
        self.ended.write(1).expect("it is written once");
    }
}

struct Shareable(Arc<ThreadChild>);

impl AsFd for Shareable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.ended.as_fd()
    }
}

impl Child for Shareable {
    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn kill(&self) {
        self.0.kill();
    }

    fn reap(&self) -> Option<String> {
        self.0.ended.read().ok().map(|_| "ended".to_owned())
    }

    fn may_fork(&self) -> bool {
        false
    }
}
