//! The plan of a victim: what it does at which point of its life, as a test has written it.
//!
//! The file `plan` in the directory of the test has one line for each process that is still to be started; a process
//! takes the first. So two generations differ though they have the same arguments and the same environment.
//!
//! A line is a list of `POINT VERB ARGUMENT`, separated by `;`. A point is `main` (before tableflip has done
//! anything), `listen` (which listeners are declared, `name`, `pidfile` and `version`), `prepare` (they are bound, and there is no body
//! yet), `init` (at the start of the body), `serve` (the body has asked every listener for a connection), `shutdown` (the body
//! sees `Shutdown` raised), `move` (see `moving.rs`), `get` (a request of HTTP has come; see `web.rs`), or the `WHAT` of a line on stdout, such as `serving`. The verbs are those of [`act`] and, at
//! `listen`, `init` and `shutdown`, those in `main.rs`.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{
    PidfdFlags, PidfdGetfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_getfd, pidfd_open,
};
use rustix::stdio::stdin;

use crate::deeds;
use crate::say::say;

#[derive(Debug, Default)]
pub(crate) struct Plan {
    entries: Vec<(String, String)>,
}

static PLAN: OnceLock<Plan> = OnceLock::new();

/// The directory of the test.
pub(crate) fn directory() -> PathBuf {
    std::env::var_os("VICTIM_DIR").expect("VICTIM_DIR names the directory of the test").into()
}

impl Plan {
    /// Takes the plan that is meant for this process.
    pub(crate) fn take() -> &'static Self {
        PLAN.get_or_init(|| {
            let path = directory().join("plan");
            let text = fs::read_to_string(&path).unwrap_or_default();
            let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
            fs::write(&path, rest).expect("the plan can be written");
            let entry = |entry: &str| {
                let (point, verb) = entry.trim().split_once(' ').expect("a point and a verb");
                (point.to_owned(), verb.trim().to_owned())
            };
            Self { entries: first.split(';').filter(|entry| !entry.trim().is_empty()).map(entry).collect() }
        })
    }

    pub(crate) fn of_this_process() -> &'static Self {
        PLAN.get().expect("the plan is taken first")
    }

    /// What to do at this point. A step of the life cycle is known by the beginning of its phase.
    pub(crate) fn at(&self, point: &str) -> impl Iterator<Item = &str> {
        let is_here = move |at: &str| at == point || at.starts_with("step:") && point.starts_with(at);
        self.entries.iter().filter(move |(at, _)| is_here(at)).map(|(_, verb)| verb.as_str())
    }

    /// Does what is to be done at this point, of what can be done anywhere.
    pub(crate) fn carry_out(&self, generation: u64, point: &str) {
        self.at(point).for_each(|verb| act(generation, verb));
    }
}

/// Does one thing that can be done in any thread.
pub(crate) fn act(generation: u64, verb: &str) {
    let (verb, argument) = verb.split_once(' ').unwrap_or((verb, ""));
    match verb {
        #[expect(clippy::exit, reason = "misbehaving is what this program is for")]
        "exit" => std::process::exit(argument.parse().expect("a status")),
        "panic" => panic!("{argument}"),
        "abort" => std::process::abort(),
        // Twice, because std's handler of SIGSEGV takes the first and resets itself.
        "signal" => loop {
            kill_process(getpid(), signal(argument)).expect("a process may end itself");
        },
        "gate" => gate(generation, argument),
        // Blocks this thread for as long as the test runs.
        "block" => {
            say(generation, "blocked", "");
            wait_for_the_end_of_the_test();
        }
        // Reaps a child of this process, whoever started it, as libraries do that wait for every child there is.
        "reap" => match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) => say(generation, "reaped", ""),
            Err(error) => say(generation, "reaped", error),
        },
        "clear-nonblock" => {
            clear_nonblock();
            say(generation, "cleared", "");
        }
        "shut-listeners" => {
            shut_listeners();
            say(generation, "shut", "");
        }
        "say" => say(generation, "said", argument),
        _ => assert!(deeds::act(generation, verb, argument), "there is no verb `{verb}`"),
    }
}

/// Clears O_NONBLOCK on every listening socket of this process, as code that wants to block in accept does.
fn clear_nonblock() {
    for fd in listening() {
        let flags = fcntl_getfl(&fd).expect("it is open");
        fcntl_setfl(&fd, flags - OFlags::NONBLOCK).expect("it is open");
    }
}

/// Shuts down every listening socket of this process, as code does that wants to wake a thread in accept.
fn shut_listeners() {
    for fd in listening() {
        match rustix::net::shutdown(&fd, rustix::net::Shutdown::Both) {
            // It has another descriptor here, by which it is shut down already.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => {}
            Err(error) => panic!("shutdown: {error}"),
        }
    }
}

/// The TCP sockets of this process that listen.
fn listening() -> Vec<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty()).expect("a process can be opened by itself");
    let entries = fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
    let numbers =
        entries.map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("a number"));
    // Duplicates that need no trust in the numbers; that of the directory is closed by now.
    let fds = numbers.filter_map(|number| pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).ok());
    fds.filter(|fd| matches!(rustix::net::sockopt::socket_acceptconn(fd), Ok(true))).collect()
}

fn signal(name: &str) -> Signal {
    match name {
        "KILL" => Signal::KILL,
        "SEGV" => Signal::SEGV,
        "TERM" => Signal::TERM,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        _ => panic!("there is no signal `{name}` here"),
    }
}

/// Blocks this thread until the test opens the gate, which is a FIFO, with one byte.
fn gate(generation: u64, name: &str) {
    let path = directory().join(format!("gate-{name}"));
    // Not blocking, so that the wait below can watch two descriptors; a FIFO that nobody has opened for writing is
    // merely quiet.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fifo = rustix::fs::open(&path, flags, Mode::empty()).expect("the test made the gate first");
    say(generation, "gate", name);
    loop {
        let mut fds = [PollFd::new(&fifo, PollFlags::IN), PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("cannot wait at a gate: {error}"),
        }
        if fds[1].revents().contains(PollFlags::HUP) {
            leave();
        }
        if matches!(rustix::io::read(&fifo, &mut [0_u8]), Ok(1)) {
            return;
        }
    }
}

/// Returns never: ends this process when the test is over.
///
/// Stdin is a pipe whose other end only the test has, so that its end tells even of a test that was killed.
pub(crate) fn wait_for_the_end_of_the_test() -> ! {
    loop {
        if let Ok(0) = rustix::io::read(stdin(), &mut [0_u8]) {
            leave();
        }
    }
}

fn leave() -> ! {
    loop {
        kill_process(getpid(), Signal::KILL).expect("a process may end itself");
    }
}
