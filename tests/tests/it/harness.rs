//! What the tests are written with.
//!
//! ```ignore
//! let dir = Dir::new();                                  // a temporary directory, removed at the end
//! let (service, old) = dir.victim().probation("1h").serve();    // start it, wait until it serves
//! let mut client = service.connect();                    // a connection to its listener `echo`
//! assert_eq!(client.who(), (1, old.pid()));              // generation and pid of who answers
//! let mut before = service.open(&old);                   // both in one
//!
//! let gate = dir.gate("init");                           // a place where a process waits for the test
//! service.plan("init gate init; serve panic boom");      // what the next process to be started does
//! let new = service.start_upgrade(&old);                 // the successor, as soon as it runs
//! service.wait(&new, "gate");                            // it is there now
//! gate.open();
//! service.wait_for(&old, "error", "boom");               // a line of the old one's log
//! assert_eq!(service.pidfile(), Some(old.pid()));
//!
//! old.signal(Signal::TERM);
//! assert_eq!(old.exit(), Exit::Status(0));
//! ```
//!
//! * [`Dir`] is the directory of a test: pid file, sockets, gates, log. [`Dir::victim`] starts a service there.
//! * [`Command`] is how: listeners, timeouts, environment, executable. The service is `src/bin/victim`, whose source
//!   lists what a plan and a client can make it do; [`Command::binary`] starts any other.
//! * [`Service`] is what has been started, in all its generations, which share one stdout. The test reads it line by
//!   line: [`Service::wait`] takes the first line of a process, not taken yet, that says `what`. The victim turns
//!   each event of the harness under test into a line whose `what` is the phase (`serving`, `standby`,
//!   `draining`, ...), `error` for a complaint or a refusal, or `step:PHASE` for a step of the life cycle.
//! * [`Process`] is one generation: signal it, wait for its end, look at it in /proc.
//! * [`Client`] is one connection.
//! * [`load::Load`] is clients without end, of which none may be lost.
//! * [`booted`] has a systemd of its own, for what runs under one.
//!
//! The rules: nothing sleeps to wait. What a test waits for is a line, the end of a file or of a process, and every
//! wait has [`DEADLINE`]. A test that fails prints what its services said and logged. At its end, and should it be
//! killed, every process that it started dies: the drop of a [`Service`] kills those it knows, and a victim whose
//! stdin ends kills itself.

#![allow(dead_code, reason = "what one topic does not use, the next does")]

pub(crate) mod booted;
mod client;
pub(crate) mod load;
mod process;
pub(crate) mod terminal;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode};

pub(crate) use client::Client;
pub(crate) use process::{Exit, Process};
pub(crate) use rustix::process::Signal;

/// How long anything may take that is to happen. It is long, because nothing is waited for that does not happen,
/// except by a test that fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// Says why this test is skipped. It goes past the capture of the output of tests, for `.ci/run` to count.
pub(crate) fn skip(reason: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    writeln!(std::io::stderr(), "skipped: {name}: {reason}").expect("stderr can be written");
}

/// That this process is root's.
pub(crate) struct Root;

/// What a test begins with that needs root: `let Some(Root) = root_or_skip() else { return };`, which cannot be read, or
/// written, the wrong way round. A test that is skipped where it could run fails nowhere.
pub(crate) fn root_or_skip() -> Option<Root> {
    let root = rustix::process::geteuid().is_root().then_some(Root);
    if root.is_none() {
        skip("it needs root");
    }
    root
}

/// That there is strace(1).
pub(crate) struct Strace;

/// The same for a test that is started by it.
pub(crate) fn strace_or_skip() -> Option<Strace> {
    let strace = std::process::Command::new("strace").arg("-V").output().is_ok().then_some(Strace);
    if strace.is_none() {
        skip("there is no strace");
    }
    strace
}

/// A directory with packages of this machine's distribution, of the suite with this after its name. They are unpacked once, and
/// kept for the next run; why not, where they cannot be had.
pub(crate) fn unpack(suite: &str, name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if directory.exists() {
        return Ok(directory);
    }
    let release = fs::read_to_string("/etc/os-release").map_err(|error| error.to_string())?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("unpack");
    let output = std::process::Command::new("timeout")
        .args(["120", "bash"])
        .arg(script)
        .arg(codename.ok_or("a distribution without suites")?.to_owned() + suite)
        .arg(&directory)
        .args(packages)
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(directory),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ")),
    }
}

/// The first block of this language in docs/containers.md.
pub(crate) fn block_of_the_page(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/containers.md");
    let page = fs::read_to_string(page).expect("the page");
    let begin = format!("```{language}\n");
    page.split(&begin).nth(1).and_then(|rest| rest.split("```").next()).expect("a block").to_owned()
}

/// Waits until nobody listens at an address. A listener of this process is not gone with its drop: whatever another test starts
/// at that moment has a copy of each descriptor until its exec.
pub(crate) fn wait_until_refused(address: impl ToSocketAddrs) {
    booted::until("refused client", || TcpStream::connect(&address).is_err().then_some(()));
}

/// The names in a directory, in order.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<_> = entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The directory of one test.
pub(crate) struct Dir {
    temp: tempfile::TempDir,
}

impl Dir {
    pub(crate) fn new() -> Self {
        // Here, because whatever a test starts it starts after this.
        signals::default_for_children();
        Self { temp: tempfile::Builder::new().prefix("tableflip-").tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Makes a gate: a place for `gate NAME` in a plan, where a process waits until the test opens it.
    pub(crate) fn gate(&self, name: &str) -> Gate {
        let path = self.join(format!("gate-{name}"));
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).expect("a FIFO");
        // For reading as well, so that the open does not wait for a process on the other side.
        Gate { fifo: File::options().read(true).write(true).open(path).expect("a FIFO can be opened") }
    }

    /// A service with one TCP listener `echo` on a port of the kernel's choice, and a pid file.
    ///
    /// The probation is short and the other timeouts are long; a test that is about one of them sets it.
    pub(crate) fn victim(&self) -> Command<'_> {
        let mut command = self.command(env!("CARGO_BIN_EXE_victim"));
        command.listeners.push("echo tcp://127.0.0.1:0".to_owned());
        command
            .env("VICTIM_DIR", self.path())
            .env("TABLEFLIP_PIDFILE", self.join("pid"))
            .env("TABLEFLIP_CONTROL", "false")
            .env("TABLEFLIP_UPGRADE_TIMEOUT", "1h")
            .env("TABLEFLIP_DRAIN_TIMEOUT", "1h")
            .probation("50ms")
    }

    /// Any program, with nothing in its environment but PATH.
    pub(crate) fn command(&self, program: impl Into<PathBuf>) -> Command<'_> {
        let program = program.into();
        let mut env = HashMap::new();
        for name in ["PATH", "LLVM_PROFILE_FILE"] {
            env.extend(std::env::var_os(name).map(|value| (name.into(), value)));
        }
        Command { dir: self, program, arg0: None, args: Vec::new(), env, listeners: Vec::new() }
    }

    /// A copy of an executable, to be replaced and deleted. It is made by `cp`: a descriptor of this process that is
    /// open for writing would be inherited by whatever another test starts meanwhile, and exec say ETXTBSY.
    pub(crate) fn copy(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> PathBuf {
        let to = self.join(to);
        let status = std::process::Command::new("cp").arg("--").arg(from.as_ref()).arg(&to).status();
        assert!(status.expect("cp runs").success());
        to
    }

    /// A copy of the executable of [`Dir::victim`].
    pub(crate) fn copy_of_victim(&self, to: impl AsRef<Path>) -> PathBuf {
        self.copy(env!("CARGO_BIN_EXE_victim"), to)
    }

    /// Waits until `look`, which looks at files of this directory, finds something.
    ///
    /// It looks after each change, inotify(7): for programs that say nothing to the test.
    pub(crate) fn wait_until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        use rustix::fs::inotify;
        let deadline = Instant::now() + DEADLINE;
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify_init");
        let all = inotify::WatchFlags::ALL_EVENTS - inotify::WatchFlags::ACCESS;
        let changing = all - inotify::WatchFlags::OPEN - inotify::WatchFlags::CLOSE;
        inotify::add_watch(&changes, self.path(), changing).expect("inotify_add_watch");
        loop {
            // After the watch is set, so that what comes next is noticed.
            if let Some(found) = look() {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("a deadline is near");
            match poll(&mut [PollFd::new(&changes, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => panic!("there was no {what}"),
                Ok(_) => {}
                Err(error) => panic!("poll: {error}"),
            }
            let mut buffer = [MaybeUninit::uninit(); 4096];
            inotify::Reader::new(&changes, &mut buffer).next().expect("a change");
        }
    }

    fn plan(&self, line: &str) {
        let path = self.join("plan");
        let mut plan = fs::read_to_string(&path).unwrap_or_default();
        // A formatter that is given a `String` does not fail.
        _ = writeln!(plan, "{line}");
        fs::write(path, plan).expect("the plan can be written");
    }
}

/// A place where a process waits for the test.
pub(crate) struct Gate {
    fifo: File,
}

impl Gate {
    /// Lets one process through, the one that waits or the next.
    pub(crate) fn open(&self) {
        (&self.fifo).write_all(b".").expect("a FIFO has room for a byte");
    }
}

/// How a service is to be started.
pub(crate) struct Command<'d> {
    dir: &'d Dir,
    program: PathBuf,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: HashMap<OsString, OsString>,
    listeners: Vec<String>,
}

impl Command<'_> {
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    pub(crate) fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.remove(name.as_ref());
        self
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// The program that is run.
    pub(crate) fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = path.into();
        self
    }

    /// Started by another program, which executes it: `PROGRAM ARGS... BINARY`.
    pub(crate) fn started_by(mut self, program: &str, args: &[&str]) -> Self {
        let binary = std::mem::replace(&mut self.program, program.into());
        self.args.insert(0, binary.into());
        self.args.splice(0..0, args.iter().map(OsString::from));
        self
    }

    /// What the program sees as its name, argv[0].
    pub(crate) fn arg0(mut self, name: impl Into<OsString>) -> Self {
        self.arg0 = Some(name.into());
        self
    }

    pub(crate) fn probation(self, duration: &str) -> Self {
        self.env("TABLEFLIP_PROBATION", duration)
    }

    pub(crate) fn upgrade_timeout(self, duration: &str) -> Self {
        self.env("TABLEFLIP_UPGRADE_TIMEOUT", duration)
    }

    pub(crate) fn drain_timeout(self, duration: &str) -> Self {
        self.env("TABLEFLIP_DRAIN_TIMEOUT", duration)
    }

    /// One listener more.
    pub(crate) fn listen(mut self, name: &str, address: &str) -> Self {
        self.listeners.push(format!("{name} {address}"));
        self
    }

    /// None of the listeners so far.
    pub(crate) fn no_listeners(mut self) -> Self {
        self.listeners.clear();
        self
    }

    /// A Unix listener of this name, at the path of that name in the directory of the test.
    pub(crate) fn listen_unix(self, name: &str) -> Self {
        let path = self.dir.join(name);
        self.listen(name, &format!("unix://{}", path.to_str().expect("temporary directories are UTF-8")))
    }

    /// The runtime has one thread, that of the body.
    pub(crate) fn current_thread(self) -> Self {
        self.env("VICTIM_CURRENT_THREAD", "1")
    }

    /// The body takes `Ready`, and notifies at the end of its initialisation.
    pub(crate) fn takes_ready(self) -> Self {
        self.env("VICTIM_READY", "1")
    }

    /// The body awaits `Shutdown` and then returns.
    pub(crate) fn awaits_shutdown(self) -> Self {
        self.env("VICTIM_AWAIT", "1")
    }

    /// What the process does that is started with this.
    pub(crate) fn plan(self, line: &str) -> Self {
        self.dir.plan(line);
        self
    }

    /// Starts it.
    pub(crate) fn start(self) -> Service {
        Service::start(self)
    }

    /// Starts it, and waits until the first process serves.
    pub(crate) fn serve(self) -> (Service, Process) {
        let service = self.start();
        let first = service.next_process();
        service.wait_until_it_serves(&first);
        (service, first)
    }
}

/// What one start has become: all its generations.
pub(crate) struct Service {
    dir: PathBuf,
    first: Process,
    heard: Arc<Heard>,
    reader: Option<JoinHandle<()>>,
    /// Its end is how a victim learns that the test is over.
    lifeline: Option<ChildStdin>,
}

/// What has been said, and by whom.
#[derive(Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The lines that no wait has taken.
    lines: Vec<Line>,
    /// All of them, as they came.
    transcript: String,
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

impl Heard {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that fails while it waits has changed nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_down(&self, line: &str) {
        let mut state = self.lock();
        state.transcript.push_str(line);
        if let Some(line) = Line::parse(line.trim_end_matches('\n')) {
            // At the first word of a process, so that its number cannot be another's by now.
            state.processes.entry(line.pid).or_insert_with(|| Process::open(line.pid));
            if line.what == "listening" {
                let (name, address) = line.text.split_once(' ').expect("a name and an address");
                state.addresses.insert(name.to_owned(), address.to_owned());
            }
            state.lines.push(line);
        }
        self.changed.notify_all();
    }

    /// Waits until `look` finds something.
    fn wait<T>(&self, what: impl FnOnce() -> String, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!state.ended, "every process is dead, and there was no {}", what());
            assert!(!left.is_zero(), "there was no {}", what());
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Service {
    fn start(command: Command<'_>) -> Self {
        process::adopt_orphans();
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
        let heard = Arc::new(Heard::default());
        heard.lock().processes.insert(first.pid(), first.clone());
        let stdout = child.stdout.take().expect("it is a pipe");
        let reader = {
            let heard = heard.clone();
            thread::spawn(move || {
                let mut stdout = BufReader::new(stdout);
                let mut line = Vec::new();
                while matches!(stdout.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                    heard.take_down(&String::from_utf8_lossy(&line));
                    line.clear();
                }
                heard.lock().ended = true;
                heard.changed.notify_all();
            })
        };
        Self { dir, first, heard, reader: Some(reader), lifeline: child.stdin.take() }
    }

    /// The process that the test started; the others are its descendants.
    pub(crate) fn first(&self) -> &Process {
        &self.first
    }

    /// Adds a line to the plan: what the next process that is started does; `src/bin/victim/plan.rs`.
    pub(crate) fn plan(&self, line: &str) {
        let path = self.dir.join("plan");
        let plan = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, plan + line + "\n").expect("the plan can be written");
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

    /// The process of this number, which is one that the service has named.
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

    /// Whether a process has said this so far, taken or not.
    pub(crate) fn has_said(&self, process: &Process, what: &str) -> bool {
        let said = |line: Line| line.is(process, what);
        self.transcript().lines().filter_map(Line::parse).any(said)
    }

    /// All lines so far.
    pub(crate) fn transcript(&self) -> String {
        self.heard.lock().transcript.clone()
    }

    /// Waits until every process of the service, and whoever else has its stdout, is dead.
    pub(crate) fn wait_until_all_are_gone(&self) {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.heard.lock();
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "some process of the service lives");
            state = self.heard.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Starts an upgrade; returns the successor. Lines from before that no wait has taken are not there any more.
    pub(crate) fn start_upgrade(&self, old: &Process) -> Process {
        self.heard.lock().lines.clear();
        old.signal(Signal::HUP);
        self.next_process()
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
        Client::tcp(&self.address(name))
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
        let text = fs::read_to_string(self.dir.join("pid")).ok()?;
        Some(text.trim().parse().expect("a pid file has a number"))
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
