//! The SIGHUP of a terminal that is closed. It is a hang-up, and that of an operator is a request to upgrade.
//!
//! The kernel sends SIGHUP to the session leader, and to the foreground when the leader exits, credentials(7). A leader
//! that is a shell sends it to its jobs as well, with kill(2), as an operator would.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;

static HAD_TERMINAL: AtomicBool = AtomicBool::new(false);
static IS_NOTHING: AtomicBool = AtomicBool::new(false);

/// Who has sent a SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The kernel: it is a hang-up.
    Kernel,
    /// The leader of the session: it is a hang-up if the terminal is [gone](is_terminal_gone).
    Leader,
    Operator,
}

/// Notes whether there is a terminal, and whether a hang-up means anything: not if SIGHUP is ignored before there are
/// signal handlers.
pub(crate) fn note_start(is_ignored: bool) {
    HAD_TERMINAL.store(open_terminal().is_ok(), Ordering::SeqCst);
    IS_NOTHING.store(is_ignored, Ordering::SeqCst);
}

/// Whether this process leads the session of this one.
pub(crate) fn is_led_by(process: u32) -> bool {
    // SAFETY: getsid takes any number.
    u32::try_from(unsafe { libc::getsid(0) }) == Ok(process)
}

/// Has the process pass over hang-ups. The predecessor leads the session, and its exit causes one.
pub(crate) fn pass_over() {
    IS_NOTHING.store(true, Ordering::SeqCst);
}

/// Whether a hang-up means nothing: SIGHUP was ignored when the first process began, as nohup(1) has it.
pub(crate) fn is_nothing() -> bool {
    IS_NOTHING.load(Ordering::SeqCst)
}

/// The sender of a SIGHUP with this `si_code` and `si_pid`, sigaction(2). A signal handler may call it.
pub(crate) fn sender(code: libc::c_int, pid: libc::pid_t) -> Sender {
    match code {
        libc::SI_KERNEL => Sender::Kernel,
        // SAFETY: getsid takes any number, and is one system call.
        libc::SI_USER if pid == unsafe { libc::getsid(0) } => Sender::Leader,
        _ => Sender::Operator,
    }
}

/// Whether the terminal that this process had at its start has hung up: opening it fails with EIO, or with ENXIO once
/// the kernel has taken it away.
pub(crate) fn is_terminal_gone() -> bool {
    HAD_TERMINAL.load(Ordering::SeqCst)
        && open_terminal().is_err_and(|errno| matches!(errno, Errno::EIO | Errno::ENXIO))
}

fn open_terminal() -> Result<File, Errno> {
    let terminal =
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open("/dev/tty");
    terminal.map_err(|error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
}
