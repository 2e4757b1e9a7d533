//! The kinds of program that an upgrade may find at the path of the executable.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::service::{LINGERS, MANNER, RETURNS};

/// That path, in the directory of a service.
pub(crate) const EXECUTABLE: &str = "svc";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The service itself.
    Plain,
    /// A script that executes it.
    Script,
    /// A script that starts it and waits for it.
    Wrapper,
    /// A script that puts it into the background and exits.
    Background,
    /// Its `main` goes on after `run` for a while. So does that of the first process.
    Lingers,
    /// Its body returns in the probation, and its `main` goes on after that.
    Returns,
}

impl Release {
    pub(crate) const ALL: [(&str, Self); 6] = [
        ("plain", Self::Plain),
        ("script", Self::Script),
        ("wrapper", Self::Wrapper),
        ("background", Self::Background),
        ("lingers", Self::Lingers),
        ("returns", Self::Returns),
    ];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, release)| release)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, release)| *release == self).map_or("", |(name, _)| name)
    }

    /// Whether an upgrade to it succeeds where nothing else is wrong.
    pub(crate) fn is_sound(self) -> bool {
        !matches!(self, Self::Background | Self::Returns)
    }

    /// Whether a process that this program does not run stands between the service and who has started it.
    pub(crate) fn has_parent_between(self) -> bool {
        matches!(self, Self::Wrapper | Self::Background)
    }

    /// What the first process of a service is, of which this is the next release. It is started by the path of the executable itself:
    /// a script that executes something else would not be found again.
    pub(crate) fn first(self) -> Self {
        if self == Self::Lingers { self } else { Self::Plain }
    }

    /// Has the next process of the service in a directory be this, as a deploy does: by a rename.
    pub(crate) fn install(self, dir: &Path) {
        let service = path_of_service();
        let run = format!("'{}' \"$@\"", service.display());
        let script = match self {
            Self::Script => Some(format!("exec {run}")),
            // Not its last command, which a shell may execute in its own place.
            Self::Wrapper => Some(format!("{run}\nexit $?")),
            Self::Background => Some(format!("{run} &")),
            Self::Plain | Self::Lingers | Self::Returns => None,
        };
        let manner = match self {
            Self::Lingers => LINGERS,
            Self::Returns => RETURNS,
            _ => "",
        };
        fs::write(dir.join(MANNER), manner).expect("a file in a directory of our own");
        let new = dir.join("new");
        match script {
            None => symlink(service, &new).expect("a link in a directory of our own"),
            Some(script) => {
                fs::write(&new, format!("#!/bin/sh\n{script}\n")).expect("a file in a directory of our own");
                fs::set_permissions(&new, Permissions::from_mode(0o755)).expect("it is our own");
            }
        }
        fs::rename(new, dir.join(EXECUTABLE)).expect("a directory of our own");
    }
}

fn path_of_service() -> PathBuf {
    env::current_exe().expect("this program has a path")
}

/// Whether a process runs something else than the service: the shell of a script.
pub(crate) fn is_shell(process: i32) -> bool {
    fs::read_link(format!("/proc/{process}/exe"))
        .is_ok_and(|runs| runs.file_name() != path_of_service().file_name())
}
