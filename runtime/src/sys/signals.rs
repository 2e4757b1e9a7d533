//! Signals: counted from the first instruction of `main` to the last, and never lost.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// How often each signal was delivered since the last [`take`]. A count, not a queue: two hundred SIGHUPs in a second cost
/// no memory, and none of them pushes a SIGTERM out.
static UPGRADES: AtomicU32 = AtomicU32::new(0);
static TERMINATES: AtomicU32 = AtomicU32::new(0);
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// The signals that were delivered since the last look.
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

/// The signals that can be chosen to start an upgrade.
pub(crate) const UPGRADE_SIGNALS: [(&str, Signal); 5] = [
    ("SIGHUP", Signal::SIGHUP),
    ("SIGUSR1", Signal::SIGUSR1),
    ("SIGUSR2", Signal::SIGUSR2),
    ("SIGQUIT", Signal::SIGQUIT),
    ("SIGWINCH", Signal::SIGWINCH),
];

/// Installs the handlers. Where no upgrade is possible the process has one for `upgrade` too: the request is answered, and does
/// not kill the process.
#[cfg(unix)]
pub(crate) fn install(upgrade: Signal) -> io::Result<()> {
    // Another crate may have turned on ctrlc's feature `termination`, which takes SIGTERM and SIGHUP as well, and
    // fails if one of them is ignored (nohup). Our handlers come last, and win.
    set_action(Signal::SIGTERM, SigHandler::SigDfl)?;
    let hangup_before = set_action(Signal::SIGHUP, SigHandler::SigDfl)?;
    install_ctrl_c()?;
    set_action(Signal::SIGTERM, SigHandler::Handler(on_terminate))?;
    set_action(Signal::SIGHUP, hangup_before)?;
    set_action(upgrade, SigHandler::Handler(on_upgrade))?;
    Ok(())
}

/// Installs the handler of Ctrl-C. Windows never sends the other signals.
#[cfg(windows)]
pub(crate) fn install(_upgrade: Signal) -> io::Result<()> {
    install_ctrl_c()
}

fn install_ctrl_c() -> io::Result<()> {
    match ctrlc::try_set_handler(|| count_signal(&INTERRUPTS)) {
        // Ctrl-C is not ours if the parent ignores it, such as a shell that put the job in the background, or if the program
        // has a handler of its own.
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(ctrlc::Error::System(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Sets the handler of a signal; returns the previous handler.
#[cfg(unix)]
pub(crate) fn set_action(signal: Signal, handler: SigHandler) -> io::Result<SigHandler> {
    // SA_RESTART: no read or write of the service fails with EINTR because of our handlers.
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handlers below touch only atomics, errno and write(2), all of which signal-safety(7) allows.
    let before = unsafe { sigaction(signal, &action) }?;
    Ok(before.handler())
}

#[cfg(unix)]
extern "C" fn on_upgrade(_: libc::c_int) {
    count_signal(&UPGRADES);
}

#[cfg(unix)]
extern "C" fn on_terminate(_: libc::c_int) {
    count_signal(&TERMINATES);
}

fn count_signal(count: &AtomicU32) {
    count.fetch_add(1, Ordering::SeqCst);
    wake::from_handler();
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
