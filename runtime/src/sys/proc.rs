//! What /proc shows of a process, proc(5). The error of a failed read is text for a message.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};

use crate::sys::pidfd;

/// The numbers of a process.
pub(crate) struct Pids {
    /// Its number in the PID namespace that /proc is mounted for.
    pub(crate) in_proc: u32,
    /// Its number in its own PID namespace.
    pub(crate) innermost: u32,
}

impl Pids {
    /// Reads /proc/self/fdinfo of a pidfd, clone(2).
    pub(crate) fn of(pidfd: BorrowedFd<'_>) -> Result<Self, String> {
        let path = PathBuf::from(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
        let text = read(&path)?;
        // The number is 0 for a process that is not visible there, and -1 for a dead one.
        let number = |number: &str| number.parse().ok().filter(|number| *number > 0);
        let in_proc = field(&text, "Pid").as_deref().and_then(number);
        let in_proc = in_proc.ok_or_else(|| "/proc does not have it".to_owned())?;
        // A kernel without PID namespaces has no such field.
        let innermost = match field(&text, "NSpid") {
            Some(numbers) => numbers.split_whitespace().next_back().and_then(number),
            None => Some(in_proc),
        };
        let innermost = innermost.ok_or_else(|| format!("{} does not say its number", path.display()))?;
        Ok(Self { in_proc, innermost })
    }
}

/// The mask of signals that a process has handlers for, proc_pid_status(5).
pub(crate) fn caught(in_proc: u32) -> Result<u64, String> {
    let path = file(in_proc, "status");
    let mask = field(&read(&path)?, "SigCgt").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    mask.ok_or_else(|| format!("{} does not say what it handles", path.display()))
}

pub(crate) fn is_in(mask: u64, signal: Signal) -> bool {
    mask >> (signal as i32 - 1) & 1 == 1
}

/// Whether a process has a thread of this name beside its first thread, proc_pid_comm(5). The first thread has the name
/// of the executed file.
pub(crate) fn has_thread(in_proc: u32, wanted: &str) -> Result<bool, String> {
    let directory = file(in_proc, "task");
    let threads = fs::read_dir(&directory).map_err(|error| cannot_read(&directory, &error))?;
    let first = in_proc.to_string();
    // A thread that has ended by now has no name.
    let name = |thread: fs::DirEntry| fs::read(thread.path().join("comm")).unwrap_or_default();
    let mut others = threads.flatten().filter(|thread| thread.file_name() != *first);
    Ok(others.any(|thread| name(thread).trim_ascii_end() == wanted.as_bytes()))
}

/// The start time of a process: field 22 of /proc/PID/stat, in clock ticks since boot, proc_pid_stat(5).
pub(crate) fn began(in_proc: u32) -> Result<SystemTime, String> {
    let path = file(in_proc, "stat");
    let stat = read(&path)?;
    let machine = read(Path::new("/proc/stat"))?;
    let began = || {
        // The name before it, in brackets, may have any bytes.
        let after_name = stat.rsplit(|byte| *byte == b')').next()?;
        let ticks: u64 = std::str::from_utf8(after_name).ok()?.split_whitespace().nth(19)?.parse().ok()?;
        let in_a_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        let line = |line: &[u8]| Some(String::from_utf8_lossy(line.strip_prefix(b"btime ")?).into_owned());
        let booted = machine.split(|byte| *byte == b'\n').find_map(line)?.trim().parse().ok()?;
        let since = Duration::from_secs(ticks) / u32::try_from(in_a_second).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(booted) + since)
    };
    began().ok_or_else(|| format!("{} does not say when it began", path.display()))
}

/// What the exit of a process means for its controlling terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtTerminal {
    /// The process is in the foreground, and is a job of a shell: the shell takes the terminal back.
    Job,
    /// The process leads the session, so the terminal hangs up, credentials(7).
    Leader,
}

impl AtTerminal {
    /// Reads /proc/self/stat. `None` for a process that is not in the foreground of a terminal. Ctrl-C never reached
    /// such a process.
    pub(crate) fn find() -> Option<Self> {
        Self::of(&fs::read("/proc/self/stat").ok()?)
    }

    /// All numbers are of one PID namespace, proc_pid_stat(5).
    fn of(stat: &[u8]) -> Option<Self> {
        // The name between, in brackets, may have any bytes.
        let stat = String::from_utf8_lossy(stat);
        let (pid, _) = stat.split_once(' ')?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(2);
        let [group, session, terminal, foreground] = std::array::from_fn(|_| fields.next());
        if terminal? == "0" || group != foreground {
            return None;
        }
        Some(if session? == pid { Self::Leader } else { Self::Job })
    }
}

/// A field of a file in /proc with one field a line. The file is bytes: a name may end within a character.
pub(crate) fn field(text: &[u8], name: &str) -> Option<String> {
    let value = |line: &[u8]| {
        let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?.trim_ascii();
        Some(String::from_utf8_lossy(value).into_owned())
    };
    text.split(|byte| *byte == b'\n').find_map(value)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| cannot_read(path, &error))
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// The path of a file of a process.
pub(crate) fn file(in_proc: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{in_proc}/{name}"))
}

/// Whether a process began before a moment that is not long ago. If so, its number has not been reused since. A dead process
/// counts until it is reaped.
pub(crate) fn began_before(pidfd: BorrowedFd<'_>, moment: SystemTime) -> Result<bool, String> {
    let began = Pids::of(pidfd).and_then(|pids| began(pids.in_proc));
    // A process that is reaped has no number, and what was read above may be of another process.
    match Pids::of(pidfd) {
        Ok(_) => Ok(began? <= moment),
        Err(_) if pidfd::is_dead(pidfd) => Ok(false),
        Err(why) => Err(why),
    }
}

/// The parent of a process and the name of its program, proc_pid_stat(5).
pub(crate) fn parent_and_program(pid: u32) -> Option<(u32, String)> {
    // A name may have any bytes.
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (head, after_name) = stat.rsplit_once(')')?;
    let parent = after_name.split_whitespace().nth(1)?.parse().ok()?;
    Some((parent, head.split_once('(')?.1.to_owned()))
}

/// The name of a process, proc_pid_comm(5). Linux cuts it to 15 bytes, perhaps within a character.
pub(crate) fn name(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is younger than a pid file did not write it.
    #[test]
    fn a_process_is_of_its_time() {
        let (us, slack) = (std::process::id(), Duration::from_secs(2));
        let (now, began) = (SystemTime::now(), began(us).unwrap());
        assert!(began <= now + slack && began + Duration::from_secs(3600) > now, "{began:?} {now:?}");
    }

    #[test]
    fn what_is_in_proc_is_bytes() {
        let text = b"Name:\tcaf\xc3\nTgid:\t7\nSigCgt:\t0000000000004001\n";
        assert_eq!(field(text, "Tgid").as_deref(), Some("7"));
        assert_eq!(field(text, "SigCgt").as_deref(), Some("0000000000004001"));
        assert_eq!(field(text, "Sig"), None, "it is the whole name");
    }

    #[test]
    fn d10_only_a_process_in_the_foreground_loses_its_terminal() {
        for (stat, expected) in [
            ("7 (svc) S 6 7 6 34816 7 0", Some(AtTerminal::Job)),
            // A member of a pipeline, or the child of a wrapper such as `cargo run`.
            ("8 (svc) S 6 7 6 34816 7 0", Some(AtTerminal::Job)),
            ("6 (svc) S 1 6 6 34816 6 0", Some(AtTerminal::Leader)),
            // A name may look like the fields after it.
            ("7 (a) S 7 7 7 0 7) S 6 7 6 34816 7 0", Some(AtTerminal::Job)),
            // In the background; in a session without a terminal; with a terminal that hung up.
            ("7 (svc) S 6 7 6 34816 6 0", None),
            ("7 (svc) S 6 7 7 0 -1 0", None),
            ("7 (svc) S 6 7 6 0 -1 0", None),
            ("7 (svc) S 6", None),
            ("", None),
        ] {
            assert_eq!(AtTerminal::of(stat.as_bytes()), expected, "{stat}");
        }
        assert_eq!(AtTerminal::of(b"7 (\xff) S 6 7 6 34816 7 0"), Some(AtTerminal::Job));
    }
}
