//! Which signals are blocked: before the handlers are installed, and in a supervisor.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use crate::sys::hangup;
use crate::sys::signals::{self, Signal, UPGRADE_SIGNALS};

/// The signals that the service may handle, blocked until [`install`](Self::install). The drop delivers the signals that came
/// meanwhile.
#[derive(Debug)]
pub(crate) struct Blocked {
    before: SigSet,
}

impl Blocked {
    /// Installs the handlers: while the signals are blocked, none of them runs half installed.
    pub(crate) fn install(&mut self, upgrade: Signal) -> io::Result<()> {
        signals::install(upgrade)?;
        // A parent that had blocked these did not mean that the process is never to stop or upgrade. All others
        // stay as they were: a program that takes a signal by sigwait(3) or signalfd(2) has blocked it before it came
        // here, and unblocked the signal would end the program.
        for signal in [Signal::SIGTERM, Signal::SIGINT, upgrade] {
            self.before.remove(signal);
        }
        Ok(())
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // It fails only for a mask operation that does not exist.
        match pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None) {
            Ok(()) | Err(_) => {}
        }
    }
}

/// Blocks these signals in this thread, the only one of the process: the first thing that `main` does.
pub(crate) fn block() -> nix::Result<Blocked> {
    let mut ours = SigSet::empty();
    for signal in
        [Signal::SIGTERM, Signal::SIGINT].into_iter().chain(UPGRADE_SIGNALS.map(|(_, signal)| signal))
    {
        ours.add(signal);
    }
    hangup::note_start(signals::is_ignored(Signal::SIGHUP));
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ours), Some(&mut before))?;
    Ok(Blocked { before })
}

/// Blocks the signals that a supervisor passes on, and SIGCHLD, in this thread. If one of them comes to another thread, that thread
/// sends it to this one. The handler has another effect for SIGCHLD: ignored, the kernel would reap the children itself. The set leaves out the signals of a fault of the process, and those by which a shell stops the job.
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
    signals::relay_to_this_thread(&signals)?;
    Ok(signals)
}
