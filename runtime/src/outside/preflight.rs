//! The command that checks a new release before it gets a socket.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};

use crate::base::report::{MAX_REASON, printable};
use crate::sys::pidfd;

/// How often its output is read at a time, and how many bytes: all that a pipe holds, pipe(7). A command that writes
/// without end keeps the engine from nothing.
const READS: usize = 4;
const READ_AT_ONCE: usize = 16 * 1024;

/// A command that runs, in a process group of its own.
#[derive(Debug)]
pub(crate) struct Check {
    child: Child,
    pidfd: OwnedFd,
    /// `None` once every process that could write to it has closed it.
    pipe: Option<File>,
    /// The last of what it wrote, on stdout and stderr.
    output: Vec<u8>,
}

impl Check {
    /// Starts `sh -c command executable arguments…`, so that the command has the two as `"$0"` and `"$@"`, sh(1p). It has the
    /// directory, the environment and the umask that the successor will have.
    pub(crate) fn start(
        command: &OsStr,
        executable: &Path,
        arguments: &[OsString],
        directory: &Path,
        environment: &[(OsString, OsString)],
        umask: Option<Mode>,
    ) -> io::Result<Self> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut shell = Command::new("/bin/sh");
        // A shell sets the umask, because std does not, and becomes the one that runs the command.
        let set_umask = umask.map(|umask| format!("umask {:04o} && ", umask.bits())).unwrap_or_default();
        shell
            .arg("-c")
            .arg(set_umask + "exec /bin/sh -c \"$@\"")
            .arg("sh")
            .arg(command)
            .arg(executable)
            .args(arguments);
        shell.current_dir(directory).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        shell.stdin(Stdio::null()).stdout(theirs.try_clone()?).stderr(theirs).process_group(0);
        let mut child = shell.spawn()?;
        match pidfd::open(child.id()) {
            Ok(pidfd) => Ok(Self { child, pidfd, pipe: Some(ours.into()), output: Vec::new() }),
            Err(error) if pidfd::is_reaped(&error) => Err(io::Error::other(pidfd::EXITED_AT_ONCE)),
            Err(error) => {
                kill_group(&child);
                child.wait()?;
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What is readable when there is something to do here.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.pidfd.as_fd()].into_iter().chain(self.pipe.as_ref().map(AsFd::as_fd))
    }

    /// How it ended, once it has: in words, if it was not with status 0.
    pub(crate) fn ended(&mut self) -> Option<Result<(), String>> {
        // Looked at before the output: what it wrote before it died is in the pipe by then.
        let ended = self.child.try_wait();
        self.read();
        let how = match ended {
            Ok(None) => return None,
            Ok(Some(status)) if status.success() => return Some(Ok(())),
            Ok(Some(status)) => in_words(status),
            // SIGCHLD is ignored, or somebody here calls waitpid(-1).
            Err(_) => "ended; its status was taken by another wait in this process".to_owned(),
        };
        Some(Err(match self.output() {
            output if output.is_empty() => how,
            output => format!("{how}: {output}"),
        }))
    }

    /// Ends it, with all that it has started and that is still in its group.
    pub(crate) fn kill(&self) {
        kill_group(&self.child);
    }

    /// The last of what it wrote, in one line.
    pub(crate) fn output(&self) -> String {
        printable(&String::from_utf8_lossy(&self.output))
    }

    fn read(&mut self) {
        let mut buffer = [0; READ_AT_ONCE];
        for _ in 0..READS {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.output.extend_from_slice(&buffer[..count]);
                    let surplus = self.output.len().saturating_sub(MAX_REASON);
                    self.output.drain(..surplus);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.pipe = None,
            }
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(Ok(signal))) => format!("was killed by {signal}"),
        (None, _) => status.to_string(),
    }
}

/// SIGKILL to a group whose leader nobody has reaped, so that the number is still its own.
fn kill_group(leader: &Child) {
    let Ok(group) = i32::try_from(leader.id()) else { return };
    match killpg(Pid::from_raw(group), Signal::SIGKILL) {
        // One that has changed its user is left to end by itself.
        Ok(()) | Err(_) => {}
    }
}
