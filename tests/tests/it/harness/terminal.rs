//! Terminals, pty(7).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A new terminal: the end of the test, and that of the programs. Reading from the first fails with EIO once the other is closed.
pub(crate) fn terminal() -> (OwnedFd, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&ours).expect("grantpt");
    unlockpt(&ours).expect("unlockpt");
    let name = ptsname(&ours, Vec::new()).expect("it has a name");
    let theirs = Path::new(name.to_str().expect("it is UTF-8"));
    // This process leads no session, so that it does not become its own.
    let theirs = File::options().read(true).write(true).open(theirs).expect("it opens");
    (ours, theirs)
}
