//! A systemd that runs in a test: the first process of namespaces of its own, with a network of its own, which sees nothing of
//! the machine but its files, and those read-only. `tests/systemd/inside` makes its world.
//!
//! ```ignore
//! for world in World::each() {                            // the machine's systemd, and a later one
//!     let systemd = world.unit("echo.service", UNIT).boot();
//!     systemd.run("systemctl start echo");                // fails the test if the command fails
//!     assert_eq!(systemd.show("echo", "ActiveState"), "active");
//! }
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use processes::proc;

use super::{Client, Dir, Root, find, root_or_skip, skip, unpack};

/// How long a boot may take, and a command.
const BOOT: Duration = Duration::from_secs(20);

/// The files that a systemd finds when it boots.
pub(crate) struct World {
    layer: Option<PathBuf>,
    work: Dir,
    shared: Dir,
}

impl World {
    /// A world for each systemd: that of the machine, and one of at least version 254. A missing one is reported as skipped.
    pub(crate) fn each() -> Vec<Self> {
        Self::of_the_machine().into_iter().chain(Self::of_the_layer()).collect()
    }

    pub(crate) fn of_the_machine() -> Option<Self> {
        let Root = root_or_skip()?;
        if !Path::new("/usr/lib/systemd/systemd").exists() {
            skip("this machine has no systemd");
            return None;
        }
        Some(Self::new(None))
    }

    pub(crate) fn of_the_layer() -> Option<Self> {
        let Root = root_or_skip()?;
        match layer() {
            Ok(layer) => Some(Self::new(Some(layer.clone()))),
            Err(why) => {
                skip(&format!("no later systemd can be had: {why}"));
                None
            }
        }
    }

    fn new(layer: Option<PathBuf>) -> Self {
        let world = Self { layer, work: Dir::new(), shared: Dir::new() };
        for directory in ["units", "files"] {
            fs::create_dir(world.work.join(directory)).expect("a new directory");
        }
        world
    }

    /// The directory that is the same inside and outside.
    pub(crate) fn shared(&self) -> &Dir {
        &self.shared
    }

    /// Adds a unit file.
    pub(crate) fn unit(self, name: &str, text: &str) -> Self {
        let path = self.work.join("units").join(name);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("a directory");
        fs::write(path, text).expect("a unit file");
        self
    }

    /// Puts a program at a path inside.
    pub(crate) fn program(self, path: &str, from: &str) -> Self {
        let to = Path::new("files").join(path.trim_start_matches('/'));
        fs::create_dir_all(self.work.join(&to).parent().expect("it is in a directory")).expect("a directory");
        self.work.copy(from, to);
        self
    }

    /// Boots it.
    pub(crate) fn boot(self) -> Booted {
        Booted::new(self)
    }
}

/// The directory of a later systemd, which is unpacked once.
fn layer() -> &'static Result<PathBuf, String> {
    static LAYER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    // Backports are built for the C library of the suite that they are for: these three are enough.
    LAYER.get_or_init(|| unpack("-backports", "systemd", &["systemd", "libsystemd0", "libsystemd-shared"]))
}

/// A systemd that runs, until it is dropped.
pub(crate) struct Booted {
    world: World,
    cgroup: PathBuf,
    unshare: Child,
    init: u32,
    network: File,
    version: u32,
}

impl Booted {
    fn new(world: World) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let home = own_cgroup();
        sweep(&home);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = home.join(format!("tableflip-test-{}-{count}", std::process::id()));
        for directory in ["", "payload", "outside"] {
            fs::create_dir(cgroup.join(directory)).expect("a cgroup");
        }
        if let Some(layer) = &world.layer {
            std::os::unix::fs::symlink(layer, world.work.join("layer")).expect("a link");
        }
        let notify = UnixDatagram::bind(world.work.join("notify")).expect("a socket");
        notify.set_read_timeout(Some(BOOT)).expect("a deadline that is not zero");

        // It dies with the thread of the test, and the namespaces die with it.
        let log = File::create(world.work.join("log")).expect("a file");
        let mut unshare = in_cgroup(&cgroup.join("payload"));
        unshare
            .args([
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--pid",
                "--cgroup",
                "--uts",
                "--ipc",
            ])
            .args([
                "--net",
                "--fork",
                "--kill-child=KILL",
                "sh",
                "-c",
                include_str!("../../../systemd/inside"),
            ])
            .env("WORK", world.work.path())
            .env("SHARED", world.shared.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        let mut unshare = unshare.spawn().expect("unshare");
        let init = find("first process", || proc::children(unshare.id()).pop());
        fs::write(cgroup.join("outside/cgroup.procs"), unshare.id().to_string()).expect("a cgroup");
        unshare.stdin.take().expect("it is a pipe").write_all(b"\n").expect("it reads");
        let network = File::open(format!("/proc/{init}/ns/net")).expect("its network");
        let mut booted = Self { world, cgroup, unshare, init, network, version: 0 };
        let mut buffer = [0; 4096];
        loop {
            let received = notify.recv(&mut buffer);
            if received.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::Interrupted) {
                continue;
            }
            let length = received.unwrap_or_else(|error| {
                panic!(
                    "it did not boot: {error}\n{}",
                    fs::read_to_string(booted.world.work.join("log")).unwrap_or_default()
                )
            });
            if buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                break;
            }
        }
        // systemd goes on sending, and would block at a socket without a reader: this thread reads until the socket ends with systemd.
        thread::spawn(move || {
            use std::io::ErrorKind::{Interrupted, WouldBlock};
            let goes_on = |error: std::io::Error| matches!(error.kind(), Interrupted | WouldBlock);
            while notify.recv(&mut buffer).map_or_else(goes_on, |_| true) {}
        });
        let version = booted.run("systemctl --version");
        booted.version = version.split([' ', '\n']).nth(1).and_then(|it| it.parse().ok()).expect("a version");
        booted
    }

    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn shared(&self) -> &Dir {
        &self.world.shared
    }

    /// A command inside, of the shell.
    pub(crate) fn command(&self, command: &str) -> Command {
        let mut enter = in_cgroup(&self.cgroup.join("outside"));
        enter.args([
            "nsenter",
            "-t",
            &self.init.to_string(),
            "-m",
            "-u",
            "-i",
            "-p",
            "-C",
            "-n",
            "-r",
            "-w",
            "--",
        ]);
        enter.args(["env", "-i", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0", "LANG=C.UTF-8"]);
        enter.args([
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "sh",
            "-c",
            command,
        ]);
        enter.stdin(Stdio::null());
        enter
    }

    /// Runs a command, whatever comes of it.
    pub(crate) fn try_run(&self, command: &str) -> Output {
        self.command(command).output().expect("nsenter runs")
    }

    /// Runs a command that succeeds; what it writes.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "`{command}`: {:?}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// A property of a unit.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        self.run(&format!("systemctl show --value -p {property} {unit}"))
    }

    pub(crate) fn main_pid(&self, unit: &str) -> u32 {
        self.show(unit, "MainPID").parse().expect("a process ID")
    }

    /// Waits until a property of a unit has a value.
    pub(crate) fn wait_for(&self, unit: &str, property: &str, value: &str) {
        find(&format!("{property}={value} of {unit}"), || (self.show(unit, property) == value).then_some(()));
    }

    /// What the journal has of a unit, and of systemd about it.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.run(&format!("journalctl --sync; journalctl -o cat -u {unit}"))
    }

    /// The processes of a unit.
    pub(crate) fn processes(&self, unit: &str) -> Vec<u32> {
        let group = self.show(unit, "ControlGroup");
        if group.is_empty() {
            return Vec::new();
        }
        let listed = self.run(&format!("cat /sys/fs/cgroup{group}/cgroup.procs 2>/dev/null || true"));
        listed.lines().map(|line| line.parse().expect("a process ID")).collect()
    }

    /// A connection to a port inside.
    pub(crate) fn connect(&self, port: u16) -> Client {
        Client::over_tcp(
            self.try_connect(port).unwrap_or_else(|error| panic!("connect to port {port}: {error}")),
        )
    }

    pub(crate) fn try_connect(&self, port: u16) -> std::io::Result<TcpStream> {
        connect_inside(self.network.as_fd(), port)
    }
}

/// A connection to a port of the loopback of another network.
pub(crate) fn connect_inside(network: BorrowedFd<'_>, port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let connect = || {
        move_into_link_name_space(network, Some(LinkNameSpaceType::Network)).expect("root may enter");
        TcpStream::connect(address)
    };
    // A thread of its own, which stays in there.
    thread::scope(|scope| scope.spawn(connect).join().expect("it does not panic"))
}

impl Drop for Booted {
    fn drop(&mut self) {
        if thread::panicking() {
            let journal = self.try_run("journalctl --sync; journalctl -o short-monotonic");
            eprintln!("--- systemd {}\n{}---", self.version, String::from_utf8_lossy(&journal.stdout));
        }
        // The namespaces of processes end with their first one, and all in them.
        self.unshare.kill().expect("it is a child of this process");
        self.unshare.wait().expect("it is a child of this process");
        remove_cgroup(&self.cgroup);
    }
}

/// A command that begins in a cgroup.
fn in_cgroup(cgroup: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg("echo 0 >\"$0/cgroup.procs\" && exec \"$@\"").arg(cgroup);
    command
}

/// The cgroup of this process.
fn own_cgroup() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let is_cgroup2 = |line: &&str| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup2 "));
    let mount =
        mounts.lines().find(is_cgroup2).and_then(|line| line.split(' ').nth(4)).expect("cgroup2 is mounted");
    let own = fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Path::new(mount).join(own)
}

/// Removes the cgroups of earlier runs that were killed: their names have the process.
fn sweep(home: &Path) {
    for entry in fs::read_dir(home).expect("a cgroup").flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("tableflip-test-")?.split('-').next());
        if pid.is_some_and(|pid| !proc::exists(pid)) {
            remove_cgroup(&entry.path());
        }
    }
}

fn remove_cgroup(cgroup: &Path) {
    fn remove(cgroup: &Path) {
        for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        // One that has a process still is tried again.
        match fs::remove_dir(cgroup) {
            Ok(()) | Err(_) => {}
        }
    }
    find("end of its processes", || {
        match fs::write(cgroup.join("cgroup.kill"), "1") {
            Ok(()) | Err(_) => {}
        }
        remove(cgroup);
        (!cgroup.exists()).then_some(())
    });
}
