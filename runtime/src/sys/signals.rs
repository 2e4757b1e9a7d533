//! Signals: counted from the first instruction of `main` to the last, and never lost.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(upgrades)]
pub(crate) use handlers::{TERMINAL_SIGNALS, is_ignored, relay_to_this_thread};
#[cfg(unix)]
pub(crate) use handlers::{install, settle};
#[cfg(unix)]
use nix::libc;
#[cfg(unix)]
pub(crate) use nix::sys::signal::Signal;
#[cfg(unix)]
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, pthread_sigmask, raise, sigaction,
};
#[cfg(windows)]
pub(crate) use windows::Signal;

use crate::sys::wake;

#[cfg(windows)]
#[path = "../portable/sys/windows.rs"]
mod windows;

#[cfg(unix)]
mod handlers;

/// How often a signal was delivered. A count, not a queue: two hundred SIGHUPs in a second cost no memory, and none of
/// them pushes a SIGTERM out.
struct Count {
    /// It only grows. So a handler sees whether another handler has counted the same signal, whatever the engine takes.
    delivered: AtomicU32,
    taken: AtomicU32,
}

static UPGRADES: Count = Count::new();
static TERMINATES: Count = Count::new();
static INTERRUPTS: Count = Count::new();
/// The terminal has hung up.
static HANGUPS: Count = Count::new();
/// SIGHUP of the leader of the session, which is a hang-up if the terminal is gone.
static OF_LEADER: Count = Count::new();

impl Count {
    const fn new() -> Self {
        Self { delivered: AtomicU32::new(0), taken: AtomicU32::new(0) }
    }

    fn delivered(&self) -> u32 {
        self.delivered.load(Ordering::SeqCst)
    }

    fn add(&self) {
        self.delivered.fetch_add(1, Ordering::SeqCst);
        wake::from_handler();
    }

    /// How often the signal was delivered since the last call. Only the engine calls it.
    fn take(&self) -> u32 {
        let delivered = self.delivered();
        delivered.wrapping_sub(self.taken.swap(delivered, Ordering::SeqCst))
    }
}

/// The signals that were delivered since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) upgrades: u32,
    /// SIGTERM.
    pub(crate) terminates: u32,
    /// Ctrl-C.
    pub(crate) interrupts: u32,
    /// The terminal has hung up.
    pub(crate) hangups: u32,
}

impl Pending {
    pub(crate) fn add(&mut self, more: Self) {
        self.upgrades += more.upgrades;
        self.terminates += more.terminates;
        self.interrupts += more.interrupts;
        self.hangups += more.hangups;
    }
}

pub(crate) fn take() -> Pending {
    let mut pending = Pending {
        upgrades: UPGRADES.take(),
        terminates: TERMINATES.take(),
        interrupts: INTERRUPTS.take(),
        hangups: HANGUPS.take(),
    };
    let of_leader = OF_LEADER.take();
    #[cfg(upgrades)]
    if of_leader > 0 && crate::sys::hangup::is_terminal_gone() {
        pending.hangups += if crate::sys::hangup::is_nothing() { 0 } else { of_leader };
        return pending;
    }
    pending.upgrades += of_leader;
    pending
}

/// The signals that can be chosen to start an upgrade.
pub(crate) const UPGRADE_SIGNALS: [(&str, Signal); 5] = [
    ("SIGHUP", Signal::SIGHUP),
    ("SIGUSR1", Signal::SIGUSR1),
    ("SIGUSR2", Signal::SIGUSR2),
    ("SIGQUIT", Signal::SIGQUIT),
    ("SIGWINCH", Signal::SIGWINCH),
];

/// Windows never sends the other signals, and [`settle`] sets the handler of Ctrl-C.
#[cfg(windows)]
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn install(_upgrade: Signal) -> io::Result<()> {
    Ok(())
}

/// Sets the handler of Ctrl-C, unless the body has set one with the crate `ctrlc`. Until then Ctrl-C ends the process.
#[cfg(windows)]
pub(crate) fn settle(_upgrade: Signal) {
    match ctrlc::set_handler(|| INTERRUPTS.add()) {
        Ok(()) | Err(_) => {}
    }
}

/// Sets the handler of a signal; returns the previous handler.
#[cfg(unix)]
pub(crate) fn set_action(signal: Signal, handler: SigHandler) -> io::Result<SigHandler> {
    // SA_RESTART: no read or write of the service fails with EINTR because of our handlers.
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the callers set no handler of their own, only the default action.
    let before = unsafe { sigaction(signal, &action) }?;
    Ok(before.handler())
}

/// Ends the process the way `signal` ends a process without a handler.
#[cfg(unix)]
pub(crate) fn die_of(signal: Signal) -> ! {
    // If any of these fails, the exit below has the status that a shell shows.
    match set_action(signal, SigHandler::SigDfl).and_then(|_| {
        let mut only = SigSet::empty();
        only.add(signal);
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None)?;
        Ok(raise(signal)?)
    }) {
        Ok(()) | Err(_) => exit_now(128 + signal as i32),
    }
}

#[cfg(windows)]
pub(crate) fn die_of(_signal: Signal) -> ! {
    exit_now(windows::CONTROL_C_EXIT)
}

/// _exit(2): without destructors and exit handlers, any of which may hang.
#[cfg(unix)]
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status) }
}

#[cfg(windows)]
#[allow(clippy::exit, reason = "it is what ends a process whose body blocks its thread")]
pub(crate) fn exit_now(status: i32) -> ! {
    std::process::exit(status)
}
