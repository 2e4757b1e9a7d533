//! For tests: makes a system call fail in one thread, by a seccomp(2) filter.
#![allow(unsafe_code)]

use std::thread;

use nix::errno::Errno;
use nix::libc::{self, BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};

/// Runs `f` in a thread of its own, where this system call fails. A filter cannot be removed: it ends with the thread.
pub(crate) fn failing<T: Send>(call: libc::c_long, errno: Errno, f: impl FnOnce() -> T + Send) -> T {
    let in_thread = || {
        install(call, errno);
        f()
    };
    thread::scope(|scope| scope.spawn(in_thread).join()).unwrap()
}

fn install(call: libc::c_long, errno: Errno) {
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        // The number of the call is the first field of `seccomp_data`.
        statement(BPF_LD | BPF_W | BPF_ABS, 0),
        libc::sock_filter { jf: 1, ..statement(BPF_JMP | BPF_JEQ | BPF_K, call as u32) },
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the arguments are numbers.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    Errno::result(result).unwrap();
    // SAFETY: the program and its statements outlive the call, which copies them.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(result).unwrap();
}
