//! Requests from outside: Ctrl-C everywhere, and on Unix SIGTERM and the signal that would upgrade.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

#[cfg(unix)]
mod unix;

#[cfg(unix)]
pub(crate) use unix::{Signal, UPGRADE_SIGNALS, die_of, exit_now, install};
#[cfg(windows)]
pub(crate) use windows::{Signal, UPGRADE_SIGNALS, die_of, exit_now, install};

/// How often each came since the engine looked.
static UPGRADES: AtomicU32 = AtomicU32::new(0);
static TERMINATES: AtomicU32 = AtomicU32::new(0);
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// Makes the engine look. A signal that came before there was an engine is counted.
static WAKE: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// What has come since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) upgrades: u32,
    /// SIGTERM.
    pub(crate) terminates: u32,
    /// Ctrl-C.
    pub(crate) interrupts: u32,
}

impl Pending {
    pub(crate) fn add(&mut self, more: Self) {
        self.upgrades += more.upgrades;
        self.terminates += more.terminates;
        self.interrupts += more.interrupts;
    }
}

pub(crate) fn take() -> Pending {
    Pending {
        upgrades: UPGRADES.swap(0, Ordering::AcqRel),
        terminates: TERMINATES.swap(0, Ordering::AcqRel),
        interrupts: INTERRUPTS.swap(0, Ordering::AcqRel),
    }
}

/// From now on a signal calls this, which wakes the engine of the service.
pub(crate) fn wake_through(wake: impl Fn() + Send + 'static) {
    *WAKE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(wake));
}

/// Never called in a handler, where no lock may be taken.
fn wake() {
    if let Some(wake) = &*WAKE.lock().unwrap_or_else(PoisonError::into_inner) {
        wake();
    }
}

fn install_ctrl_c() -> io::Result<()> {
    // ctrlc calls it on a thread of its own.
    let handler = || {
        INTERRUPTS.fetch_add(1, Ordering::AcqRel);
        wake();
    };
    match ctrlc::try_set_handler(handler) {
        // Ignored by whoever started us, or taken by the program itself: in both cases Ctrl-C is not ours.
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(ctrlc::Error::System(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Windows has Ctrl-C. The others are names that `upgrade_signal` may have, and never come.
#[cfg(windows)]
mod windows {
    use std::io;

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
                Signal::SIGINT => "SIGINT",
                Signal::SIGTERM => "SIGTERM",
                other => {
                    UPGRADE_SIGNALS.iter().find(|(_, signal)| *signal == other).map_or("", |(name, _)| name)
                }
            }
        }
    }

    pub(crate) const UPGRADE_SIGNALS: [(&str, Signal); 5] = [
        ("SIGHUP", Signal::SIGHUP),
        ("SIGUSR1", Signal::SIGUSR1),
        ("SIGUSR2", Signal::SIGUSR2),
        ("SIGQUIT", Signal::SIGQUIT),
        ("SIGWINCH", Signal::SIGWINCH),
    ];

    /// What the system ends a process with that does not handle Ctrl-C, STATUS_CONTROL_C_EXIT.
    const CONTROL_C_EXIT: i32 = 0xC000_013A_u32 as i32;

    pub(crate) fn install(_upgrade: Signal) -> io::Result<()> {
        super::install_ctrl_c()
    }

    pub(crate) fn die_of(_signal: Signal) -> ! {
        exit_now(CONTROL_C_EXIT)
    }

    #[allow(clippy::exit, reason = "it is what ends a process whose body blocks its thread")]
    pub(crate) fn exit_now(status: i32) -> ! {
        std::process::exit(status)
    }
}
