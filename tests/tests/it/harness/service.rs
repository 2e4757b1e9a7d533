//! A service that runs, in all its generations, and what they say.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use processes::{adopt_orphans, pidfile};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{Client, Command, DEADLINE, Gate, Process, Signal, add_to_plan};

/// A service that runs: all its generations.
pub(crate) struct Service {
    dir: PathBuf,
    first: Process,
    heard: Arc<Heard>,
    reader: Option<JoinHandle<()>>,
    /// Its end is how a victim learns that the test is over.
    lifeline: Option<ChildStdin>,
}

/// The lines of all processes.
struct Heard {
    /// The pipe that the processes write to.
    pipe: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The lines that no wait has taken.
    lines: Vec<Line>,
    /// All of them, as they came.
    transcript: String,
    /// The begin of a line whose end is not read yet.
    unfinished: Vec<u8>,
    processes: HashMap<u32, Process>,
    /// The addresses of the IP listeners, by name.
    addresses: HashMap<String, String>,
    /// Every process that had stdout is dead.
    ended: bool,
}

/// One line of a process.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) pid: u32,
    pub(crate) what: String,
    pub(crate) text: String,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let pid = words.next()?.parse().ok()?;
        // For those who read the transcript; a test asks a client for it.
        words.next()?.parse::<u64>().ok()?;
        Some(Self { pid, what: words.next()?.to_owned(), text: words.next().unwrap_or_default().to_owned() })
    }

    /// A step is known by the name of its phase; what else a phase has in it is the product's own business.
    fn is(&self, process: &Process, what: &str) -> bool {
        let is_what = if what.starts_with("step:") { self.what.starts_with(what) } else { self.what == what };
        self.pid == process.pid() && is_what
    }
}

impl State {
    fn take_down(&mut self, line: &str) {
        self.transcript.push_str(line);
        if let Some(line) = Line::parse(line.trim_end_matches('\n')) {
            // At the first word of a process, so that its number cannot be another's by now.
            self.processes.entry(line.pid).or_insert_with(|| Process::open(line.pid));
            if line.what == "listening" {
                let (name, address) = line.text.split_once(' ').expect("a name and an address");
                self.addresses.insert(name.to_owned(), address.to_owned());
            }
            self.lines.push(line);
        }
    }
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that fails while it waits has changed nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is in the pipe, and waits until something is. False at its end.
    ///
    /// The wait is without the lock and the read with it. So a test that has the lock, and finds the pipe empty, has every line
    /// that was written before.
    fn read(&self) -> bool {
        let mut pipe = [PollFd::new(&self.pipe, PollFlags::IN)];
        let polled = poll(&mut pipe, None);
        assert!(matches!(polled, Ok(_) | Err(Errno::INTR)), "poll: {polled:?}");
        let mut block = [0; 4096];
        let mut state = self.lock();
        let length = rustix::io::read(&self.pipe, &mut block).expect("the pipe can be read");
        state.ended = length == 0;
        state.unfinished.extend_from_slice(&block[..length]);
        while let Some(end) = state.unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = state.unfinished.drain(..=end).collect();
            state.take_down(&String::from_utf8_lossy(&line));
        }
        self.changed.notify_all();
        !state.ended
    }

    /// All lines that were written before this call.
    fn transcript(&self) -> String {
        let mut state = self.lock();
        while !state.ended && rustix::io::ioctl_fionread(&self.pipe).expect("a pipe") > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.transcript.clone()
    }

    /// Waits until `look` finds something in what a process says.
    fn wait<T>(&self, what: impl Fn() -> String, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        self.wait_or_end(&what, |state| {
            let found = look(state);
            assert!(found.is_some() || !state.ended, "every process is dead, and there was no {}", what());
            found
        })
    }

    /// The same, though every process may be dead.
    fn wait_or_end<T>(&self, what: impl Fn() -> String, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "there was no {}", what());
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Service {
    pub(super) fn start(command: Command<'_>) -> Self {
        adopt_orphans().expect("PR_SET_CHILD_SUBREAPER");
        let dir = command.dir.path().to_owned();
        let log = File::options().append(true).create(true).open(dir.join("log")).expect("a file for stderr");
        let mut start = std::process::Command::new(&command.program);
        start
            .args(&command.args)
            .env_clear()
            .envs(&command.env)
            .env("VICTIM_LISTEN", command.listeners.join("\n"))
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C at the terminal of the tests is not meant for it.
            .process_group(0);
        if let Some(name) = &command.arg0 {
            start.arg0(name);
        }
        #[expect(
            clippy::zombie_processes,
            reason = "it is waited for by its pidfd, at the latest by the drop"
        )]
        let mut child = start.spawn().unwrap_or_else(|error| panic!("cannot start {start:?}: {error}"));
        let first = Process::open(child.id());
        let pipe = child.stdout.take().expect("it is a pipe").into();
        let heard = Arc::new(Heard { pipe, state: Mutex::default(), changed: Condvar::new() });
        heard.lock().processes.insert(first.pid(), first.clone());
        let reader = {
            let heard = heard.clone();
            thread::spawn(move || while heard.read() {})
        };
        Self { dir, first, heard, reader: Some(reader), lifeline: child.stdin.take() }
    }

    /// The process that the test started; the others are its descendants.
    pub(crate) fn first(&self) -> &Process {
        &self.first
    }

    /// Adds a line to the plan: what the next process that is started does; `src/bin/victim/plan.rs`.
    pub(crate) fn plan(&self, line: &str) {
        add_to_plan(&self.dir, line);
    }

    /// Waits for a process that no call of this has returned yet.
    pub(crate) fn next_process(&self) -> Process {
        self.heard.wait(
            || "next process".to_owned(),
            |state| {
                let line = take(state, |line| line.what == "main")?;
                Some(state.processes[&line.pid].clone())
            },
        )
    }

    /// Waits for the process that `old` says it has started; it may not have said anything itself yet.
    pub(crate) fn successor_of(&self, old: &Process) -> Process {
        let line = self.wait_for(old, "upgrading", "started a successor");
        let pid = line.text.split("successor=").nth(1).and_then(|text| text.split(' ').next());
        self.process(pid.and_then(|pid| pid.parse().ok()).expect("it says which"))
    }

    /// The process of this number, which the service has named.
    pub(crate) fn process(&self, pid: u32) -> Process {
        self.heard.lock().processes.entry(pid).or_insert_with(|| Process::open(pid)).clone()
    }

    /// Every process so far, dead or alive.
    pub(crate) fn processes(&self) -> Vec<Process> {
        self.heard.lock().processes.values().cloned().collect()
    }

    /// Waits for a line of a process, and takes it.
    pub(crate) fn wait(&self, process: &Process, what: &str) -> Line {
        self.wait_for(process, what, "")
    }

    /// Waits for a line of a process whose text contains `text`, and takes it.
    pub(crate) fn wait_for(&self, process: &Process, what: &str, text: &str) -> Line {
        self.heard.wait(
            || format!("`{what}` with `{text}` of {process:?}"),
            |state| take(state, |line| line.is(process, what) && line.text.contains(text)),
        )
    }

    /// Waits for one of two lines, and takes it; whether it is the first.
    pub(crate) fn wait_for_either(&self, one: (&Process, &str), other: (&Process, &str)) -> bool {
        self.heard.wait(
            || format!("`{}` of {:?}, nor `{}` of {:?}", one.1, one.0, other.1, other.0),
            |state| {
                let mut is =
                    |(process, what): (&Process, &str)| take(state, |line| line.is(process, what)).is_some();
                is(one).then_some(true).or_else(|| is(other).then_some(false))
            },
        )
    }

    /// Whether a process has said this by now, taken or not.
    pub(crate) fn has_said(&self, process: &Process, what: &str) -> bool {
        let said = |line: Line| line.is(process, what);
        self.transcript().lines().filter_map(Line::parse).any(said)
    }

    /// All lines so far.
    pub(crate) fn transcript(&self) -> String {
        self.heard.transcript()
    }

    /// Waits until every process that has the stdout of the service is dead.
    pub(crate) fn wait_until_all_are_gone(&self) {
        let is_ended = |state: &mut State| state.ended.then_some(());
        self.heard.wait_or_end(|| "end of every process".to_owned(), is_ended);
    }

    /// Starts an upgrade; returns the successor. Earlier lines that no wait has taken are dropped.
    pub(crate) fn start_upgrade(&self, old: &Process) -> Process {
        self.heard.lock().lines.clear();
        old.signal(Signal::HUP);
        self.next_process()
    }

    /// Starts an upgrade and waits until the successor is at this point of its plan, where it waits for the gate.
    pub(crate) fn start_upgrade_to(&self, old: &Process, point: &str) -> (Process, Gate) {
        let gate = Gate::new(&self.dir, "here");
        self.plan(&format!("{point} gate here"));
        let new = self.start_upgrade(old);
        self.wait(&new, "gate");
        (new, gate)
    }

    /// Starts an upgrade that ends by a deadline, at which the successor may have yet to say its first word: on a machine that is
    /// busy it takes its time to come to `main`.
    pub(crate) fn start_late_upgrade(&self, old: &Process) -> Process {
        self.heard.lock().lines.clear();
        old.signal(Signal::HUP);
        self.successor_of(old)
    }

    /// Starts an upgrade and waits until the successor serves and `old` knows it.
    pub(crate) fn upgrade(&self, old: &Process) -> Process {
        let new = self.start_upgrade(old);
        self.wait_until_it_serves(&new);
        self.wait(old, "standby");
        new
    }

    /// Upgrades, and waits until `old` drains with this many connections.
    pub(crate) fn upgrade_to_drain(&self, old: &Process, open: usize) -> Process {
        let new = self.upgrade(old);
        self.wait_for(old, "draining", &format!("open={open}"));
        new
    }

    /// Waits until a process has the pid file and is done with taking over.
    pub(crate) fn wait_until_it_serves(&self, process: &Process) {
        self.wait(process, "serving");
        self.wait(process, "step:Serving");
    }

    /// Waits until an upgrade has failed and `old` serves as if there had been none; says why it failed.
    pub(crate) fn wait_for_failure(&self, old: &Process) -> String {
        let reason = self.wait_for(old, "error", "upgrade failed: ").text;
        self.wait(old, "step:Serving");
        reason
    }

    /// Waits until a successor that has failed is dead, and `old` knows it.
    pub(crate) fn wait_until_it_is_gone(&self, old: &Process, new: &Process) {
        self.wait_for(old, "info", "the successor is gone");
        assert!(new.is_gone());
    }

    /// A connection to the listener `echo`.
    pub(crate) fn connect(&self) -> Client {
        self.connect_to("echo")
    }

    /// A connection to the listener `echo` that this process has accepted.
    pub(crate) fn open(&self, process: &Process) -> Client {
        let mut client = self.connect();
        assert_eq!(client.who().1, process.pid());
        client
    }

    /// A connection to a TCP listener.
    pub(crate) fn connect_to(&self, name: &str) -> Client {
        Client::tcp(self.address(name))
    }

    /// A connection to a listener of [`Command::listen_unix`].
    pub(crate) fn connect_unix(&self, name: &str) -> Client {
        Client::unix(&self.dir.join(name))
    }

    /// The address that an IP listener is bound to.
    pub(crate) fn address(&self, name: &str) -> String {
        self.heard.wait(|| format!("address of `{name}`"), |state| state.addresses.get(name).cloned())
    }

    /// The process that answers a new connection to the listener `echo`.
    pub(crate) fn served_by(&self) -> u32 {
        self.connect().who().1
    }

    /// The process that the pid file names, if there is a pid file.
    pub(crate) fn pidfile(&self) -> Option<u32> {
        match pidfile(&self.dir.join("pid")) {
            Ok(pid) => Some(pid),
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::InvalidData, "{error}");
                None
            }
        }
    }

    /// A new client is answered by this process, and the pid file names it.
    #[track_caller]
    pub(crate) fn assert_serves(&self, process: &Process) {
        assert_eq!((self.served_by(), self.pidfile()), (process.pid(), Some(process.pid())));
    }

    /// There is no pid file, and no process is left.
    #[track_caller]
    pub(crate) fn assert_over(&self) {
        assert_eq!(self.pidfile(), None);
        self.wait_until_all_are_gone();
    }

    /// What the processes wrote to stderr.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

fn take(state: &mut State, matches: impl Fn(&Line) -> bool) -> Option<Line> {
    let at = state.lines.iter().position(matches)?;
    Some(state.lines.remove(at))
}

impl Drop for Service {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- what they said\n{}--- what they logged\n{}---", self.transcript(), self.log());
        }
        // All of them are in one process group, unless a test has moved one; its number is theirs while one lives.
        if !self.heard.lock().ended {
            self.first.signal_group(Signal::KILL);
        }
        let processes: Vec<_> = self.heard.lock().processes.values().cloned().collect();
        processes.iter().for_each(Process::kill);
        drop(self.lifeline.take());
        if let Some(reader) = self.reader.take() {
            // It ends with the last of them.
            match reader.join() {
                Ok(()) | Err(_) => {}
            }
        }
        self.heard.lock().processes.values().for_each(Process::reap);
    }
}
