//! Limits of the system: descriptors, disks. An upgrade without room is refused with the error, and the service goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{Command, Dir, Exit, Process, Root, Service, Signal, find, names_in, root_or_skip};
use crate::look;

fn pid(process: &Process) -> Pid {
    i32::try_from(process.pid()).ok().and_then(Pid::from_raw).expect("a process ID")
}

/// Sets the soft limit of open files of a process.
pub(crate) fn limit_files(process: &Process, soft: Option<u64>) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(Some(pid(process)), Resource::Nofile, Rlimit { current: soft.or(maximum), maximum })
        .expect("prlimit");
}

/// Not one more than it has: the limit is the lowest number that it has not got.
pub(crate) fn leave_no_descriptor(process: &Process) {
    let numbers = look::numbers(process);
    limit_files(process, (0..).find(|number| !numbers.contains(number)).map(u64::from));
}

/// M5, H13: it does not get its sockets, and the next one does.
#[test]
fn m5_a_successor_that_may_open_few_files_says_so() {
    let dir = Dir::new();
    let mut command = dir.victim();
    for i in 0..100 {
        command = command.listen(&format!("l{i}"), "tcp://127.0.0.1:0");
    }
    let (service, old) = command.serve();
    let (new, gate) = service.start_upgrade_to(&old, "main");
    limit_files(&new, Some(50));
    gate.open();
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("RLIMIT_NOFILE") && reason.contains("LimitNOFILE="), "{reason}");
    assert_eq!(service.connect_to("l99").who(), (1, old.pid()));

    // The sockets of which it took some are there for the next one.
    let new = service.upgrade(&old);
    assert_eq!(service.connect_to("l99").who(), (2, new.pid()));
}

#[test]
fn k8_a_process_without_descriptors_left_says_so_and_serves_on() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let mut client = service.connect();
    client.who();
    leave_no_descriptor(&old);
    for _ in 0..3 {
        old.signal(Signal::HUP);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("Too many open files"), "{reason}");
    }
    assert_eq!(client.who(), (1, old.pid()));

    // A client who came meanwhile is in the queue, and is served once there is room.
    let mut waiting = service.connect();
    limit_files(&old, None);
    assert_eq!(waiting.who(), (1, old.pid()));
    drop(waiting);
    let new = service.upgrade(&old);
    assert_eq!(service.served_by(), new.pid());
}

/// The sum is known before there is a successor, so none is started.
#[test]
fn m5_a_successor_that_could_not_take_what_it_would_get_is_not_started() {
    let dir = Dir::new();
    let mut command = dir.victim();
    for i in 0..100 {
        command = command.listen(&format!("l{i}"), "tcp://127.0.0.1:0");
    }
    let (service, old) = command.serve();
    limit_files(&old, Some(60));
    old.signal(Signal::HUP);
    let reason = service.wait_for_failure(&old);
    assert!(
        reason.contains("a successor needs at least 106 descriptors, for 101 sockets, 1 files"),
        "{reason}"
    );
    assert!(reason.contains("LimitNOFILE=) is 60"), "{reason}");
    assert!(!service.transcript().contains("started a successor"));
    limit_files(&old, None);
    let new = service.upgrade(&old);
    assert_eq!(service.connect_to("l99").who(), (2, new.pid()));
}

/// A service whose pid file is on a file system of its own, of 64 KiB, in a mount namespace of its own.
struct OnItsOwnDisk {
    service: Service,
    old: Process,
    disk: PathBuf,
}

impl OnItsOwnDisk {
    fn start(dir: &Dir) -> Self {
        let disk = dir.join("disk");
        fs::create_dir(&disk).expect("a directory");
        let mount = "mount -t tmpfs -o size=64k none \"$1\" && shift && exec \"$@\"";
        let at = disk.to_str().expect("temporary directories are UTF-8");
        let (service, old) = dir
            .victim()
            .env("TABLEFLIP_PIDFILE", disk.join("pid"))
            .started_by("unshare", &["--mount", "sh", "-c", mount, "sh", at])
            .serve();
        Self { service, old, disk }
    }

    /// What a process of the service sees at a path of its disk; to everybody else there is nothing.
    fn seen(&self, name: &str) -> PathBuf {
        let inside = self.disk.join(name);
        self.old.proc("root").join(inside.strip_prefix("/").expect("it is absolute"))
    }

    fn pidfile(&self) -> Option<u32> {
        processes::pidfile(&self.seen("pid")).ok()
    }

    fn remount(&self, how: &str) {
        let pid = self.old.pid().to_string();
        let mut command = std::process::Command::new("nsenter");
        command
            .args(["--target", &pid, "--mount", "mount", "-o"])
            .arg(format!("remount,{how}"))
            .arg(&self.disk);
        assert!(command.status().expect("nsenter runs").success(), "{how}");
    }

    fn fill(&self) {
        let filled = fs::write(self.seen("full"), vec![0; 1 << 20]);
        assert_eq!(filled.expect_err("it is not that large").kind(), std::io::ErrorKind::StorageFull);
    }

    /// An upgrade is refused with `errno`, and nothing has changed.
    #[track_caller]
    fn assert_refused(&self, errno: &str, names: &[&str]) {
        self.service.start_upgrade(&self.old);
        let reason = self.service.wait_for_failure(&self.old);
        assert!(reason.contains("cannot write the pid file") && reason.contains(errno), "{reason}");
        assert_eq!(self.service.served_by(), self.old.pid());
        assert_eq!(self.pidfile(), Some(self.old.pid()));
        assert_eq!(names_in(&self.seen("")), names);
    }
}

#[test]
fn a_full_disk_refuses_the_upgrade() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let on = OnItsOwnDisk::start(&dir);
    on.fill();
    on.assert_refused("No space left on device", &["full", "pid"]);
    fs::remove_file(on.seen("full")).expect("the file is there");
    let new = on.service.upgrade(&on.old);
    assert_eq!(on.pidfile(), Some(new.pid()));
}

/// The way back is prepared before the successor is told to serve: what is left to do is a rename.
#[test]
fn a_disk_that_is_full_once_the_successor_serves_does_not_bar_the_way_back() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let gate = dir.gate("never opened");
    let on = OnItsOwnDisk::start(&dir);
    on.service.plan("serving gate never opened");
    let new = on.service.start_upgrade(&on.old);
    on.service.wait(&new, "gate");
    assert_eq!(on.pidfile(), Some(new.pid()));
    on.fill();
    new.kill();
    on.service.wait_for_failure(&on.old);
    assert_eq!(on.service.served_by(), on.old.pid());
    assert_eq!(on.pidfile(), Some(on.old.pid()));
    assert_eq!(names_in(&on.seen("")), ["full", "pid"]);
    drop(gate);
}

#[test]
fn a_directory_that_became_read_only_refuses_the_upgrade_and_no_stop() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let on = OnItsOwnDisk::start(&dir);
    on.remount("ro");
    on.assert_refused("Read-only file system", &["pid"]);
    on.old.signal(Signal::TERM);
    on.service.wait_for(&on.old, "error", "cannot remove the pid file");
    assert_eq!(on.old.exit(), Exit::Status(0));
}

#[test]
fn a_directory_that_is_not_there_stops_the_start() {
    let dir = Dir::new();
    let path = Path::new("nowhere").join("pid");
    let service = dir.victim().env("TABLEFLIP_PIDFILE", &path).start();
    assert_eq!(service.first().exit(), Exit::Status(1));
    let log = service.log();
    assert!(log.contains("cannot start: cannot write the pid file") && log.contains("nowhere/pid"), "{log}");
}

/// Wherever it runs out of memory, which ends a process of Rust as a rule: the old one serves on.
#[test]
fn a_successor_without_memory_is_a_failed_upgrade() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    for kib in [0, 100, 200, 400, 800, 1600] {
        service.plan(&format!("main memory {kib}"));
        service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("the successor"), "{kib}: {reason}");
        assert_eq!(service.served_by(), old.pid(), "{kib}");
        assert_eq!(service.pidfile(), Some(old.pid()), "{kib}");
    }
    service.upgrade(&old);
}

/// A user of whom there are no other processes, so that a limit of processes counts those of one test: neither another test's
/// nor, before they are reaped, those of an earlier run.
fn unused_user(test: u32) -> String {
    (50_000 + (2 * std::process::id() + test) % 10_000).to_string()
}

fn of_its_own_user<'a>(command: Command<'a>, user: &str, limit: &str) -> Command<'a> {
    let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
    command.started_by("setpriv", &[&uid, &gid, "--clear-groups", "prlimit", limit])
}

/// A directory in which any user may do anything, and a copy of an executable in it.
fn for_everybody(executable: &str) -> (Dir, PathBuf) {
    let dir = Dir::new();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let executable = dir.copy(executable, "service");
    (dir, executable)
}

/// What a start says that fails for want of something, in its one line; `None` once it has what it needs.
#[track_caller]
fn start_or_reason(dir: &Dir, command: Command<'_>) -> Option<String> {
    let service = command
        .env("TABLEFLIP_LISTEN_ECHO", format!("unix://{}", dir.join("echo").display()))
        .env("TABLEFLIP_PIDFILE", dir.join("pid"))
        .env("TOKIO_WORKER_THREADS", "4")
        .start();
    let first = service.first();
    let begun = find("pid file or end", || {
        if first.has_exited() { Some(false) } else { dir.join("pid").exists().then_some(true) }
    });
    if begun {
        first.signal(Signal::TERM);
        first.exit();
        return None;
    }
    assert_eq!(first.exit(), Exit::Status(1), "{}", service.log());
    let log = service.log();
    fs::remove_file(dir.join("log")).expect("each start has its own");
    let (line, rest) = log.split_once('\n').expect("a line");
    assert!(rest.is_empty() && line.contains("cannot start: "), "one line, and no panic: {log}");
    Some(line.split_once("cannot start: ").expect("it has it").1.to_owned())
}

/// E1, D9: the thread that it does not get may be any; tokio panics, and never returns if one of its threads has started.
#[test]
fn e1_a_start_that_gets_too_few_threads_ends_with_the_reason() {
    let Some(Root) = root_or_skip() else { return };
    let (dir, service) = for_everybody(env!("CARGO_BIN_EXE_ten_lines"));
    let (mut reasons, user) = (Vec::new(), unused_user(0));
    // The thread of main, two of the harness and four of tokio. The service does without that of `ctrlc`.
    for limit in 1..=7 {
        let command = of_its_own_user(dir.command(&service), &user, &format!("--nproc={limit}"));
        reasons.extend(start_or_reason(&dir, command));
        let left = names_in(dir.path());
        assert!(left.iter().all(|name| name == "log" || name == "service"), "{limit}: {left:?}");
    }
    let limits = "RLIMIT_NPROC";
    assert!(reasons.iter().all(|reason| reason.contains(limits)), "{reasons:#?}");
    let of_tokio = |reason: &&String| {
        reason
            .starts_with("cannot start the tokio runtime: OS can't spawn worker thread: Resource temporarily")
    };
    assert_eq!((reasons.len(), reasons.iter().filter(of_tokio).count()), (6, 4), "{reasons:#?}");
}

#[test]
fn d9_a_start_that_gets_too_few_descriptors_ends_with_the_reason() {
    let (dir, service) = for_everybody(env!("CARGO_BIN_EXE_ten_lines"));
    let mut reasons = Vec::new();
    for limit in 9.. {
        let command = dir.command(&service).started_by("prlimit", &[&format!("--nofile={limit}")]);
        match start_or_reason(&dir, command) {
            Some(reason) => reasons.push(reason),
            None => break,
        }
    }
    let is_said = |reason: &String| reason.contains("Too many open files");
    assert!(reasons.iter().all(is_said), "{reasons:#?}");
    let panicked = reasons.iter().filter(|reason| reason.contains("failed to create UnixStream"));
    assert!(panicked.clone().count() > 0, "tokio panics at one of them: {reasons:#?}");
    assert!(panicked.clone().all(|reason| reason.contains("LimitNOFILE=")), "{reasons:#?}");
}

/// E1: an upgrade fails at once and not at its deadline, which is an hour, with the reason.
#[test]
fn e1_a_successor_that_gets_too_few_threads_is_a_failed_upgrade() {
    let Some(Root) = root_or_skip() else { return };
    let (dir, victim) = for_everybody(env!("CARGO_BIN_EXE_victim"));
    let command = dir.victim().binary(victim).env("TOKIO_WORKER_THREADS", "4");
    let user = unused_user(1);
    let (service, old) = of_its_own_user(command, &user, "--nproc=1000").serve();
    let threads = fs::read_dir(old.proc("task")).expect("/proc is mounted").count() as u64;
    // By the user itself: root may need a capability for it that it does not have here.
    let limit = |more| {
        let mut command = std::process::Command::new("setpriv");
        command.arg(format!("--reuid={user}")).arg(format!("--regid={user}"));
        command.args(["--clear-groups", "prlimit"]);
        command.arg(format!("--pid={}", old.pid())).arg(format!("--nproc={}:1000", threads + more));
        assert!(command.status().expect("setpriv runs").success(), "{more}");
    };
    let mut of_tokio = 0;
    // The main thread of the successor, one of the harness and some of the four of tokio.
    for more in 1..=5 {
        limit(more);
        service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("the successor could not start: cannot "), "{more}: {reason}");
        assert!(reason.contains("Resource temporarily unavailable"), "{more}: {reason}");
        of_tokio += usize::from(reason.contains("cannot start the tokio runtime"));
        assert_eq!(service.served_by(), old.pid(), "{more}");
    }
    assert_eq!(of_tokio, 4);
    limit(100);
    let new = service.upgrade(&old);
    assert_eq!(service.served_by(), new.pid());
}
