//! The seam through which the engine starts successors. The system implements it, and so does a test, where a successor
//! is a thread.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use crate::outside::preflight::Check;

/// Starts successors.
pub(crate) trait Spawner: Send {
    /// Starts a successor. `channel` is its end of the channel.
    fn spawn(&mut self, image: Image, channel: OwnedFd) -> Result<Box<dyn Child>, String>;
    /// The path that a start executes.
    fn executable(&self) -> Option<&Path>;
    /// The umask of the first start, if there is one to pass on.
    fn umask(&self) -> Option<u32> {
        None
    }
    /// The executables that a successor gets by name, so that a later process can go back to them.
    fn executables(&self) -> Vec<(&'static str, Arc<OwnedFd>)> {
        Vec::new()
    }
    /// Starts a command that checks an executable or a successor, with these variables beside those of a successor.
    fn check(&self, image: Image, command: &OsStr, variables: &[(OsString, OsString)]) -> io::Result<Check>;
}

/// A successor that has not been reaped. Its descriptor is readable once it is dead.
pub(crate) trait Child: AsFd + Send {
    fn pid(&self) -> u32;
    /// Kills the successor. A dead one gets no signal.
    fn kill(&self);
    /// Reaps the successor if it is dead, and describes its end.
    fn reap(&self) -> Option<String>;
    /// Whether it is a process. A process may have left its descriptors to another, by fork(2). A thread of a test
    /// cannot.
    fn may_fork(&self) -> bool;
}

/// The file that a start executes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Image {
    /// The file that the path of the executable names at that moment.
    #[default]
    Release,
    /// The file that this process runs.
    Own,
    /// The other file that ran before, for a rollback.
    Previous,
}
