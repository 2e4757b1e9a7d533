//! Runs a program with one more descriptor, whose number is in `TABLEFLIP_HANDOVER`: as a predecessor starts its successor, for a
//! test that plays the predecessor.
//!
//! ```text
//! with_channel channel PATH PROGRAM...    a channel whose other end the test has, who listens at PATH
//! with_channel closed - PROGRAM...        a channel whose other end is closed
//! with_channel twice - PROGRAM...         the same, and its number is in `TABLEFLIP_SUPERVISOR` as well
//! with_channel listen - PROGRAM...        the same, and it is the last of those of a service manager as well
//! with_channel stream - PROGRAM...        a stream socket
//! with_channel internet - PROGRAM...      a TCP socket
//! with_channel file PATH PROGRAM...       a regular file
//! with_channel passed PATH PROGRAM...     no channel: a TCP listener as `systemfd --no-pid` passes it, whose address goes to PATH
//! with_channel predecessor                is the process of a predecessor, see `tests::channel::Predecessor`
//! ```
//!
//! The process stays the same one, so that the test knows the program by the process that it has started.

use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tests::channel::{HANDOVER, be_a_predecessor, connect_to};

fn main() {
    let args: Vec<_> = env::args_os().skip(1).collect();
    if args == ["predecessor"] {
        return be_a_predecessor();
    }
    let [kind, argument, program, rest @ ..] = &args[..] else { panic!("usage: KIND ARGUMENT PROGRAM...") };
    if kind == "passed" {
        return pass_listener(Path::new(argument), Command::new(program).args(rest));
    }
    // Kept until the exec: what was a pair is not to be half closed before.
    let (fd, _other): (OwnedFd, Option<OwnedFd>) = match kind.to_str() {
        Some("channel") => (connect_to(Path::new(argument)), None),
        Some("closed" | "twice" | "listen") => {
            let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
            (pair.expect("a pair").0, None)
        }
        Some("stream") => {
            let (one, other) = UnixStream::pair().expect("a pair");
            (one.into(), Some(other.into()))
        }
        Some("internet") => (TcpListener::bind("127.0.0.1:0").expect("a port").into(), None),
        Some("file") => (File::open(argument).expect("a file").into(), None),
        _ => panic!("there is no kind {kind:?}"),
    };
    // This process has one thread and starts no child but itself.
    fcntl_setfd(&fd, FdFlags::empty()).expect("a descriptor");
    let number = fd.as_raw_fd();
    let mut command = Command::new(program);
    command.args(rest).env(HANDOVER, number.to_string());
    match kind.to_str() {
        Some("twice") => _ = command.env("TABLEFLIP_SUPERVISOR", number.to_string()),
        // Those of a manager are from number 3 on. It is the lowest that was free, so that all up to it are open.
        Some("listen") => {
            command.env("LISTEN_PID", process::id().to_string()).env("LISTEN_FDS", (number - 2).to_string());
        }
        _ => {}
    }
    let error = command.exec();
    panic!("cannot run {program:?}: {error}");
}

/// Runs a program with a listener of the name `echo`, and does not say which process it is for.
fn pass_listener(at: &Path, command: &mut Command) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    fs::write(at, listener.local_addr().expect("it is bound").to_string()).expect("a file");
    fcntl_setfd(&listener, FdFlags::empty()).expect("a descriptor");
    assert_eq!(listener.as_raw_fd(), 3, "the first number that a manager passes is free");
    let error = command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "echo").exec();
    panic!("{error}");
}
