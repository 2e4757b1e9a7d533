//! Limits of the system: descriptors, disks. What cannot be done is refused with its number, and the service goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{Dir, Exit, Process, Root, Service, Signal, names_in, root_or_skip};
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
    let gate = dir.gate("main");
    service.plan("main gate main");
    let new = service.start_upgrade(&old);
    service.wait(&new, "gate");
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
    assert!(reason.contains("a successor needs at least 105 descriptors, for 101 sockets"), "{reason}");
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
        fs::read_to_string(self.seen("pid")).ok()?.trim().parse().ok()
    }

    fn remount(&self, how: &str) {
        let pid = self.old.pid().to_string();
        let mut command = Command::new("nsenter");
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
