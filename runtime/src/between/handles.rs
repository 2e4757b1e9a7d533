//! The handles of a body: [`Ready`], [`Upgrader`] and [`Inherited`].

use std::sync::Arc;

use crate::base::error::{PassOnError, RevertError, UpgradeError};
use crate::base::status::{Requester, Status};
use crate::base::sync::Latch;
use crate::between::note::{Note, Order, RevertReply, Reverted, UpgradeReply, Upgraded};
use crate::between::params::{FromHandle, Start};
use crate::between::shared::Shared;
use crate::config::convert::Seal;
use crate::sys::fd::{self, BorrowedFd, OwnedFd};

/// With `Ready` the body itself decides when the service is ready.
///
/// Without `Ready` a service is ready once the body has asked every managed listener for its first connection. Dropping
/// `Ready` without [`notify`](Self::notify) fails the start: the predecessor serves on.
#[derive(Debug)]
#[must_use = "dropping `Ready` without `notify` fails the start"]
pub struct Ready {
    shared: Option<Arc<Shared>>,
}

impl Ready {
    /// Reports that the service is ready. A predecessor then hands over, and the pid file is written.
    pub fn notify(mut self) {
        if let Some(shared) = self.shared.take() {
            shared.post(Note::Ready);
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.post(Note::ReadyDropped);
        }
    }
}

impl FromHandle for Ready {
    const READY: bool = true;

    fn from_handle(start: &mut Start, _: Seal) -> Self {
        start.manual_ready = true;
        Ready { shared: Some(start.shared.clone()) }
    }
}

/// A handle to this process: it upgrades the service, stops it, and reports its status.
#[derive(Clone, Debug)]
pub struct Upgrader {
    shared: Arc<Shared>,
}

impl Upgrader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Starts a successor and waits for the outcome: `Ok` once the successor serves and has passed its probation. This
    /// process then drains.
    ///
    /// # Errors
    ///
    /// Why the upgrade was refused, or why the successor failed. In both cases this process serves on. A service that has
    /// ended returns [`Terminating`](UpgradeError::Terminating). Platforms other than Linux always return
    /// [`Unsupported`](UpgradeError::Unsupported).
    pub async fn upgrade(&self) -> Result<Upgraded, UpgradeError> {
        self.request().wait().await.clone()
    }

    /// The twin of [`upgrade`](Self::upgrade) for threads.
    ///
    /// # Errors
    ///
    /// As for `upgrade`.
    pub fn upgrade_blocking(&self) -> Result<Upgraded, UpgradeError> {
        self.request().wait_blocking().clone()
    }

    fn request(&self) -> Arc<UpgradeReply> {
        let reply = Arc::new(UpgradeReply::new());
        self.shared.post(Note::Upgrade { reply: reply.clone(), order: Order::by(Requester::Body) });
        reply
    }

    /// Undoes an upgrade in its probation: the predecessor serves again, and the process that served drains. No connection and
    /// no request is lost. Both processes can call it. Waits until the predecessor serves.
    ///
    /// A body calls it if it finds, with its first requests, that it does not do its work.
    ///
    /// ```no_run
    /// # async fn check() -> bool { true }
    /// # async fn start(upgrader: tableflip::Upgrader) {
    /// if !check().await {
    ///     if let Err(error) = upgrader.revert().await {
    ///         eprintln!("this release serves on: {error}");
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Why there is no revert; the process that served serves on. [`NoStandby`](RevertError::NoStandby) in the first process of a
    /// service, and once the probation is over.
    pub async fn revert(&self) -> Result<Reverted, RevertError> {
        self.request_revert().wait().await.clone()
    }

    /// The twin of [`revert`](Self::revert) for threads.
    ///
    /// # Errors
    ///
    /// As for `revert`.
    pub fn revert_blocking(&self) -> Result<Reverted, RevertError> {
        self.request_revert().wait_blocking().clone()
    }

    fn request_revert(&self) -> Arc<RevertReply> {
        let reply = Arc::new(RevertReply::new());
        self.shared.post(Note::Revert(reply.clone()));
        reply
    }

    /// Stops the service gracefully, as SIGTERM does.
    pub fn stop(&self) {
        self.shared.post(Note::Stop);
    }

    /// Returns the status of this process, for an endpoint or the metrics of your own service. A service that has ended
    /// returns its last status.
    pub async fn status(&self) -> Status {
        self.ask_status().wait().await.clone()
    }

    /// The twin of [`status`](Self::status) for threads.
    pub fn status_blocking(&self) -> Status {
        self.ask_status().wait_blocking().clone()
    }

    fn ask_status(&self) -> Arc<Latch<Status>> {
        let status = Arc::new(Latch::new());
        self.shared.post(Note::Status(status.clone()));
        status
    }

    /// Passes a descriptor on to every successor from now on, under a name: a connection, a file, a lock. The successor
    /// finds it in [`Inherited`]. A descriptor passed on later under the same name replaces the earlier one.
    ///
    /// If two processes read a connection, its data is garbled: stop reading it before the upgrade. This process keeps
    /// its own copy of the descriptor until it exits, because it may have to start another successor. A peer sees the
    /// connection closed only after that, when no process has the descriptor any more. [`withdraw`](Self::withdraw) closes
    /// that copy.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::net::TcpListener as Socket;
    /// use tableflip::{PassOnError, Service, Shutdown, Start, testing};
    ///
    /// let serve = |start: &mut Start| {
    ///     let shutdown: Shutdown = start.handle()?;
    ///     Ok(move || shutdown.wait())
    /// };
    /// let service = testing::start_blocking(Service::new(), serve)?;
    /// let upgrader = service.upgrader();
    ///
    /// upgrader.pass_on("admin", Socket::bind("127.0.0.1:0")?)?;
    /// assert!(upgrader.withdraw("admin"));
    /// assert!(!upgrader.withdraw("admin"), "it is withdrawn already");
    ///
    /// let refused = upgrader.pass_on("x".repeat(5000), Socket::bind("127.0.0.1:0")?);
    /// assert!(matches!(refused, Err(PassOnError::LongName { length: 5000, limit: 4096, .. })));
    /// # service.stop();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The name is longer than 4,096 bytes or has a NUL, or 50,000 other descriptors are passed on. The descriptor is
    /// closed, and a descriptor of the same name stays.
    pub fn pass_on(&self, name: impl Into<String>, fd: impl Into<OwnedFd>) -> Result<(), PassOnError> {
        // The two conversions are code of the service. They may take long, panic, or call this method again.
        let (name, fd) = (name.into(), fd.into());
        self.shared.passed_on.set(name, fd)
    }

    /// Takes back [`pass_on`](Self::pass_on): no successor that is started from now on gets the descriptor of this name.
    /// Returns whether there was one. A successor that has been started keeps what it was given.
    ///
    /// This closes the copy of the descriptor that this process has kept.
    pub fn withdraw(&self, name: &str) -> bool {
        self.shared.passed_on.withdraw(name)
    }

    /// 1 for the process that was started first; each successful upgrade adds 1.
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Whether a predecessor started this process.
    pub fn has_predecessor(&self) -> bool {
        self.shared.had_predecessor
    }

    /// Waits until the predecessor has exited. The code after [`Service::run`](crate::Service::run) in its `main` has
    /// ended by then. A lock or another resource that the predecessor kept until its end is then free. Without a
    /// predecessor this returns at once.
    pub async fn predecessor_gone(&self) {
        self.shared.predecessor_gone.wait().await;
    }

    /// The twin of [`predecessor_gone`](Self::predecessor_gone) for threads.
    pub fn predecessor_gone_blocking(&self) {
        self.shared.predecessor_gone.wait_blocking();
    }
}

impl FromHandle for Upgrader {
    fn from_handle(start: &mut Start, _: Seal) -> Self {
        Upgrader::new(start.shared.clone())
    }
}

/// The descriptors that the predecessor has passed on by name, with [`Upgrader::pass_on`].
///
/// Dropping this value closes every descriptor that the body has not taken. Nothing is passed on again by itself: the
/// next successor gets only what this process passes on.
#[derive(Debug)]
#[must_use = "dropping it closes every descriptor that the predecessor has passed on"]
pub struct Inherited {
    files: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// Takes the descriptor of this name, close-on-exec. Returns `None` if the predecessor has not passed it on, or the body
    /// has taken it already.
    ///
    /// Only the program knows what kind of descriptor it is: convert it to the type that the predecessor passed on.
    #[must_use = "dropping a descriptor closes it"]
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.files.iter().position(|(known, _)| known == name)?;
        Some(self.files.remove(at).1)
    }

    /// The descriptors that the body has not taken, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.files.iter().map(|(name, fd)| (name.as_str(), fd::borrow(fd)))
    }
}

impl FromHandle for Inherited {
    fn from_handle(start: &mut Start, _: Seal) -> Self {
        Inherited { files: std::mem::take(&mut start.files) }
    }
}
