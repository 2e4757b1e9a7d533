//! The service that the argument names.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::conversation::{Conversation, nothing_listens};
use super::output::{Failure, Output};
use super::process::Process;

/// A way to a service.
pub(crate) enum Target {
    Control(Conversation),
    /// The service has no control socket, or no process listens at it.
    Signals(Process),
}

impl Target {
    /// A socket is the control socket; any other file is the pid file, which may have a control socket beside it.
    pub(crate) fn open(path: &Path, deadline: Instant, output: &Output) -> Result<Self, Failure> {
        if is_socket(path) {
            return match Conversation::open(path, deadline)? {
                Some(conversation) => Ok(Self::Control(conversation)),
                None => Err(nothing_listens(path)),
            };
        }
        let control = control_beside(path);
        let conversation = if is_socket(&control) { Conversation::open(&control, deadline)? } else { None };
        if let Some(conversation) = conversation {
            return Ok(Self::Control(conversation.with_pidfile(path)));
        }
        let process = Process::named_by(path, &control)?;
        output.note(&format!(
            "there is no control socket at {}; process {} is known by its pid file alone",
            control.display(),
            process.pid(),
        ));
        Ok(Self::Signals(process))
    }
}

/// The default of `Service::control`.
fn control_beside(pidfile: &Path) -> PathBuf {
    pidfile.with_extension("control")
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}
