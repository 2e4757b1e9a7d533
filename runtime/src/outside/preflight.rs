//! A command that checks a new release: before it gets a socket, or while it serves on probation.

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

/// How many reads follow one another, and the bytes of each: together the capacity of a pipe, pipe(7). A command that
/// writes without end then does not delay the engine.
const READS: usize = 4;
const READ_AT_ONCE: usize = 16 * 1024;

/// A running command, in a process group of its own.
#[derive(Debug)]
pub(crate) struct Check {
    child: Child,
    pidfd: OwnedFd,
    /// `None` once every writer has closed it.
    pipe: Option<File>,
    /// The end of the command's output, stdout and stderr.
    output: Vec<u8>,
}

impl Check {
    /// Starts `sh -c command executable arguments…`. In the command `"$0"` is the executable and `"$@"` are the
    /// arguments, sh(1p). The command has the directory, the environment and the umask of the successor.
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
        // std cannot set the umask. A first shell sets it and executes the shell of the command.
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

    /// The descriptors that become readable when there is output or the command has ended.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.pidfd.as_fd()].into_iter().chain(self.pipe.as_ref().map(AsFd::as_fd))
    }

    /// The result, once the command has ended. The error describes any end but status 0.
    pub(crate) fn ended(&mut self) -> Option<Result<(), String>> {
        // The status is read before the output: by then the pipe has all that the command wrote.
        let ended = self.child.try_wait();
        self.read();
        let how = match ended {
            Ok(None) => return None,
            Ok(Some(status)) if status.success() => return Some(Ok(())),
            Ok(Some(status)) => in_words(status),
            // SIGCHLD is ignored, or other code in this process calls waitpid(-1).
            Err(_) => "ended; its status was taken by another wait in this process".to_owned(),
        };
        Some(Err(match self.output() {
            output if output.is_empty() => how,
            output => format!("{how}: {output}"),
        }))
    }

    /// Kills the command with its process group.
    pub(crate) fn kill(&self) {
        kill_group(&self.child);
    }

    /// The end of the output, as one line.
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

/// Sends SIGKILL to the group. Its leader is not reaped, so the number still belongs to it.
fn kill_group(leader: &Child) {
    let Ok(group) = i32::try_from(leader.id()) else { return };
    match killpg(Pid::from_raw(group), Signal::SIGKILL) {
        // A process that has changed its user cannot be killed, and ends by itself.
        Ok(()) | Err(_) => {}
    }
}
