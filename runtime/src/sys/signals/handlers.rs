//! The signal handlers of a service, and what else in the process handles the same signals.
//!
//! From the first instruction each signal is counted by a handler of this file. Until the service is ready the body may
//! install handlers of its own, with the crate `ctrlc`, which has one slot for a process, with tokio or in another way.
//! Then [`settle`] chains: this file and the other handler both get the signal.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
#[cfg(upgrades)]
use nix::{sys::signal::SigSet, unistd::gettid};

use super::{Count, INTERRUPTS, Signal, TERMINATES, UPGRADES};
#[cfg(upgrades)]
use super::{HANGUPS, OF_LEADER};
#[cfg(upgrades)]
use crate::sys::hangup::{self, Sender};

/// The signals that a terminal sends. A shell has a background job ignore the first two, and nohup(1) has a program
/// ignore the third. Every generation ignores what the first one ignored.
#[cfg(upgrades)]
pub(crate) const TERMINAL_SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];

/// Ctrl-C was ignored at the start. A body that asks for it gets it, and the service does not.
static IS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Whether the action of a signal is to ignore it.
#[cfg(upgrades)]
pub(crate) fn is_ignored(signal: Signal) -> bool {
    action(signal).is_ok_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

/// Installs the handlers. Where no upgrade is possible the process has one for `upgrade` too: the request is answered, and
/// does not kill the process.
///
/// Ctrl-C that is ignored stays ignored. SIGTERM and the upgrade signal are the service's in any case: an operator who
/// sends one of them means it.
pub(crate) fn install(upgrade: Signal) -> io::Result<()> {
    let interrupt = action(Signal::SIGINT)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, upgrade] {
        let before = action(signal)?;
        match before.sa_sigaction {
            libc::SIG_IGN if signal == Signal::SIGINT => IS_IGNORED.store(true, Ordering::SeqCst),
            libc::SIG_DFL | libc::SIG_IGN => set(signal, &ours(on_signal))?,
            // `main` has installed a handler before it runs the service.
            _ => set(signal, &EARLY.chained(signal, &before, &interrupt))?,
        }
    }
    Ok(())
}

/// Makes the handlers final when the service is ready: those that the body has installed meanwhile are chained, and the
/// slot of `ctrlc` is taken if it is still free. A handler that the body sets later with `ctrlc` would replace these ones,
/// and is refused by `ctrlc`.
///
/// With its feature `termination`, which another crate may have turned on, `ctrlc` takes SIGTERM and SIGHUP as well, and
/// for a moment they are counted as Ctrl-C. So this is called, and has [counted](Slot::flush) all of them, before the
/// process is ready: until then an upgrade would be refused, and a start that ends harms nobody.
pub(crate) fn settle(upgrade: Signal) {
    static IS_SETTLED: AtomicBool = AtomicBool::new(false);
    // A second chain could lead back to its own handler, by way of one that was installed in between.
    if IS_SETTLED.swap(true, Ordering::SeqCst) {
        return;
    }
    let mut signals = vec![Signal::SIGINT, Signal::SIGTERM, upgrade];
    if upgrade != Signal::SIGHUP {
        signals.push(Signal::SIGHUP);
    }
    // Ctrl-C last: a handler that tokio installs after this look is lost.
    signals.reverse();
    let before: Vec<_> = signals.iter().filter_map(|signal| Some((*signal, action(*signal).ok()?))).collect();
    let Some((_, interrupt)) = before.last().copied() else { return };
    let is_counted = !IS_IGNORED.load(Ordering::SeqCst);
    let slot = ctrlc::set_handler(move || SLOT.hear(is_counted));
    let is_taken_now = slot.is_ok();
    let mut of_slot = None;
    for (signal, before) in before {
        let Ok(now) = action(signal) else { continue };
        let is_changed = now.sa_sigaction != before.sa_sigaction;
        if signal == Signal::SIGINT && is_taken_now && before.sa_sigaction == on_signal as Handler as usize {
            // The thread of `ctrlc` counts Ctrl-C from now on.
            continue;
        }
        // The handler of `ctrlc` has no SA_SIGINFO. Any other one, such as that of tokio, was installed at this moment.
        let is_of_slot = is_changed && is_taken_now && now.sa_flags & libc::SA_SIGINFO == 0;
        let there = if is_of_slot { before } else { now };
        if is_of_slot && signal != Signal::SIGINT {
            of_slot = Some(now.sa_sigaction);
        }
        let wanted = match there.sa_sigaction {
            handler if is_ours(handler) => there,
            // With another upgrade signal SIGHUP belongs to the program.
            _ if signal == Signal::SIGHUP && upgrade != signal => there,
            _ if signal == Signal::SIGINT && !is_counted => there,
            libc::SIG_DFL | libc::SIG_IGN if signal == Signal::SIGINT => there,
            libc::SIG_DFL | libc::SIG_IGN => ours(on_signal),
            _ => LATE.chained(signal, &there, &interrupt),
        };
        if wanted.sa_sigaction == now.sa_sigaction {
            continue;
        }
        // It fails only for a number that is no signal.
        match set(signal, &wanted) {
            Ok(()) | Err(_) => {}
        }
    }
    if let Some(handler) = of_slot {
        SLOT.flush(handler);
    }
    SLOT.is_settled.store(true, Ordering::SeqCst);
}

/// The handler that the service sets with `ctrlc`.
static SLOT: Slot =
    Slot { thread: AtomicI32::new(0), marker: AtomicU8::new(Slot::NONE), is_settled: AtomicBool::new(false) };

struct Slot {
    /// The thread of `ctrlc`, once it has called the handler.
    thread: AtomicI32,
    marker: AtomicU8,
    is_settled: AtomicBool,
}

impl Slot {
    const NONE: u8 = 0;
    const SENT: u8 = 1;
    const HEARD: u8 = 2;
    /// How long the thread of `ctrlc` may take to call the handler for what has come so far.
    const TIMEOUT: Duration = Duration::from_secs(1);

    fn hear(&self, is_counted: bool) {
        self.thread.store(thread_id(), Ordering::SeqCst);
        let marker =
            self.marker.compare_exchange(Self::SENT, Self::HEARD, Ordering::SeqCst, Ordering::SeqCst);
        if marker.is_err() && (is_counted || !self.is_settled.load(Ordering::SeqCst)) {
            INTERRUPTS.add();
        }
    }

    /// Waits until each signal that `ctrlc` has taken so far is counted. With `termination` one of them may have been a
    /// SIGHUP: counted later, it would stop a service that serves, and now it ends a start.
    ///
    /// The thread gets one signal after the other. So it has counted all of them if it has heard a marker of ours and sleeps.
    fn flush(&self, handler: usize) {
        self.marker.store(Self::SENT, Ordering::SeqCst);
        // SAFETY: `ctrlc` has installed this function for a signal, without SA_SIGINFO. It only wakes its thread.
        let handler = unsafe { mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler) };
        handler(libc::SIGINT);
        let deadline = Instant::now() + Self::TIMEOUT;
        while !self.is_idle() && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(20));
        }
    }

    fn is_idle(&self) -> bool {
        if self.marker.load(Ordering::SeqCst) != Self::HEARD {
            return false;
        }
        let stat = fs::read(format!("/proc/self/task/{}/stat", self.thread.load(Ordering::SeqCst)));
        // The state comes after the name, proc_pid_stat(5). Without /proc the marker has to do.
        stat.is_ok_and(|stat| {
            stat.windows(4).rev().find(|at| at.starts_with(b") ")).is_none_or(|at| at[2] == b'S')
        }) || !std::path::Path::new("/proc/self/task").exists()
    }
}

#[cfg(upgrades)]
fn thread_id() -> libc::pid_t {
    gettid().as_raw()
}

#[cfg(not(upgrades))]
fn thread_id() -> libc::pid_t {
    0
}

/// The thread that [`relay`] sends signals to.
#[cfg(upgrades)]
static RECEIVER: AtomicI32 = AtomicI32::new(0);

/// Has every other thread send these signals to this one, which has blocked them and reads them by signalfd(2).
#[cfg(upgrades)]
pub(crate) fn relay_to_this_thread(signals: &SigSet) -> io::Result<()> {
    RECEIVER.store(gettid().as_raw(), Ordering::SeqCst);
    for signal in signals {
        match set(signal, &ours(relay)) {
            Ok(()) => {}
            // SIGKILL and SIGSTOP have no handler.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends the signal on, and what the kernel has said of its sender. To another thread no code of the kernel may be sent,
/// rt_tgsigqueueinfo(2): it goes in the place of `si_errno`, which no signal uses.
#[cfg(upgrades)]
extern "C" fn relay(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let before = Errno::last_raw();
    let receiver = RECEIVER.load(Ordering::SeqCst);
    // SAFETY: the kernel has made it.
    if let Some(mut info) = unsafe { info.as_ref() }.copied() {
        (info.si_errno, info.si_code) = (info.si_code, libc::SI_QUEUE);
        // SAFETY: getpid takes nothing.
        let process = unsafe { libc::getpid() };
        let info = ptr::from_mut(&mut info);
        // SAFETY: the pointer is valid.
        let _: libc::c_long =
            unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, receiver, signal, info) };
    }
    Errno::set_raw(before);
}

/// A handler as SA_SIGINFO has it, sigaction(2).
type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if let Some(count) = count(signal, info) {
        count.add();
    }
}

extern "C" fn on_early(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    EARLY.handle(signal, info, context);
}

extern "C" fn on_late(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    LATE.handle(signal, info, context);
}

fn is_ours(handler: usize) -> bool {
    [on_signal as Handler, on_early, on_late].iter().any(|ours| *ours as usize == handler)
}

/// Where a signal is counted. A hang-up may mean nothing.
fn count(signal: libc::c_int, info: *mut libc::siginfo_t) -> Option<&'static Count> {
    match signal {
        libc::SIGINT => Some(&INTERRUPTS),
        libc::SIGTERM => Some(&TERMINATES),
        libc::SIGHUP => count_of_hangup(info),
        _ => Some(&UPGRADES),
    }
}

#[cfg(upgrades)]
fn count_of_hangup(info: *mut libc::siginfo_t) -> Option<&'static Count> {
    // SAFETY: the kernel has made it, for a handler with SA_SIGINFO.
    let Some(info) = (unsafe { info.as_ref() }) else { return Some(&UPGRADES) };
    // SAFETY: the kernel sets the field for a signal of a process, and clears it for its own.
    match hangup::sender(info.si_code, unsafe { info.si_pid() }) {
        Sender::Kernel if hangup::is_nothing() => None,
        Sender::Kernel => Some(&HANGUPS),
        Sender::Leader => Some(&OF_LEADER),
        Sender::Operator => Some(&UPGRADES),
    }
}

#[cfg(not(upgrades))]
fn count_of_hangup(_: *mut libc::siginfo_t) -> Option<&'static Count> {
    Some(&UPGRADES)
}

/// The handlers of others that ours call. A handler that is chained after the service is ready may itself call a handler
/// of this file, which was there before it, so the two have different places.
static EARLY: Chain = Chain::new(on_early);
static LATE: Chain = Chain::new(on_late);

struct Chain {
    handler: Handler,
    interrupt: Previous,
    terminate: Previous,
    upgrade: Previous,
}

/// A handler that was installed before ours.
struct Previous {
    /// The address of the function, or 0.
    handler: AtomicUsize,
    /// Whether it has three arguments, SA_SIGINFO.
    has_info: AtomicBool,
}

impl Previous {
    const fn none() -> Self {
        Self { handler: AtomicUsize::new(0), has_info: AtomicBool::new(false) }
    }
}

impl Chain {
    const fn new(handler: Handler) -> Self {
        let (interrupt, terminate, upgrade) = (Previous::none(), Previous::none(), Previous::none());
        Self { handler, interrupt, terminate, upgrade }
    }

    fn of(&self, signal: libc::c_int) -> &Previous {
        match signal {
            libc::SIGINT => &self.interrupt,
            libc::SIGTERM => &self.terminate,
            _ => &self.upgrade,
        }
    }

    /// The action that counts a signal and calls the handler of `before`.
    ///
    /// `ctrlc` hears Ctrl-C alone, though with `termination` it has taken SIGTERM and SIGHUP too: with a handler that ends
    /// the process every upgrade would. It has one function for all of them, without SA_SIGINFO.
    fn chained(
        &self,
        signal: Signal,
        before: &libc::sigaction,
        interrupt: &libc::sigaction,
    ) -> libc::sigaction {
        let has_info = before.sa_flags & libc::SA_SIGINFO != 0;
        if signal != Signal::SIGINT && !has_info && before.sa_sigaction == interrupt.sa_sigaction {
            return ours(on_signal);
        }
        let previous = self.of(signal as libc::c_int);
        previous.has_info.store(has_info, Ordering::SeqCst);
        previous.handler.store(before.sa_sigaction, Ordering::SeqCst);
        let mut action = ours(self.handler);
        // The stack and the mask that the other handler needs.
        action.sa_flags |= before.sa_flags & libc::SA_ONSTACK;
        action.sa_mask = before.sa_mask;
        action
    }

    /// Calls the handler that was there before, and counts the signal. That handler may have called one of ours, as that
    /// of tokio does, which has counted the signal then.
    fn handle(&self, signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let count = count(signal, info);
        let counted = count.map(Count::delivered);
        self.of(signal).call(signal, info, context);
        if let Some(count) = count.filter(|count| Some(count.delivered()) == counted) {
            count.add();
        }
    }
}

impl Previous {
    fn call(&self, signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let handler = self.handler.load(Ordering::SeqCst);
        if handler == 0 {
            return;
        }
        if self.has_info.load(Ordering::SeqCst) {
            // SAFETY: the address is that of a handler with three arguments: it was installed with SA_SIGINFO.
            let handler: Handler = unsafe { mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        } else {
            // SAFETY: the address is that of a handler with one argument: it was installed without SA_SIGINFO.
            let handler = unsafe { mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler) };
            handler(signal);
        }
    }
}

/// The action of one of our handlers. SA_RESTART: no read or write of the service fails with EINTR because of it.
fn ours(handler: Handler) -> libc::sigaction {
    // SAFETY: zeroes are an action without flags and with an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    action
}

fn action(signal: Signal) -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::zeroed();
    // SAFETY: without a new action sigaction(2) only stores the present one.
    Errno::result(unsafe { libc::sigaction(signal as libc::c_int, ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded.
    Ok(unsafe { action.assume_init() })
}

fn set(signal: Signal, action: &libc::sigaction) -> io::Result<()> {
    // SAFETY: our handlers touch only atomics, errno and write(2), all of which signal-safety(7) allows, and call a handler
    // that was installed for this signal. Any other action was in force before.
    Errno::result(unsafe { libc::sigaction(signal as libc::c_int, action, ptr::null_mut()) })?;
    Ok(())
}
