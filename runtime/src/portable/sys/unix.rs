//! The signals of Unix beside Ctrl-C.
//!
//! A handler may not take a lock, so it counts and writes a byte to a pair of sockets, and a thread that reads from the
//! other end wakes the engine.
#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::libc;
pub(crate) use nix::sys::signal::Signal;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, pthread_sigmask, raise, sigaction,
};

use super::{TERMINATES, UPGRADES, install_ctrl_c, wake};

/// The end of the pair that the handlers write to, never closed; -1 before there is one.
static WRITE_END: AtomicI32 = AtomicI32::new(-1);

/// The signals that can be chosen to start an upgrade.
pub(crate) const UPGRADE_SIGNALS: [(&str, Signal); 5] = [
    ("SIGHUP", Signal::SIGHUP),
    ("SIGUSR1", Signal::SIGUSR1),
    ("SIGUSR2", Signal::SIGUSR2),
    ("SIGQUIT", Signal::SIGQUIT),
    ("SIGWINCH", Signal::SIGWINCH),
];

/// Installs the handlers. That of `upgrade` is there so that the signal is answered and does not kill the process.
pub(crate) fn install(upgrade: Signal) -> io::Result<()> {
    // std makes them close-on-exec. A handler must not block; a byte that is lost because others wait does no harm.
    let (mut read_end, write_end) = UnixStream::pair()?;
    write_end.set_nonblocking(true)?;
    WRITE_END.store(write_end.into_raw_fd(), Ordering::SeqCst);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut bytes = [0; 64];
        loop {
            match read_end.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The other end is never closed.
                Ok(0) | Err(_) => return,
                Ok(_) => wake(),
            }
        }
    })?;
    // Another crate may have turned on ctrlc's feature `termination`, which takes SIGTERM and SIGHUP as well, and
    // fails if one of them is ignored (nohup). Ours come last, and win.
    set_action(Signal::SIGTERM, SigHandler::SigDfl)?;
    let hangup_before = set_action(Signal::SIGHUP, SigHandler::SigDfl)?;
    install_ctrl_c()?;
    set_action(Signal::SIGTERM, SigHandler::Handler(on_terminate))?;
    set_action(Signal::SIGHUP, hangup_before)?;
    set_action(upgrade, SigHandler::Handler(on_upgrade))?;
    Ok(())
}

/// Sets the handler of a signal; returns the one before.
fn set_action(signal: Signal, handler: SigHandler) -> io::Result<SigHandler> {
    // SA_RESTART: no read or write of the service is to fail with EINTR because of us.
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handlers below touch only atomics, errno and write(2), all of which are allowed in one.
    let before = unsafe { sigaction(signal, &action) }?;
    Ok(before.handler())
}

extern "C" fn on_upgrade(_: libc::c_int) {
    note(&UPGRADES);
}

extern "C" fn on_terminate(_: libc::c_int) {
    note(&TERMINATES);
}

fn note(count: &AtomicU32) {
    count.fetch_add(1, Ordering::SeqCst);
    let before = Errno::last_raw();
    let byte = 0_u8;
    // SAFETY: the buffer is one byte long, and the descriptor is never closed. An error can only say that the buffer of
    // the socket is full, and then the thread is awake already.
    let _: isize = unsafe { libc::write(WRITE_END.load(Ordering::SeqCst), (&raw const byte).cast(), 1) };
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
