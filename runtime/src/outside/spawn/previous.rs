//! The executable that ran before. A rollback starts it, though the process that ran it may be dead and its file deleted.
//!
//! Each process passes two descriptors on: of the file that it runs, and of the other file that ran before that. A successor that
//! runs the same file as its predecessor, after an upgrade for a changed configuration, keeps the second one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::stat::fstat;

/// The names of the two descriptors in an offer. The NUL makes them names of this crate, `limits::OWN_FILE`.
pub(crate) const NAMES: [&str; 2] = ["executable\0", "executable-before\0"];

/// An executable file that ran before. The kernel keeps the inode while the descriptor is open.
#[derive(Debug)]
pub(super) struct Previous {
    file: Arc<OwnedFd>,
    stamp: Stamp,
}

/// What says which file it is, and that nobody has written to it: device and inode, and size and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    content: (i64, i64, i64),
}

impl Stamp {
    fn of(fd: &OwnedFd) -> io::Result<Self> {
        let stat = fstat(fd)?;
        Ok(Self {
            file: (stat.st_dev, stat.st_ino),
            content: (stat.st_size, stat.st_mtime, stat.st_mtime_nsec),
        })
    }
}

impl Previous {
    /// The first of these that is another file than `own`.
    pub(super) fn choose(own: &OwnedFd, offered: impl IntoIterator<Item = OwnedFd>) -> Option<Self> {
        let own = Stamp::of(own).ok()?;
        offered.into_iter().find_map(|file| {
            let stamp = Stamp::of(&file).ok()?;
            (stamp.file != own.file).then(|| Self { file: Arc::new(file), stamp })
        })
    }

    pub(super) fn file(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// Whether nobody has written to the file since this process has got it. While a process ran it nobody could.
    pub(super) fn is_unchanged(&self) -> bool {
        Stamp::of(&self.file).is_ok_and(|now| now == self.stamp)
    }
}

/// The path by which this process, and a clone of it, can execute a descriptor.
pub(super) fn own_path(number: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{number}"))
}

/// The path by which another process of this user can execute a descriptor of this one.
pub(super) fn path_for_others(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use super::*;

    #[test]
    fn the_file_that_ran_before_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let [own, before, first] = ["own", "before", "first"].map(|name| dir.path().join(name));
        for path in [&own, &before, &first] {
            fs::write(path, "x").unwrap();
        }
        let open = |path| OwnedFd::from(File::open(path).unwrap());
        let chosen = |offered: Vec<OwnedFd>| Previous::choose(&open(&own), offered).map(|it| it.stamp.file);
        let is = |path| Some(Stamp::of(&open(path)).unwrap().file);
        assert_eq!(chosen(vec![open(&before), open(&first)]), is(&before));
        // The same file once more, after an upgrade that changed nothing in it.
        assert_eq!(chosen(vec![open(&own), open(&first)]), is(&first));
        assert_eq!(chosen(vec![open(&own), open(&own)]), None);
        assert_eq!(chosen(Vec::new()), None);
    }

    #[test]
    fn a_file_that_was_written_to_is_not_what_ran() {
        let dir = tempfile::tempdir().unwrap();
        let [own, before] = ["own", "before"].map(|name| dir.path().join(name));
        fs::write(&own, "x").unwrap();
        fs::write(&before, "x").unwrap();
        let open = |path| OwnedFd::from(File::open(path).unwrap());
        let previous = Previous::choose(&open(&own), [open(&before)]).unwrap();
        assert!(previous.is_unchanged());
        File::options().append(true).open(&before).unwrap().write_all(b"y").unwrap();
        assert!(!previous.is_unchanged());
    }
}
