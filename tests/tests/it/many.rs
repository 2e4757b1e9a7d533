//! Many listeners, many upgrades, many failures: no connection is lost, and nothing accumulates.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{Client, Dir, Exit, Process, Service, Signal, names_in};
use crate::look;

/// How much more memory than at first is none, in KiB: what one run and the next differ by.
const NOISE: u64 = 2048;

/// What a process holds that could add up over the generations, or over the upgrades that fail.
#[derive(Debug, PartialEq, Eq)]
struct Holds {
    descriptors: BTreeMap<String, usize>,
    threads: u64,
    /// The dead ones that nobody has reaped are children as well.
    children: Vec<u32>,
    mappings_of_files: BTreeSet<String>,
}

impl Holds {
    fn of(process: &Process) -> Self {
        let maps = std::fs::read_to_string(process.proc("maps")).expect("the process lives");
        let file = |line: &str| line.find('/').map(|at| line[at..].to_owned());
        Self {
            descriptors: look::kinds(process),
            threads: look::number(process, "Threads"),
            children: look::children(process),
            mappings_of_files: maps.lines().filter_map(file).collect(),
        }
    }
}

fn resident(process: &Process) -> u64 {
    look::number(process, "VmRSS")
}

/// Waits until a process is alone: its predecessor is dead, and it has closed the channel to it. The connection is
/// kept, so that what is counted next is the same each time.
fn settle(service: &Service) -> Client {
    let mut client = service.connect();
    let answer = client.ask("predecessor");
    assert!(answer.starts_with("gone "), "{answer}");
    client
}

/// Raises the soft limit of open files of the tests, and so of the services that they start, to the hard one.
pub(crate) fn allow_many_files(at_least: u64) {
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.is_none_or(|maximum| maximum >= at_least);
    assert!(enough, "the hard limit of open files is {limit:?}; this test needs {at_least}");
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("the soft limit");
}

/// More than FD_SETSIZE as well, the number of descriptors that select(2) ends at (H2).
#[test]
fn h2_a_thousand_listeners_change_hands_in_one_upgrade() {
    const COUNT: usize = 1000;
    allow_many_files(4096);
    let dir = Dir::new();
    let mut command = dir.victim();
    let names: Vec<_> = (0..COUNT).map(|i| format!("l{i}")).collect();
    for name in &names {
        command = command.listen(name, "tcp://127.0.0.1:0");
    }
    let (service, old) = command.serve();
    let addresses: Vec<_> = names.iter().map(|name| service.address(name)).collect();
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), COUNT);
    // A client of each, in its queue or in its hands while they change.
    let mut waiting: Vec<_> = names.iter().map(|name| service.connect_to(name)).collect();

    let new = service.upgrade(&old);
    for client in &mut waiting {
        let (_, by) = client.who();
        assert!(by == old.pid() || by == new.pid());
    }
    drop(waiting);
    for (name, address) in names.iter().zip(&addresses) {
        assert_eq!(service.address(name), *address);
        assert_eq!(service.connect_to(name).who(), (2, new.pid()));
    }
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!service.has_said(&old, "error") && !service.has_said(&new, "error"));
}

/// H12, P1, D9: one after the other, as fast as they go. Neither a zombie nor a connection that is counted twice, or not at all,
/// is left of any.
#[test]
fn three_hundred_upgrades_leave_nothing_behind() {
    allow_many_files(1024);
    let dir = Dir::new();
    let (service, mut old) = dir.victim().listen_unix("sock").probation("10ms").serve();
    let address = service.address("echo");
    let mut after_first = None;
    let mut sizes = Vec::new();
    for generation in 2..=301 {
        let new = service.start_upgrade(&old);
        service.wait(&new, "alone");
        assert_eq!(old.exit(), Exit::Status(0));
        assert!(old.is_gone());
        let mut client = settle(&service);
        assert_eq!(client.who(), (generation, new.pid()));
        let holds = Holds::of(&new);
        sizes.push(resident(&new));
        assert_eq!(after_first.get_or_insert_with(|| Holds::of(&new)), &holds, "generation {generation}");
        old = new;
    }
    // One that grows does so on average; the pages that a process happens to have touched are not growth.
    let average = |sizes: &[u64]| sizes.iter().sum::<u64>() / u64::try_from(sizes.len()).expect("a few");
    let (first, last) = (average(&sizes[..20]), average(&sizes[280..]));
    assert!(last < first + NOISE, "{first} KiB at first, {last} KiB at last");
    assert_eq!(service.address("echo"), address);
    assert_eq!(service.connect_unix("sock").who(), (301, old.pid()));
    assert_eq!(service.pidfile(), Some(old.pid()));

    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
    assert_eq!(names_in(dir.path()), ["log", "plan"]);
}

/// H13. The other way to go on for long: one process that lives through all of it.
#[test]
fn upgrades_that_fail_leave_nothing_behind() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    let (service, old) = dir.victim().binary(&path).listen_unix("sock").probation("1h").serve();
    let mut client = settle(&service);
    let fails = |how: &str| {
        match how {
            "missing" => {
                std::fs::rename(&path, dir.join("aside")).expect("a file");
                old.signal(Signal::HUP);
                service.wait_for_failure(&old);
                std::fs::rename(dir.join("aside"), &path).expect("a file");
            }
            // Between the two there is a successor that serves.
            "probation" => {
                service.upgrade(&old).kill();
                service.wait_for_failure(&old);
            }
            plan => {
                service.plan(plan);
                service.start_upgrade(&old);
                service.wait_for_failure(&old);
            }
        }
        let mut other = service.connect();
        assert_eq!(other.who(), (1, old.pid()));
        other.close();
    };
    let ways = ["missing", "main exit 3", "init panic no disk", "probation"];
    let mut after_first = None;
    for round in 0..40 {
        for way in ways {
            fails(way);
        }
        assert_eq!(client.who(), (1, old.pid()));
        let now = (Holds::of(&old), resident(&old));
        let (holds, size) = after_first.get_or_insert_with(|| (Holds::of(&old), resident(&old)));
        assert_eq!(*holds, now.0, "round {round}");
        assert!(now.1 < *size + NOISE, "{size} KiB after the first round, {} KiB after round {round}", now.1);
    }
    assert_eq!(service.pidfile(), Some(old.pid()));
    service.upgrade(&old);
}
