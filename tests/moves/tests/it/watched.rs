//! A service with a journal of its requests, and tests that the machine may hold up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use load::{Command, Service, wait_until};

/// The predecessor waits a second for the successor to take a connection. A connection that a machine with much else to do has
/// held up for so long is closed in order. A thread that only sleeps sees such a machine, by a sleep that takes longer by this.
const HELD_UP: Duration = Duration::from_millis(200);
/// No machine holds up each of so many runs.
const TRIES: u32 = 4;

/// The tests of this program run one at a time: a saturated service would hold up the others.
static ALONE: Mutex<()> = Mutex::new(());

/// A run says which connections were closed. That is a failure, unless the machine was held up meanwhile: then it runs again.
/// Everything else that goes wrong is a panic.
pub(crate) fn unless_held_up(run: impl Fn() -> Result<(), String>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for number in 1..=TRIES {
        let over = AtomicBool::new(false);
        let (result, longest) = thread::scope(|scope| {
            let longest = scope.spawn(|| longest_delay(&over));
            let result = catch_unwind(AssertUnwindSafe(&run));
            over.store(true, Ordering::Relaxed);
            (result, longest.join().expect("it does not panic"))
        });
        match result.unwrap_or_else(|panic| resume_unwind(panic)) {
            Ok(()) => return,
            Err(closed) if longest >= HELD_UP && number < TRIES => {
                println!("run {number}: {closed}\nAgain: a sleep took {longest:?} longer than it should.");
            }
            Err(closed) => {
                panic!("run {number}: {closed}\nA sleep took at most {longest:?} longer than it should.")
            }
        }
    }
}

fn longest_delay(over: &AtomicBool) -> Duration {
    const SLEEP: Duration = Duration::from_millis(10);
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        thread::sleep(SLEEP);
        longest = longest.max(begun.elapsed().saturating_sub(SLEEP));
    }
    longest
}

/// A request that a process has received.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) pid: u32,
    /// Of the client.
    pub(crate) port: u16,
    pub(crate) path: String,
}

/// The requests of all generations, in their order.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// The line that is not yet complete.
    rest: String,
    requests: Vec<Request>,
}

impl Journal {
    /// The requests so far.
    pub(crate) fn requests(&mut self) -> &[Request] {
        self.file.read_to_string(&mut self.rest).expect("a text");
        let end = self.rest.rfind('\n').map_or(0, |last| last + 1);
        self.requests.extend(self.rest.drain(..end).as_str().lines().map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_else(|| panic!("a word is missing in `{line}`"));
            let (pid, port, path) = (word(), word(), word());
            Request {
                pid: pid.parse().expect("a number"),
                port: port.parse().expect("a number"),
                path: path.to_owned(),
            }
        }));
        &self.requests
    }

    /// The clients' ports that a process has had requests from.
    pub(crate) fn ports_of(&mut self, pid: u32) -> BTreeSet<u16> {
        self.requests().iter().filter(|request| request.pid == pid).map(|request| request.port).collect()
    }

    /// Waits until a process has had requests from as many ports, and gives the ports.
    pub(crate) fn wait_for_ports(&mut self, pid: u32, at_least: usize) -> BTreeSet<u16> {
        let mut ports = BTreeSet::new();
        wait_until(&format!("process {pid} has requests of {at_least} ports"), || {
            ports = self.ports_of(pid);
            ports.len() >= at_least
        });
        ports
    }

    /// Each path is that of one request. Panics if a request was carried out twice.
    pub(crate) fn has_no_repeated_path(&mut self) {
        let mut times = BTreeMap::<_, u32>::new();
        for request in self.requests() {
            *times.entry(&request.path).or_default() += 1;
        }
        times.retain(|_, times| *times > 1);
        assert!(times.is_empty(), "paths and how often they were asked for: {times:?}");
    }
}

/// The service, and its journal.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) service: Service,
    pub(crate) journal: Journal,
}

impl Watched {
    pub(crate) fn command() -> Command {
        Service::of(env!("CARGO_BIN_EXE_moves")).listen("http", "tcp://127.0.0.1:0")
    }

    pub(crate) fn start() -> Self {
        Self::start_as(Self::command())
    }

    pub(crate) fn start_as(command: Command) -> Self {
        let path = command.path("journal");
        let journal = File::create(&path).expect("a file for the journal");
        // The service may be another user's.
        journal.set_permissions(Permissions::from_mode(0o666)).expect("it is new");
        let service = command.env("JOURNAL", &path).start();
        let file = File::open(path).expect("it is there");
        Self { service, journal: Journal { file, rest: String::new(), requests: Vec::new() } }
    }
}
