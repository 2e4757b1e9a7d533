//! The first call of a program that starts services, so that a service receives every signal.
//!
//! A shell without job control starts a background job with SIGINT and SIGQUIT ignored, nohup(1) starts its program with SIGHUP
//! ignored, and an ignored signal stays ignored through every exec. A test that sends such a signal to a service would wait in vain.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// The signals that stay as they are. The actions of SIGKILL and SIGSTOP cannot change; a job that ignores the stop signals of its
/// terminal goes on; std gives its children the default action of SIGPIPE.
const LEFT_ALONE: [libc::c_int; 6] =
    [libc::SIGKILL, libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGPIPE];

/// From now on a process that this one starts has the default action for every signal. If this thread or a thread that it makes
/// starts the process, no signal is blocked either. This process itself goes on ignoring the signals that it was started to ignore.
///
/// # Panics
///
/// The system is not POSIX.
pub fn default_for_children() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in (1..=libc::SIGRTMAX()).filter(|signal| !LEFT_ALONE.contains(signal)) {
            handle_if_ignored(signal);
        }
    });
    // Of each thread: a thread of tests may have been made before the first call.
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).expect("a mask can be set");
}

/// Gives an ignored signal a handler that does nothing. For this process that is the same, and exec gives a signal with a handler
/// its default action, signal(7).
fn handle_if_ignored(signal: libc::c_int) {
    let mut now = MaybeUninit::uninit();
    // SAFETY: a null pointer changes nothing, and the present action is stored in `now`.
    if unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) } != 0 {
        // The C library keeps two for itself.
        return;
    }
    // SAFETY: the call above has stored it.
    let mut action: libc::sigaction = unsafe { now.assume_init() };
    if action.sa_sigaction != libc::SIG_IGN {
        return;
    }
    action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // No read or write of this process is to fail because of it.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does nothing, which every moment allows.
    let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(result, 0, "signal {signal} was ignored, so it can be handled");
}

extern "C" fn do_nothing(_: libc::c_int) {}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;

    use super::*;

    /// In which the test runs itself once more, as a script with nohup would.
    const INNER: &str = "SIGNALS_INNER";

    #[test]
    fn what_is_started_has_the_default_actions_and_none_blocked() {
        if env::var_os(INNER).is_none() {
            let mut again = Command::new("env");
            again.args(["--ignore-signal=HUP,INT,QUIT,USR1,RTMIN+3", "--block-signal=TERM,INT,USR2,RTMIN+4"]);
            let test = "signals::tests::what_is_started_has_the_default_actions_and_none_blocked";
            again.arg(env::current_exe().unwrap()).args(["--exact", test]).env(INNER, "1");
            let output = again.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
            return;
        }
        let sets = || {
            let output =
                Command::new("grep").args(["Sig[BI][lg][kn]:", "/proc/self/status"]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let set = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            text.lines().map(set).collect::<Vec<_>>()
        };
        let before = sets();
        assert!(
            before.len() == 2 && before.iter().all(|set| *set != 0),
            "nothing has been shown: {before:x?}"
        );
        default_for_children();
        // Those that the C library keeps for its threads, nptl(7), posix_spawn has children ignore.
        let of_the_library = 0b11 << 31;
        assert_eq!(sets().iter().map(|set| set & !of_the_library).collect::<Vec<_>>(), [0, 0]);
        // The process itself still ignores what ends one that does not.
        // SAFETY: raise takes any number.
        assert_eq!(unsafe { libc::raise(libc::SIGHUP) }, 0);
    }
}
