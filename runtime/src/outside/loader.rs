//! A process that was started through the dynamic loader, `ld-linux-x86-64.so.2 ./svc`, ld.so(8). /proc/self/exe is the
//! loader then, and the loader has removed its own arguments from those of the program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The loader that has started this process.
#[derive(Debug)]
pub(super) struct Loader {
    pub(super) path: PathBuf,
    /// All arguments of the exec: those of the loader, the program, and its arguments.
    pub(super) arguments: Vec<OsString>,
    /// The place of the program among them.
    program: usize,
}

impl Loader {
    /// `None` if the kernel has started the program itself. `arguments` are those of `main`.
    pub(super) fn find(arguments: &[OsString]) -> Option<Self> {
        let all = split(&fs::read("/proc/self/cmdline").ok()?);
        let program = program_at(&all, arguments)?;
        Some(Self { path: env::current_exe().ok()?, arguments: all, program })
    }

    /// The path of the program.
    pub(super) fn program(&self, directory: &Path) -> PathBuf {
        directory.join(&self.arguments[self.program])
    }
}

/// The arguments of /proc/PID/cmdline, each of which ends in NUL, proc_pid_cmdline(5).
fn split(text: &[u8]) -> Vec<OsString> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    text.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect()
}

/// The place of the program among all arguments, if there are more than `main` has got. The loader has an option to
/// change the first that `main` gets. A process that has overwritten its arguments, setproctitle(3), shows others.
fn program_at(all: &[OsString], of_main: &[OsString]) -> Option<usize> {
    let at = all.len().checked_sub(of_main.len()).filter(|at| *at > 0 && !of_main.is_empty())?;
    let is_option = |argument: &OsStr| argument.as_encoded_bytes().starts_with(b"-");
    (all[at + 1..] == of_main[1..] && !is_option(&all[at])).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b6_the_program_comes_after_the_arguments_of_the_loader() {
        let list = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (all, of_main, at) in [
            ("./svc -v", "./svc -v", None),
            ("ld.so ./svc -v", "./svc -v", Some(1)),
            ("ld.so ./svc", "./svc", Some(1)),
            ("ld.so --library-path /lib ./svc -v", "./svc -v", Some(3)),
            ("ld.so --argv0 svc ./svc -v", "svc -v", Some(3)),
            // It has overwritten them.
            ("svc: worker of many words", "./svc -v", None),
            ("svc:", "./svc -v", None),
        ] {
            assert_eq!(program_at(&list(all), &list(of_main)), at, "{all}");
        }
        assert_eq!(program_at(&list("ld.so ./svc"), &[]), None);
        assert_eq!(split(b"a\0\0b\0"), ["a", "", "b"]);
    }
}
