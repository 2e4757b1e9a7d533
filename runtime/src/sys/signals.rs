//! Signals: handled from the first instruction of `main` to the last, counted and never lost.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::libc;
pub(crate) use nix::sys::signal::Signal;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, pthread_sigmask, raise, sigaction,
};

/// How often each was delivered since the engine looked. A count, not a queue: two hundred SIGHUPs in a second cost
/// no memory, and none of them pushes a SIGTERM out.
static UPGRADES: AtomicU32 = AtomicU32::new(0);
static TERMINATES: AtomicU32 = AtomicU32::new(0);
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// The descriptor that a handler writes to, so that the engine wakes; -1 before there is an engine.
static WAKE: AtomicI32 = AtomicI32::new(-1);

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

/// The signals that may be ours, blocked until [`install`] has run; dropping it lets through what came meanwhile.
#[derive(Debug)]
pub(crate) struct Blocked {
    before: SigSet,
}

/// Blocks them in this thread, which is the only one there is: the first thing that `main` does.
pub(crate) fn block() -> nix::Result<Blocked> {
    let mut ours = SigSet::empty();
    for signal in
        [Signal::SIGTERM, Signal::SIGINT].into_iter().chain(UPGRADE_SIGNALS.map(|(_, signal)| signal))
    {
        ours.add(signal);
    }
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ours), Some(&mut before))?;
    Ok(Blocked { before })
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // It fails only for a mask operation that does not exist.
        match pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None) {
            Ok(()) | Err(_) => {}
        }
    }
}

/// Blocks what a supervisor passes on, and SIGCHLD, which gets its default action: ignored, it would reap by itself. What is
/// not in the set: signals of a fault of the process itself, and those that stop it, which are for whoever started it.
pub(crate) fn block_all() -> io::Result<SigSet> {
    let mut signals = SigSet::all();
    for own in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGTRAP,
        Signal::SIGABRT,
        Signal::SIGSYS,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ] {
        signals.remove(own);
    }
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&signals), None)?;
    set_action(Signal::SIGCHLD, SigHandler::SigDfl)?;
    Ok(signals)
}

/// The signals that can be chosen to start an upgrade.
pub(crate) const UPGRADE_SIGNALS: [(&str, Signal); 5] = [
    ("SIGHUP", Signal::SIGHUP),
    ("SIGUSR1", Signal::SIGUSR1),
    ("SIGUSR2", Signal::SIGUSR2),
    ("SIGQUIT", Signal::SIGQUIT),
    ("SIGWINCH", Signal::SIGWINCH),
];

/// Installs the handlers. It takes [`Blocked`] as the witness that none of them can run half installed.
pub(crate) fn install(upgrade: Signal, blocked: &mut Blocked) -> io::Result<()> {
    // Another crate may have turned on ctrlc's feature `termination`, which takes SIGTERM and SIGHUP as well, and
    // fails if one of them is ignored (nohup). Ours come last, and win.
    set_action(Signal::SIGTERM, SigHandler::SigDfl)?;
    let hangup_before = set_action(Signal::SIGHUP, SigHandler::SigDfl)?;
    match ctrlc::try_set_handler(|| note(&INTERRUPTS)) {
        // Ignored by whoever started us, such as a shell that put the job in the background, or taken by the
        // program itself: in both cases Ctrl-C is not ours.
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => {}
        Err(ctrlc::Error::System(error)) => return Err(error),
        Err(error) => return Err(io::Error::other(error)),
    }
    set_action(Signal::SIGTERM, SigHandler::Handler(on_terminate))?;
    set_action(Signal::SIGHUP, hangup_before)?;
    set_action(upgrade, SigHandler::Handler(on_upgrade))?;
    // Whoever started this process with these blocked did not mean that nobody is ever to stop or upgrade it. All others
    // stay as they were: a program that takes a signal by sigwait(3) or signalfd(2) has it blocked from before it came
    // here, and unblocked the signal would end it.
    for signal in [Signal::SIGTERM, Signal::SIGINT, upgrade] {
        blocked.before.remove(signal);
    }
    Ok(())
}

/// Sets the handler of a signal; returns the one before.
fn set_action(signal: Signal, handler: SigHandler) -> io::Result<SigHandler> {
    // SA_RESTART: no read or write of the service is to fail with EINTR because of us.
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handlers below touch only atomics, errno and write(2), all of which signal-safety(7) allows.
    let before = unsafe { sigaction(signal, &action) }?;
    Ok(before.handler())
}

/// From now on a signal wakes whoever polls `wake`.
pub(crate) fn wake_through(wake: BorrowedFd<'_>) -> io::Result<()> {
    // A duplicate of its own that is never closed: a handler may run until the last instruction.
    let ours = wake.try_clone_to_owned()?.into_raw_fd();
    WAKE.store(ours, Ordering::SeqCst);
    // One that came before the store has been counted; the engine looks at the counts before it first sleeps.
    Ok(())
}

extern "C" fn on_upgrade(_: libc::c_int) {
    note(&UPGRADES);
}

extern "C" fn on_terminate(_: libc::c_int) {
    note(&TERMINATES);
}

fn note(count: &AtomicU32) {
    count.fetch_add(1, Ordering::SeqCst);
    let wake = WAKE.load(Ordering::SeqCst);
    if wake < 0 {
        return;
    }
    let before = Errno::last_raw();
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the buffer is eight bytes long, as an eventfd wants it, and the descriptor is never closed. An error
    // can only say that the counter is full, which wakes as well.
    let _: isize = unsafe { libc::write(wake, one.as_ptr().cast(), one.len()) };
    Errno::set_raw(before);
}

/// Ends the process the way `signal` ends one that does not handle it.
pub(crate) fn die_of(signal: Signal) -> ! {
    // If any of these fails there is still the exit below, with the status that a shell would show.
    match set_action(signal, SigHandler::SigDfl).and_then(|_| {
        let mut only = SigSet::empty();
        only.add(signal);
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None)?;
        Ok(raise(signal)?)
    }) {
        Ok(()) | Err(_) => exit_now(128 + signal as i32),
    }
}

/// _exit(2): without destructors and exit handlers, any of which may be what hangs.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status) }
}
