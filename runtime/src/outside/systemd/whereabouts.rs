//! Where the service manager is: the parent of this process, above a wrapper, or outside the PID namespace.
//!
//! A manager follows a process by its number, and waits at a stop for its own children alone. A process with
//! NOTIFY_SOCKET need not be a child of the manager, nor have the same number for it.

use std::fs;
use std::os::unix::process::parent_id;
use std::process;

use crate::sys::proc::parent_and_program;

/// The process that systemd has executed, systemd.exec(5), since version 248. Its children inherit the variable.
const SYSTEMD_EXEC_PID: &str = "SYSTEMD_EXEC_PID";
/// The manager of a user. It sets the variable for the processes of its units.
const MANAGERPID: &str = "MANAGERPID";
/// The program of a manager, of the machine or of a user.
const PROGRAM: &str = "systemd";
/// More than there ever are between a service and its manager.
const MAX_ANCESTORS: usize = 64;

/// Where the service manager is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// It is the parent of this process, or nothing shows otherwise.
    Parent,
    /// The parent is a wrapper, which runs this program.
    Above { parent: u32, program: String },
    /// In an outer PID namespace. There the numbers of this namespace mean other processes.
    Outside,
}

impl Whereabouts {
    pub(crate) fn find() -> Self {
        let variable = |name| std::env::var_os(name)?.to_str()?.parse().ok();
        let relatives = Relatives {
            own: process::id(),
            parent: parent_id(),
            own_in_proc: fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok()),
            executed: variable(SYSTEMD_EXEC_PID),
            of_user: variable(MANAGERPID),
        };
        relatives.whereabouts(parent_and_program)
    }

    /// The warning for an operator, with the remedies.
    pub(crate) fn warning(&self) -> Option<String> {
        match self {
            Self::Parent => None,
            Self::Above { parent, program } => Some(format!(
                "process {parent} ({program}) is between the service manager and this process: after an upgrade the manager does not \
                 wait for the process that serves, which is no child of it, and a stop cuts its connections; have `exec` start the \
                 service in the place of that process, or set the option `supervise = \"always\"`, and NotifyAccess=all in the unit"
            )),
            Self::Outside => Some(
                "the service manager is outside of the PID namespace of this process, and is not told which process serves (MAINPID=): \
                 where the namespace ends with this process the first upgrade ends the service; set the option \
                 `supervise = \"always\"`, and NotifyAccess=all in the unit"
                    .to_owned(),
            ),
        }
    }
}

/// The warning about a release that is a script which waits for the service. The process that was started is the
/// script. Only the script is a child of the manager, and another process reports readiness.
pub(crate) fn behind_a_wrapper(pid: u32) -> String {
    format!(
        "process {pid}, which serves, is behind a wrapper and no child of the service manager: a stop would kill it at once; use \
         `exec` in the script"
    )
}

/// Whether a wrapper is between this process and its predecessor. A predecessor starts its successor as its own child,
/// or as a child of its own parent.
pub(crate) fn is_behind_a_wrapper(predecessor: u32) -> bool {
    let (parent, usual) = (parent_id(), parent_and_program(predecessor).map(|(parent, _)| parent));
    // The parent of the first process in a PID namespace is 0.
    parent != 0 && parent != predecessor && usual.is_some_and(|usual| usual != parent)
}

/// What a process knows about its ancestors.
#[derive(Clone, Copy, Debug)]
struct Relatives {
    own: u32,
    /// 0 if the parent is outside the PID namespace.
    parent: u32,
    /// The number of this process in /proc, which may be mounted for another PID namespace.
    own_in_proc: Option<u32>,
    executed: Option<u32>,
    of_user: Option<u32>,
}

impl Relatives {
    /// `stat` returns the parent of a visible process and the name of its program.
    ///
    /// The manager is an ancestor of every process of the service, also of an orphan that it has adopted. It is outside
    /// only if every ancestor is visible and none is the manager. In doubt it is not outside: a manager that misses the
    /// next MAINPID ends the service.
    fn whereabouts(self, stat: impl Fn(u32) -> Option<(u32, String)>) -> Whereabouts {
        if self.parent == 0 {
            return Whereabouts::Outside;
        }
        // Other managers, and systemd before version 248, do not set it.
        let Some(executed) = self.executed else { return Whereabouts::Parent };
        if self.own_in_proc.is_some_and(|number| number != self.own) {
            return Whereabouts::Outside;
        }
        let mut at = self.parent;
        let mut parent_is_manager = false;
        for _ in 0..MAX_ANCESTORS {
            let seen = stat(at);
            let is_manager =
                self.of_user == Some(at) || seen.as_ref().map_or(at == 1, |(_, program)| program == PROGRAM);
            match seen {
                _ if is_manager => {
                    parent_is_manager = at == self.parent;
                    break;
                }
                Some((0, _)) => return Whereabouts::Outside,
                Some((parent, _)) => at = parent,
                // ProtectProc= hides the process.
                None => break,
            }
        }
        if executed == self.own || parent_is_manager {
            return Whereabouts::Parent;
        }
        let program = stat(self.parent).map_or_else(|| "hidden".to_owned(), |(_, program)| program);
        Whereabouts::Above { parent: self.parent, program }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the manager of process 50 is. Its ancestors begin with the parent.
    fn whereabouts(executed: Option<u32>, ancestors: &[(u32, &str)]) -> Whereabouts {
        relatives(executed, ancestors).whereabouts(table(ancestors))
    }

    fn relatives(executed: Option<u32>, ancestors: &[(u32, &str)]) -> Relatives {
        let parent = ancestors.first().map_or(0, |(pid, _)| *pid);
        Relatives { own: 50, parent, own_in_proc: Some(50), executed, of_user: None }
    }

    fn table(ancestors: &[(u32, &str)]) -> impl Fn(u32) -> Option<(u32, String)> {
        let names: Vec<_> = ancestors.iter().map(|(pid, name)| (*pid, (*name).to_owned())).collect();
        move |pid| {
            let at = names.iter().position(|(it, _)| *it == pid)?;
            let parent = names.get(at + 1).map_or(0, |(parent, _)| *parent);
            Some((parent, names[at].1.clone()))
        }
    }

    fn above(parent: u32, program: &str) -> Whereabouts {
        Whereabouts::Above { parent, program: program.to_owned() }
    }

    #[test]
    fn a8_a_wrapper_is_what_systemd_has_executed_in_the_place_of_the_service() {
        let systemd = (1, "systemd");
        assert_eq!(whereabouts(Some(50), &[systemd]), Whereabouts::Parent);
        // A script has executed the wrapper's process.
        assert_eq!(whereabouts(Some(40), &[(40, "sh"), systemd]), above(40, "sh"));
        assert_eq!(whereabouts(Some(30), &[(40, "timeout"), (30, "sudo"), systemd]), above(40, "timeout"));
        // A later generation is a sibling of the first. When a wrapper ends, its child becomes a child of the manager.
        assert_eq!(whereabouts(Some(40), &[systemd]), Whereabouts::Parent);
        // The manager of a user has a manager itself.
        let user = [(45, "sh"), (20, "systemd"), systemd];
        assert_eq!(whereabouts(Some(45), &user), above(45, "sh"));
        assert_eq!(whereabouts(Some(50), &user[1..]), Whereabouts::Parent);
        let renamed = [(20, "manager"), (1, "init")];
        let of_user = Relatives { of_user: Some(20), ..relatives(Some(50), &renamed) };
        assert_eq!(of_user.whereabouts(table(&renamed)), Whereabouts::Parent);
        // Another init, or systemd before version 248.
        assert_eq!(whereabouts(None, &[(40, "sh"), (1, "init")]), Whereabouts::Parent);
    }

    #[test]
    fn a6_a_namespace_is_seen_by_its_first_process() {
        // `unshare --pid --fork --mount-proc sh`, and bwrap.
        assert_eq!(whereabouts(Some(4711), &[(1, "sh")]), Whereabouts::Outside);
        assert_eq!(whereabouts(Some(4711), &[(2, "sh"), (1, "bwrap")]), Whereabouts::Outside);
        // The number that systemd set belongs to another process here.
        assert_eq!(whereabouts(Some(50), &[(1, "bwrap")]), Whereabouts::Outside);
        // The first process of the namespace, with PrivatePIDs=, and a process that has entered it. The rest is
        // unknown.
        assert_eq!(whereabouts(Some(4711), &[]), Whereabouts::Outside);
        assert_eq!(whereabouts(None, &[]), Whereabouts::Outside);
        // /proc is of the outer namespace, where process 1 is the manager.
        let ancestors = [(1, "systemd")];
        let of_above = Relatives { own_in_proc: Some(4712), ..relatives(Some(4711), &ancestors) };
        assert_eq!(of_above.whereabouts(table(&ancestors)), Whereabouts::Outside);
    }

    /// With ProtectProc=invisible, and without /proc.
    #[test]
    fn a6_what_is_hidden_is_no_namespace() {
        let hidden = |_| None;
        assert_eq!(relatives(Some(50), &[(1, "")]).whereabouts(hidden), Whereabouts::Parent);
        assert_eq!(relatives(Some(40), &[(1, "")]).whereabouts(hidden), Whereabouts::Parent);
        assert_eq!(relatives(Some(40), &[(40, "")]).whereabouts(hidden), above(40, "hidden"));
        let without_proc = Relatives { own_in_proc: None, ..relatives(Some(50), &[(1, "")]) };
        assert_eq!(without_proc.whereabouts(hidden), Whereabouts::Parent);
    }
}
