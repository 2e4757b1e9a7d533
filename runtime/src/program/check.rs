//! The operator's own check of a new release: a command like that of `preflight`, in the working directory.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};

use crate::config::environment;
use crate::outside::preflight::Check;
use crate::sys::poll;

/// Runs the command. The error is the failure, in words.
pub(super) fn run(command: &OsStr, executable: &Path, deadline: Instant) -> Result<(), String> {
    let failed = |error: io::Error| format!("could not be started: {error}");
    let environment = environment::passed_on(std::env::vars_os());
    let mut check =
        Check::start(command, executable, &[], Path::new("."), &environment, None).map_err(failed)?;
    loop {
        if let Some(ended) = check.ended() {
            return ended;
        }
        if Instant::now() >= deadline {
            check.kill();
            return Err("did not end in time".to_owned());
        }
        let mut fds: Vec<_> = check.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        poll::until(&mut fds, Some(deadline)).map_err(failed)?;
    }
}
