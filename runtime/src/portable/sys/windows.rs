//! The names of signals on Windows. The system has Ctrl-C; the others are names that `upgrade_signal` may have.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    SIGHUP,
    SIGUSR1,
    SIGUSR2,
    SIGQUIT,
    SIGWINCH,
    SIGINT,
    SIGTERM,
}

impl Signal {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Signal::SIGHUP => "SIGHUP",
            Signal::SIGUSR1 => "SIGUSR1",
            Signal::SIGUSR2 => "SIGUSR2",
            Signal::SIGQUIT => "SIGQUIT",
            Signal::SIGWINCH => "SIGWINCH",
            Signal::SIGINT => "SIGINT",
            Signal::SIGTERM => "SIGTERM",
        }
    }
}

/// The status of a process that Ctrl-C ends, STATUS_CONTROL_C_EXIT.
pub(super) const CONTROL_C_EXIT: i32 = 0xC000_013A_u32 as i32;
