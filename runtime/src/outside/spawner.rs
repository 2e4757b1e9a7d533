//! What the engine needs of whoever starts successors: the system, or a test, in which a successor is a thread.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::outside::preflight::Check;

/// Starts successors: what an engine needs of the system beyond its sockets. In a test it is a thread that is started.
pub(crate) trait Spawner: Send {
    /// Starts one, whose end of the channel is `channel`.
    fn spawn(&mut self, image: Image, channel: OwnedFd) -> Result<Box<dyn Child>, String>;
    /// The path that a start executes.
    fn executable(&self) -> Option<&Path>;
    /// The umask of the first start, where there is one to pass on.
    fn umask(&self) -> Option<u32> {
        None
    }
    /// Starts the command that is to check it.
    fn check(&self, command: &OsStr) -> io::Result<Check>;
}

/// A successor that has not been reaped. Its descriptor is readable once it is dead.
pub(crate) trait Child: AsFd + Send {
    fn pid(&self) -> u32;
    /// Ends it at once. To one that is dead already it does nothing.
    fn kill(&self);
    /// Reaps it, if it is dead; says in words how it ended.
    fn reap(&self) -> Option<String>;
    /// Whether another process may go on with what it had: it is one, and not a thread of a test.
    fn may_fork(&self) -> bool;
}

/// What a start runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Image {
    /// Whatever the path of the executable names by now.
    Release,
    /// The very file that this process runs.
    Own,
}
