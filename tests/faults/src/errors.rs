//! The system calls of a handover, and the errors that each of them can return, by their man pages.
//!
//! Not among them: close(2), which has closed the descriptor on Linux whatever it returns; brk(2) and mmap(2), for Rust ends a
//! program that gets no memory, which is a kill at that call.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use nix::errno::Errno;
use nix::libc;

type Errors = (i64, &'static str, &'static [Errno]);

const CALLS: &[Errors] = &[
    (libc::SYS_socketpair, "socketpair", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM]),
    (libc::SYS_pipe2, "pipe2", &[Errno::EMFILE, Errno::ENFILE]),
    (libc::SYS_socket, "socket", &[Errno::EMFILE, Errno::ENOBUFS]),
    (
        libc::SYS_sendmsg,
        "sendmsg",
        &[Errno::EAGAIN, Errno::ENOBUFS, Errno::ENOMEM, Errno::EPIPE, Errno::EINTR],
    ),
    (libc::SYS_recvmsg, "recvmsg", &[Errno::EINTR, Errno::ENOMEM, Errno::ECONNRESET]),
    (libc::SYS_clone3, "clone3", &[Errno::EAGAIN, Errno::ENOMEM]),
    (libc::SYS_clone, "clone", &[Errno::EAGAIN, Errno::ENOMEM]),
    (
        libc::SYS_execve,
        "execve",
        &[
            Errno::ENOENT,
            Errno::EACCES,
            Errno::E2BIG,
            Errno::ETXTBSY,
            Errno::ENOMEM,
            Errno::ELOOP,
            Errno::ENOEXEC,
            Errno::EIO,
        ],
    ),
    (libc::SYS_pidfd_open, "pidfd_open", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM]),
    (libc::SYS_fcntl, "fcntl", &[Errno::EMFILE]),
    (libc::SYS_eventfd2, "eventfd2", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM]),
    (libc::SYS_memfd_create, "memfd_create", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM]),
    (libc::SYS_epoll_create1, "epoll_create1", &[Errno::EMFILE, Errno::ENOMEM]),
    (libc::SYS_epoll_ctl, "epoll_ctl", &[Errno::ENOMEM, Errno::ENOSPC]),
    (libc::SYS_epoll_wait, "epoll_wait", &[Errno::EINTR]),
    (libc::SYS_poll, "poll", &[Errno::EINTR, Errno::ENOMEM]),
    (
        libc::SYS_openat,
        "openat",
        &[Errno::EMFILE, Errno::ENFILE, Errno::EACCES, Errno::ENOENT, Errno::ENOSPC, Errno::EROFS],
    ),
    (libc::SYS_read, "read", &[Errno::EIO]),
    (libc::SYS_write, "write", &[Errno::EINTR, Errno::ENOSPC, Errno::EIO]),
    (libc::SYS_chdir, "chdir", &[Errno::EACCES, Errno::ENOENT]),
    (libc::SYS_getcwd, "getcwd", &[Errno::ENOENT]),
    (libc::SYS_prlimit64, "prlimit64", &[Errno::EPERM]),
    (libc::SYS_rename, "rename", &[Errno::EACCES, Errno::ENOSPC, Errno::EROFS]),
    (libc::SYS_unlink, "unlink", &[Errno::EACCES, Errno::EROFS]),
    (libc::SYS_statx, "statx", &[Errno::EACCES, Errno::ENOMEM]),
    (libc::SYS_getsockname, "getsockname", &[Errno::ENOBUFS]),
    (libc::SYS_getsockopt, "getsockopt", &[Errno::ENOMEM]),
    (libc::SYS_setsockopt, "setsockopt", &[Errno::ENOMEM]),
    (libc::SYS_ioctl, "ioctl", &[Errno::EBADF]),
    (libc::SYS_listen, "listen", &[Errno::EADDRINUSE]),
    (
        libc::SYS_accept4,
        "accept4",
        &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ECONNABORTED, Errno::EINTR],
    ),
    (libc::SYS_waitid, "waitid", &[Errno::EINTR, Errno::ECHILD]),
];

/// Whether a call is one that can return these errors: of an eventfd that has room or something to be read, eventfd(2), neither
/// can fail, and of what fcntl(2) does only F_DUPFD takes a new descriptor. A pipe that is broken is said of a stream and its
/// like, which the socket of a service manager is not.
pub(crate) fn can_fail(process: i32, call: i64, error: Errno, [fd, operation]: [u64; 2]) -> bool {
    match call {
        libc::SYS_sendmsg => error != Errno::EPIPE || !is_datagram(process, fd),
        libc::SYS_read | libc::SYS_write => {
            let target = fs::read_link(format!("/proc/{process}/fd/{fd}")).unwrap_or_default();
            target.as_os_str() != "anon_inode:[eventfd]"
        }
        libc::SYS_fcntl => operation == u64::from(libc::F_DUPFD_CLOEXEC.unsigned_abs()),
        _ => true,
    }
}

/// Whether a descriptor is a Unix datagram socket, by the list of proc_pid_net(5).
fn is_datagram(process: i32, fd: u64) -> bool {
    const DATAGRAM: &str = "0002";
    let target = fs::read_link(format!("/proc/{process}/fd/{fd}")).unwrap_or_default();
    let target = target.to_string_lossy();
    let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
    let list = fs::read_to_string(format!("/proc/{process}/net/unix")).unwrap_or_default();
    list.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(4);
        (fields.next(), fields.nth(1)) == (Some(DATAGRAM), inode)
    })
}

/// Whether a text names the error of a call: pthread_create(3) says EAGAIN for a clone(2) that had no memory.
pub(crate) fn is_named(text: &str, call: i64, error: Errno) -> bool {
    let is_clone = matches!(call, libc::SYS_clone | libc::SYS_clone3);
    // As strerror(3) has it: the dynamic linker does not say the number.
    let named = |error| {
        let said = io::Error::from(error).to_string();
        text.contains(said.split(" (os error").next().unwrap_or(&said))
    };
    named(error) || is_clone && named(Errno::EAGAIN)
}

/// Each call with each of its errors.
pub(crate) fn all() -> impl Iterator<Item = (i64, Errno)> {
    CALLS.iter().flat_map(|(call, _, errors)| errors.iter().map(|error| (*call, *error)))
}

/// Those calls of which none of these is.
pub(crate) fn others(made: &BTreeMap<String, usize>) -> Vec<&'static str> {
    CALLS.iter().map(|(_, name, _)| *name).filter(|name| !made.contains_key(*name)).collect()
}

/// What a system call is called; its number, if it is none of those that can be made to fail.
pub(crate) fn name(call: i64) -> String {
    let known = CALLS.iter().find(|(number, ..)| *number == call);
    known.map_or_else(|| format!("number {call}"), |(_, name, _)| (*name).to_owned())
}
