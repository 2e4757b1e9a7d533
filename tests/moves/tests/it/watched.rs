//! A service with a journal of its requests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use load::{Command, Service, wait_until};

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

    /// The paths that were asked for more than once.
    pub(crate) fn repeated(&mut self) -> Vec<String> {
        let mut times = BTreeMap::<_, u32>::new();
        for request in self.requests() {
            *times.entry(&request.path).or_default() += 1;
        }
        times.into_iter().filter(|(_, times)| *times > 1).map(|(path, _)| path.clone()).collect()
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
