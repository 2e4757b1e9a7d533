//! Starts the service `src/bin/plain.rs`, whose body has no runtime.
#![allow(dead_code, reason = "what one binary of tests does not use, another does")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

use processes::{DEADLINE, Signal, find, signal_group};
use tests::client::Client;

/// The directory of a test, which is the first working directory of its service.
pub(crate) struct Dir {
    temp: tempfile::TempDir,
}

impl Dir {
    pub(crate) fn new() -> Self {
        processes::default_for_children();
        Self { temp: tempfile::Builder::new().prefix("tableflip-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// The service, with nothing in its environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plain"));
        command.current_dir(self.path()).env_clear();
        command
    }

    /// What the pid file of this name has in it.
    pub(crate) fn pidfile(&self, name: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.join(name)).ok()
    }

    /// Waits for the pid file of this name, which is written a moment after the first answer.
    pub(crate) fn wait_for_pidfile(&self, name: impl AsRef<Path>) -> String {
        find(&format!("pid file {}", name.as_ref().display()), || self.pidfile(&name))
    }
}

/// A service in all its generations.
pub(crate) struct Plain {
    first: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Its end is that of every process.
    lifeline: Option<Sender<()>>,
    log: PathBuf,
}

/// What a process says when it starts.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    pub(crate) address: SocketAddr,
}

impl Plain {
    pub(crate) fn start(dir: &Dir, mut command: Command) -> Self {
        let log = dir.join("log");
        let file = fs::File::create(&log).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).process_group(0);
        let mut first = command.spawn().unwrap();
        let lines = BufReader::new(first.stdout.take().unwrap()).lines();
        let first_stdin = first.stdin.take().unwrap();
        let lifeline = Some(keep_alive(&first, first_stdin));
        Self { first, lines, lifeline, log }
    }

    /// Starts it with these variables, and waits until it serves.
    pub(crate) fn serve(dir: &Dir, variables: &[(&str, &str)]) -> (Self, Hello) {
        let mut command = dir.command();
        command.envs(variables.iter().copied());
        let mut plain = Self::start(dir, command);
        let hello = plain.hello();
        assert_eq!((hello.pid, hello.generation), (plain.first.id(), 1));
        let who = Client::tcp(hello.address).ask("who");
        assert_eq!(who, format!("1 {}", hello.pid));
        (plain, hello)
    }

    /// The process that was started.
    pub(crate) fn first_pid(&self) -> u32 {
        self.first.id()
    }

    /// Waits for the next process to say that it has started.
    pub(crate) fn hello(&mut self) -> Hello {
        let Some(line) = self.lines.next() else { panic!("it has ended: {}", self.log()) };
        let line = line.unwrap();
        let mut words = line.split(' ');
        let mut word = || words.next().expect("three words");
        Hello {
            pid: word().parse().unwrap(),
            generation: word().parse().unwrap(),
            address: word().parse().unwrap(),
        }
    }

    /// What the processes wrote to stderr.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// The end of the first process.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        self.first.wait().unwrap()
    }

    /// Waits until every process has ended.
    pub(crate) fn end(&mut self) {
        let more = self.lines.next().transpose().unwrap();
        assert_eq!(more, None, "{}", self.log());
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- stderr of the service\n{}---", self.log());
        }
        drop(self.lifeline.take());
        match self.first.wait() {
            Ok(_) | Err(_) => {}
        }
    }
}

/// Ends every process when the sender is dropped, or, if one hangs, when the test has taken too long: whatever it waits for
/// has an end then.
fn keep_alive(first: &Child, stdin: ChildStdin) -> Sender<()> {
    let leader = first.id();
    let (lifeline, end) = mpsc::channel();
    thread::spawn(move || {
        if end.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the service is ended after {DEADLINE:?}");
        }
        // Those of a supervised service, which are in another group, end with their stdin.
        drop(stdin);
        signal_group(leader, Signal::KILL).unwrap();
    });
    lifeline
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    processes::signal(pid, signal).unwrap();
}

/// The exit status and the stderr of a service that is not to start.
pub(crate) fn fail_to_start<N: AsRef<OsStr>, V: AsRef<OsStr>>(variables: &[(N, V)]) -> (Option<i32>, String) {
    let dir = Dir::new();
    let mut command = dir.command();
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut plain = Plain::start(&dir, command);
    // What its body says before the end is no matter here.
    plain.lines.by_ref().for_each(drop);
    (plain.exit().code(), plain.log())
}
