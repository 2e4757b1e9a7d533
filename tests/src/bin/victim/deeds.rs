//! The verbs of a plan that change the process itself: for tests of what a successor is started with.
#![allow(unsafe_code)]

use std::env;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use nix::libc;
use nix::unistd::{ForkResult, User, fork, geteuid, initgroups, setgid, setuid};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::plan::directory;
use crate::say::say;

/// Does one thing; `false` if there is no such verb.
pub(crate) fn act(generation: u64, verb: &str, argument: &str) -> bool {
    match verb {
        "chdir" => env::set_current_dir(argument).expect("a directory"),
        "setenv" => {
            let (name, value) = argument.split_once(' ').expect("a name and a value");
            set_variable(name, value);
        }
        "unsetenv" => unset_variable(argument),
        // In octal, as umask(1) has it.
        "umask" => {
            let mask = u32::from_str_radix(argument, 8).expect("an octal number");
            rustix::process::umask(Mode::from_bits_truncate(mask));
        }
        // So many descriptors more, which stay open.
        "open" => open_more(argument.parse().expect("a number")),
        // So many KiB of address space are left to this process.
        "memory" => limit_memory(argument.parse().expect("a number")),
        // Runs a program, whose output goes to a file.
        "run" => {
            let (file, command) = argument.split_once(' ').expect("a file and a command");
            let mut words = command.split(' ');
            let output = File::create(directory().join(file)).expect("a file");
            let status = Command::new(words.next().expect("a program")).args(words).stdout(output).status();
            assert!(status.expect("a program").success());
            say(generation, "ran", file);
        }
        // Goes on in another process, of which this thread alone is left, while this one exits with status 0.
        "background" => go_on_in_a_fork(),
        // Leaves a fork behind that does nothing, with all that is open.
        "leave" => {
            leave_a_fork();
            say(generation, "left", "");
        }
        // Fails with this status, or by SIGABRT without one, and leaves a fork behind that does nothing.
        "fail-and-leave" => {
            leave_a_fork();
            let Ok(status) = argument.parse() else { std::process::abort() };
            // SAFETY: it ends this process, whatever its state.
            unsafe { libc::_exit(status) }
        }
        // The same as `background` twice over and in a session of its own, as daemon(7) has it.
        "daemonize" => {
            go_on_in_a_fork();
            rustix::process::setsid().expect("a fork leads no process group");
            go_on_in_a_fork();
        }
        // Becomes this user for good if a directory belongs to it: the recipe of docs/operations.md.
        "drop-privileges" => {
            let (user, directory) = argument.split_once(' ').expect("a user and a directory");
            become_user(user, Path::new(directory)).expect("it may become the user");
            say(generation, "dropped", user);
        }
        // Another thread, which waits for as long as the process lives.
        "thread" => drop(thread::spawn(|| {
            loop {
                thread::park();
            }
        })),
        // Sets a handler with the crate `ctrlc`, and says what comes to it.
        "ctrlc" => {
            let set = ctrlc::set_handler(move || say(generation, "ctrlc", ""));
            say(generation, "ctrlc-set", set.map_or_else(|error| format!("{error:?}"), |()| "ok".to_owned()));
            say(generation, "caught", processes::proc::status("self", "SigCgt").expect("/proc is mounted"));
        }
        // Sets a handler of C for a signal, of this number, and says how often it was called.
        "sigaction" => handle_signal(generation, argument.parse().expect("the number of a signal")),
        // Becomes another program, which knows nothing of the service.
        "become" => {
            let error = Command::new(argument).arg("1000").exec();
            panic!("{argument}: {error}");
        }
        // Starts a program again and again for as long as this process lives, in both ways that std has: with a
        // PATH of its own a child is forked, without it is spawned.
        "breed" => breed(argument),
        _ => return false,
    }
    true
}

fn become_user(name: &str, directory: &Path) -> io::Result<()> {
    let user = User::from_name(name)?.ok_or_else(|| io::Error::other(format!("there is no user {name}")))?;
    if geteuid() == user.uid {
        return Ok(());
    }
    if directory.metadata()?.uid() != user.uid.as_raw() {
        return Err(io::Error::other(format!("{} does not belong to {name}", directory.display())));
    }
    initgroups(&CString::new(name)?, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    Ok(())
}

/// The pipe from the handler of [`handle_signal`] to its thread.
static HANDLED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(signal: libc::c_int) {
    let byte = signal.to_ne_bytes();
    // SAFETY: write(2) may be called in a handler, and the buffer is as long as is said.
    let written = unsafe { libc::write(HANDLED.load(Ordering::SeqCst), byte.as_ptr().cast(), byte.len()) };
    assert_eq!(written, 4);
}

fn handle_signal(generation: u64, number: i32) {
    if HANDLED.load(Ordering::SeqCst) < 0 {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        HANDLED.store(writer.into_raw_fd(), Ordering::SeqCst);
        thread::spawn(move || {
            let mut byte = [0; 4];
            while reader.read_exact(&mut byte).is_ok() {
                say(generation, "handled", i32::from_ne_bytes(byte));
            }
        });
    }
    let handler: extern "C" fn(libc::c_int) = on_signal;
    // SAFETY: the handler does what signal-safety(7) allows.
    let before = unsafe { libc::signal(number, handler as usize) };
    assert_ne!(before, libc::SIG_ERR);
}

fn open_more(count: usize) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the hard limit is allowed");
    for _ in 0..count {
        std::mem::forget(File::open("/dev/null").expect("/dev is there"));
    }
}

fn limit_memory(left_kib: u64) {
    let status = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages: u64 = status.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number");
    let limit = Some(pages * rustix::param::page_size() as u64 + left_kib * 1024);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).expect("less is allowed");
}

fn breed(program: &str) {
    for forked in [false, true] {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if forked {
            command.env("PATH", "/");
        }
        thread::spawn(move || {
            loop {
                assert!(command.status().expect("a program").success());
            }
        });
    }
}

/// It does nothing, and ends with the test.
fn leave_a_fork() {
    // SAFETY: as in `go_on_in_a_fork`.
    if matches!(unsafe { fork() }.expect("a process more"), ForkResult::Child) {
        // Not through std, whose lock another thread may have had.
        while rustix::io::read(rustix::stdio::stdin(), &mut [0; 64]).is_ok_and(|count| count > 0) {}
        // SAFETY: it ends this process, whatever its state.
        unsafe { libc::_exit(0) }
    }
}

fn go_on_in_a_fork() {
    // SAFETY: what the child does after it is what a release does that knows no better; this program is there to be one.
    match unsafe { fork() }.expect("a process more") {
        ForkResult::Child => {}
        // SAFETY: it ends this process, whatever its state.
        ForkResult::Parent { .. } => unsafe { libc::_exit(0) },
    }
}

fn assert_one_thread() {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc is mounted").count();
    assert_eq!(tasks, 1, "a variable is set at the point `main`");
}

fn unset_variable(name: &str) {
    assert_one_thread();
    // SAFETY: this process has one thread, so nobody else reads or writes the environment.
    unsafe { env::remove_var(name) };
}

fn set_variable(name: &str, value: &str) {
    assert_one_thread();
    // SAFETY: this process has one thread, so nobody else reads or writes the environment.
    unsafe { env::set_var(name, value) };
}
