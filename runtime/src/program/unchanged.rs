//! Whether the file at the path of the executable is the file that runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use super::conversation::Conversation;
use super::output::{Failure, Output};
use crate::base::status::{Executable, Phase, Status};

/// The time between two looks at a process on probation.
const LOOK: Duration = Duration::from_millis(100);

/// The status of the process that runs the file at the path; `None` if the process that serves runs another file.
///
/// A process on probation may still give the service back to its predecessor, which runs another file. So the end of the
/// probation is waited for.
pub(crate) fn wait_for_it(
    conversation: &mut Conversation,
    deadline: Instant,
    output: &Output,
) -> Result<Option<Status>, Failure> {
    let mut said = false;
    loop {
        let (status, _) = conversation.status()?;
        if !status.executable.as_ref().is_some_and(is_at_its_path) {
            return Ok(None);
        }
        if !is_on_probation(&status) {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Err(Failure::no_answer(format!("process {} is still on probation", status.pid)));
        }
        if !std::mem::replace(&mut said, true) {
            output.progress(&format!("process {} serves, on probation", status.pid));
        }
        thread::sleep(LOOK);
    }
}

/// Whether the status names a predecessor on standby. A service of an older release does not say it.
fn is_on_probation(status: &Status) -> bool {
    status.predecessor_state.as_ref().is_some_and(|state| state.phase == Phase::Standby)
}

/// The kernel keeps the inode of a file that runs, and lets nobody write into the file. So another release is another inode. The
/// number of an inode is that of one device, and a service of an older release does not say the device.
pub(crate) fn is_at_its_path(running: &Executable) -> bool {
    fs::metadata(&running.path).is_ok_and(|file| {
        (file.ino(), file.mtime()) == (running.inode, running.modified)
            && running.device.is_none_or(|device| device == file.dev())
    })
}
