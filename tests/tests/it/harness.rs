//! The harness of the tests in this directory.
//!
//! ```ignore
//! let dir = Dir::new();                                  // a temporary directory, removed at the end
//! let (service, old) = dir.victim().probation("1h").serve();    // start it, wait until it serves
//! let mut client = service.connect();                    // a connection to its listener `echo`
//! assert_eq!(client.who(), (1, old.pid()));              // generation and pid of who answers
//! let mut before = service.open(&old);                   // both in one
//!
//! service.plan("serve panic boom");                      // what the next process to be started does
//! let new = service.start_upgrade(&old);                 // the successor, as soon as it runs
//! let (new, gate) = service.start_upgrade_to(&old, "init"); // a successor that waits for the test at this point
//! gate.open();
//! service.wait_for(&old, "error", "boom");               // a line of the old one's log
//! assert_eq!(service.pidfile(), Some(old.pid()));
//!
//! old.signal(Signal::TERM);
//! assert_eq!(old.exit(), Exit::Status(0));
//! ```
//!
//! * [`Dir`] is the directory of a test: pid file, sockets, gates, log. [`Dir::victim`] is the command of a service there.
//! * [`Command`] is that command: listeners, timeouts, environment, executable. The service is `src/bin/victim`, whose source
//!   lists the verbs of a plan and of a client; [`Command::binary`] is another program.
//! * [`Service`] is the service that runs, in all its generations, which share one stdout. The test reads it line by
//!   line: [`Service::wait`] takes the first line of a process, not taken yet, that says `what`. The victim turns
//!   each event of the crate into a line whose `what` is the phase (`serving`, `standby`, `draining`, ...), `error` for a
//!   complaint or a refusal, or `step:PHASE` for a step of the life cycle.
//! * [`Process`] is one generation: its signals and its end. `look.rs` has what /proc says of it.
//! * [`Client`] is one connection. [`load::Load`] is clients without end, which lose no request.
//! * [`booted`] is a systemd that runs in a test.
//! * The package `processes`, below these, has the pidfd, the waits and /proc; `tests/load` has services under load.
//!
//! The rules: no test sleeps to wait. A test waits for a line, or the end of a file or of a process, and every wait has
//! [`DEADLINE`]. A test that fails prints what its services said and logged. At the end of a test, even of a killed one, every
//! process that it started dies: the drop of a [`Service`] kills the processes that it knows, and a victim whose stdin ends kills
//! itself.

#![allow(dead_code, reason = "what one topic does not use, the next does")]

pub(crate) mod booted;
mod command;
pub(crate) mod load;
mod process;
mod service;
pub(crate) mod terminal;

use std::fs::{self, File};
use std::io::Write;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::time::Instant;

use processes::is_readable_within;
use rustix::fs::{CWD, Mode};

pub(crate) use command::Command;
pub(crate) use process::Process;
pub(crate) use processes::{DEADLINE, Exit, Signal, find, signal, skip, wait_until};
pub(crate) use service::Service;
pub(crate) use tests::client::{Client, wait_until_refused};

/// A proof that this process runs as root.
pub(crate) struct Root;

/// The first line of a test that needs root: `let Some(Root) = root_or_skip() else { return };`. A `bool` could be taken the wrong way
/// round, and a test that is skipped where it could run fails nowhere.
pub(crate) fn root_or_skip() -> Option<Root> {
    let root = rustix::process::geteuid().is_root().then_some(Root);
    if root.is_none() {
        skip("it needs root");
    }
    root
}

/// A proof that strace(1) is installed.
pub(crate) struct Strace;

/// The same for a test that starts a service by strace.
pub(crate) fn strace_or_skip() -> Option<Strace> {
    let strace = std::process::Command::new("strace").arg("-V").output().is_ok().then_some(Strace);
    if strace.is_none() {
        skip("there is no strace");
    }
    strace
}

/// A directory with packages of this machine's distribution, of the suite with this suffix. They are unpacked once, and kept for the
/// next run. The error says why they cannot be had.
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
        processes::default_for_children();
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
        Gate::new(self.path(), name)
    }

    /// A service with one TCP listener `echo` on a port of the kernel's choice, and a pid file.
    ///
    /// The probation is short and the other timeouts are long; a test that is about one of them sets it.
    pub(crate) fn victim(&self) -> Command<'_> {
        self.command(env!("CARGO_BIN_EXE_victim"))
            .listen("echo", "tcp://127.0.0.1:0")
            .env("VICTIM_DIR", self.path())
            .env("TABLEFLIP_PIDFILE", self.join("pid"))
            .env("TABLEFLIP_CONTROL", "false")
            .env("TABLEFLIP_UPGRADE_TIMEOUT", "1h")
            .env("TABLEFLIP_DRAIN_TIMEOUT", "1h")
            .probation("50ms")
    }

    /// Any program, with nothing in its environment but PATH.
    pub(crate) fn command(&self, program: impl Into<PathBuf>) -> Command<'_> {
        Command::new(self, program.into())
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
            assert!(is_readable_within(left, &changes).expect("poll"), "there was no {what}");
            let mut buffer = [MaybeUninit::uninit(); 4096];
            inotify::Reader::new(&changes, &mut buffer).next().expect("a change");
        }
    }
}

/// Adds a line to the plan of a test: what the next process that is started does; `src/bin/victim/plan.rs`.
fn add_to_plan(dir: &Path, line: &str) {
    let path = dir.join("plan");
    let plan = fs::read_to_string(&path).unwrap_or_default();
    fs::write(path, plan + line + "\n").expect("the plan can be written");
}

/// A place where a process waits for the test.
pub(crate) struct Gate {
    fifo: File,
}

impl Gate {
    fn new(dir: &Path, name: &str) -> Self {
        let path = dir.join(format!("gate-{name}"));
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).expect("a FIFO");
        // For reading as well, so that the open does not wait for a process on the other side.
        Self { fifo: File::options().read(true).write(true).open(path).expect("a FIFO can be opened") }
    }

    /// Lets one process through, the one that waits or the next.
    pub(crate) fn open(&self) {
        (&self.fifo).write_all(b".").expect("a FIFO has room for a byte");
    }
}
