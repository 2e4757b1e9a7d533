//! The pid file. It is written beside its place and then renamed, so a reader sees one process or another, and never
//! half a number.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[cfg(upgrades)]
use crate::base::limits::MAX_PIDFILE_SHOWN;
#[cfg(upgrades)]
use crate::base::report::printable;

/// More than the text of a process ID and a line break.
const MAX_TEXT: u64 = 32;

#[derive(Debug)]
pub(crate) struct Pidfile {
    path: PathBuf,
    /// The staged file, which is renamed to `path`.
    beside: PathBuf,
    /// Whether this process wrote `beside`. A file from another origin is never published.
    staged: Cell<bool>,
    pid: u32,
}

impl Pidfile {
    /// `path` is absolute and names a file.
    pub(crate) fn new(path: PathBuf, pid: u32) -> Self {
        Self { beside: beside(&path, pid), path, staged: Cell::new(false), pid }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the new file beside the old one. A fault of the disk shows here, before the handover relies on the file.
    pub(crate) fn stage(&self) -> io::Result<()> {
        // A dead process of the same process ID may have left one.
        remove(&self.beside)?;
        // O_EXCL does not follow a planted symbolic link.
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
        let mut file = options.open(&self.beside)?;
        let written = file.write_all(format!("{}\n", self.pid).as_bytes());
        self.staged.set(true);
        if written.is_err() {
            self.unstage();
        }
        written
    }

    /// Makes the pid file name this process, rename(2).
    pub(crate) fn publish(&self) -> io::Result<()> {
        if !self.staged.get() {
            self.stage()?;
        }
        let renamed = match fs::rename(&self.beside, &self.path) {
            // Another process has removed the staged file, such as a successor that took this process for dead.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.stage().and_then(|()| fs::rename(&self.beside, &self.path))
            }
            renamed => renamed,
        };
        renamed.inspect_err(|_| self.unstage())?;
        self.staged.set(false);
        Ok(())
    }

    /// Removes the staged file, if it is still there.
    pub(crate) fn unstage(&self) {
        if self.staged.take() {
            self.unstage_of(self.pid);
        }
    }

    /// Removes the file that a dead process may have staged.
    pub(crate) fn unstage_of(&self, pid: u32) {
        // A leftover does no harm: the next process of this process ID removes it.
        match remove(&beside(&self.path, pid)) {
            Ok(()) | Err(_) => {}
        }
    }

    /// The process that the pid file names.
    pub(crate) fn named(&self) -> Option<u32> {
        Some(read(&self.path).ok()??.0)
    }

    /// Removes the file, if it names one of `pids`.
    pub(crate) fn remove_if_names(&self, pids: &[u32]) -> io::Result<()> {
        match self.named() {
            Some(pid) if pids.contains(&pid) => remove(&self.path),
            _ => Ok(()),
        }
    }
}

/// The process that a pid file names, and when the file was written. Both are read from one open file, because a rename
/// may replace it at any moment. `None` if it is no pid file. A FIFO or an endless file does not block the caller.
pub(crate) fn read(path: &Path) -> io::Result<Option<(u32, SystemTime)>> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, nix::libc::O_NONBLOCK);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut text)?;
    let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    let pid = pid.filter(|pid| *pid > 0 && i32::try_from(*pid).is_ok());
    pid.map(|pid| Ok((pid, metadata.modified()?))).transpose()
}

/// Where a process stages the pid file.
fn beside(path: &Path, pid: u32) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{pid}"));
    path.with_file_name(name)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The path of a pid file in the form that two generations compare and that messages show. Empty for none.
#[cfg(upgrades)]
pub(crate) fn shown(path: Option<&Path>) -> String {
    let mut text = path.map(|path| printable(&path.to_string_lossy())).unwrap_or_default();
    let end = (0..=MAX_PIDFILE_SHOWN.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_one_process_or_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("echo.pid");
        let old = Pidfile::new(path.clone(), 100);
        let new = Pidfile::new(path.clone(), 200);
        old.publish().unwrap();
        new.stage().unwrap();
        assert_eq!(old.named(), Some(100), "staged is not published");
        new.publish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "200\n");
        old.remove_if_names(&[100]).unwrap();
        assert_eq!(new.named(), Some(200), "it names another process and stays");
        new.remove_if_names(&[200]).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// A successor that takes its predecessor for dead removes the file that the predecessor has staged for the way back.
    #[test]
    fn a_staged_file_that_another_process_removed_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("echo.pid");
        let (old, new) = (Pidfile::new(path.clone(), 100), Pidfile::new(path, 200));
        old.stage().unwrap();
        new.publish().unwrap();
        new.unstage_of(100);
        old.publish().unwrap();
        assert_eq!(new.named(), Some(100));
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(old.publish().unwrap_err().kind(), io::ErrorKind::NotFound, "there is no directory");
    }

    #[test]
    #[cfg(unix)]
    fn a_planted_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let pidfile = Pidfile::new(dir.path().join("echo.pid"), 100);
        std::os::unix::fs::symlink(&victim, &pidfile.beside).unwrap();
        std::os::unix::fs::symlink(&victim, &pidfile.path).unwrap();
        pidfile.publish().unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(pidfile.named(), Some(100));
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_pid_file_names_nobody_and_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = Pidfile::new(dir.path().join("fifo"), 100);
        nix::unistd::mkfifo(&fifo.path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let endless = Pidfile::new("/dev/zero".into(), 100);
        for pidfile in [fifo, endless] {
            assert_eq!(pidfile.named(), None, "{pidfile:?}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pidfile = Pidfile::new(dir.path().join("missing/echo.pid"), 100);
        assert_eq!(pidfile.stage().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
