//! The parent that stays under supervisord and runit, from the packages of the distribution, with the entries of
//! docs/containers.md as they stand there.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, kill_process};

use crate::harness::booted::until;
use crate::harness::load::{Load, ask};
use crate::harness::{Client, Dir, Signal, skip, unpack};

/// The packages of a supervisor, or why this test is skipped.
fn packages(name: &str, packages: &[&str]) -> Option<PathBuf> {
    unpack("", name, packages).inspect_err(|why| skip(&format!("{name} cannot be had: {why}"))).ok()
}

/// The entry of docs/containers.md in this language, for the service and the directory of a test.
fn entry_of_the_page(language: &str, dir: &Dir) -> String {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/containers.md");
    let page = fs::read_to_string(page).expect("the page");
    let begin = format!("```{language}\n");
    let entry = page.split(&begin).nth(1).and_then(|rest| rest.split("```").next()).expect("an entry");
    let log = dir.join("out");
    let text = |path: &Path| path.to_str().expect("it is UTF-8").to_owned();
    entry
        .replace("/usr/local/bin/echo-service", env!("CARGO_BIN_EXE_unit"))
        .replace("/var/log/echo.log", &text(&log))
        .replace("/run/echo", &text(&dir.join("run")))
}

/// A command with what a service of a test has in its environment. Whoever starts the service passes it on.
fn command(program: impl AsRef<OsStr>, dir: &Dir) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TABLEFLIP_PIDFILE", dir.join("pid"))
        .env("TABLEFLIP_LISTEN_ECHO", "127.0.0.1:0")
        .env("TABLEFLIP_PROBATION", "10ms")
        .stdin(Stdio::null());
    command
}

/// Has a supervisor stop what it has started, and itself. A test that fails prints what the service said.
fn end(supervisor: &mut Child, dir: &Dir) {
    if thread::panicking() {
        eprintln!("--- out\n{}---", fs::read_to_string(dir.join("out")).unwrap_or_default());
    }
    let pid = i32::try_from(supervisor.id()).ok().and_then(Pid::from_raw).expect("a process ID");
    kill_process(pid, Signal::TERM).expect("it is a child");
    supervisor.wait().expect("it is a child");
}

/// The addresses of each process that has said that it is of this generation, in their order.
fn addresses(dir: &Dir, generation: u64) -> Vec<String> {
    let out = fs::read_to_string(dir.join("out")).unwrap_or_default();
    let begin = format!("generation {generation} is process ");
    let lines = out.split_inclusive('\n').filter_map(|line| line.strip_prefix(&begin)?.strip_suffix('\n'));
    lines.filter_map(|line| Some(line.split_once(" at ")?.1.to_owned())).collect()
}

/// The state of a service, and the process that its supervisor takes it for.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    state: String,
    pid: u32,
}

/// The children of a process, dead or alive.
fn children(pid: u32) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it lives");
    children.split_whitespace().map(str::to_owned).collect()
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).status().expect("it runs").success()
}

/// Waits until that generation answers; its process. One that has said its address may have yet to serve, and would refuse an
/// upgrade.
fn wait_until_it_serves(address: &str, generation: u64) -> String {
    let serves = format!("{generation} ");
    until("generation that serves", || Some(ask(address).ok()?.strip_prefix(&serves)?.trim_end().to_owned()))
}

/// Three upgrades under load, through which the supervisor sees one process.
fn upgrade_thrice(dir: &Dir, address: &str, reload: impl Fn(), status: impl Fn() -> Status) {
    wait_until_it_serves(address, 1);
    let before = status();
    let load = Load::start(address);
    for generation in 2..=4 {
        reload();
        let pid = wait_until_it_serves(address, generation);
        assert_eq!(addresses(dir, generation), [address]);
        assert_eq!(status(), before, "the same state, and the same process");
        // One that still drains would have the next refused, and is the parent of the one that serves; one that is not reaped
        // would be a child as well.
        until("end of the predecessor", || (children(before.pid) == [&*pid]).then_some(()));
    }
    println!("{} answered in three upgrades", load.end());
}

/// A stop that somebody asks for meanwhile: the client that is there is served, and no other.
fn drains(client: &mut Client, address: &str, who: (u64, u32)) {
    until("refused client", || TcpStream::connect(address).is_err().then_some(()));
    assert_eq!(client.who(), who, "it drains");
}

struct Supervisord<'d> {
    dir: &'d Dir,
    root: PathBuf,
    process: Child,
}

impl<'d> Supervisord<'d> {
    /// `root` has its package.
    fn start(root: PathBuf, dir: &'d Dir) -> Self {
        let entry = entry_of_the_page("ini", dir);
        let text = format!(
            "[supervisord]\nnodaemon=true\nlogfile={0}/log\npidfile={0}/supervisord.pid\n\
             [unix_http_server]\nfile={0}/rpc\n[supervisorctl]\nserverurl=unix://{0}/rpc\n\
             [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n{entry}",
            dir.path().display()
        );
        fs::write(dir.join("supervisord.conf"), text).expect("a file");
        let mut command = Self::program(&root, "supervisord", dir);
        let process = command.env("TABLEFLIP_PIDFILE", dir.join("pid")).stdout(Stdio::null()).spawn();
        Self { dir, root, process: process.expect("python3") }
    }

    fn program(root: &Path, name: &str, dir: &Dir) -> Command {
        let mut command = command("/usr/bin/python3", dir);
        command
            .env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"))
            .arg(root.join("usr/bin").join(name))
            .arg("-c")
            .arg(dir.join("supervisord.conf"));
        command
    }

    fn ctl(&self, words: &[&str]) -> Command {
        let mut command = Self::program(&self.root, "supervisorctl", self.dir);
        command.args(words);
        command
    }

    fn status(&self) -> Status {
        let output = self.ctl(&["status", "echo"]).output().expect("python3");
        let text = String::from_utf8(output.stdout).expect("it is text");
        // `echo RUNNING pid 17, uptime 0:00:01`
        let words: Vec<_> = text.split_whitespace().collect();
        let pid = words.get(3).and_then(|pid| pid.trim_end_matches(',').parse().ok());
        Status { state: words.get(1).expect("a state").to_string(), pid: pid.unwrap_or_default() }
    }
}

impl Drop for Supervisord<'_> {
    fn drop(&mut self) {
        end(&mut self.process, self.dir);
    }
}

#[test]
fn supervisord_sees_one_process_through_every_upgrade() {
    let Some(root) = packages("supervisord", &["supervisor", "python3-pkg-resources"]) else { return };
    if !Path::new("/usr/bin/python3").exists() {
        return skip("supervisord is a program of /usr/bin/python3, which is not there");
    }
    let dir = Dir::new();
    let supervisord = Supervisord::start(root, &dir);
    let address = dir.wait_until("a generation that serves", || addresses(&dir, 1).pop());
    until("RUNNING", || (supervisord.status().state == "RUNNING").then_some(()));
    let reload = || assert!(succeeds(&mut supervisord.ctl(&["signal", "HUP", "echo"])));
    upgrade_thrice(&dir, &address, reload, || supervisord.status());

    let mut client = Client::tcp(&address);
    let who = client.who();
    let mut stop = supervisord.ctl(&["stop", "echo"]).stdout(Stdio::null()).spawn().expect("python3");
    drains(&mut client, &address, who);
    assert_eq!(supervisord.status().state, "STOPPING");
    assert!(stop.try_wait().expect("it is a child").is_none(), "it waits");
    client.close();
    assert!(stop.wait().expect("it is a child").success());
    assert_eq!(supervisord.status().state, "STOPPED");
}

/// A service directory, and the runsv that watches it.
struct Runit<'d> {
    dir: &'d Dir,
    root: PathBuf,
    process: Child,
}

impl<'d> Runit<'d> {
    /// `root` has its package.
    fn start(root: PathBuf, dir: &'d Dir) -> Self {
        let (service, run) = (dir.join("echo"), dir.join("echo/run"));
        fs::create_dir(&service).expect("a directory");
        fs::write(&run, entry_of_the_page("sh", dir)).expect("a file");
        fs::set_permissions(run, Permissions::from_mode(0o755)).expect("it is ours");
        let process = command(root.join("usr/bin/runsv"), dir)
            .arg(service)
            // In the directory that the entry makes.
            .env("TABLEFLIP_PIDFILE", dir.join("run/echo.pid"))
            .stdout(File::create(dir.join("out")).expect("a file"))
            .spawn();
        Self { dir, root, process: process.expect("runsv") }
    }

    fn sv(&self, words: &[&str]) -> Command {
        let mut command = command(self.root.join("usr/bin/sv"), self.dir);
        command.args(words).arg(self.dir.join("echo")).stdout(Stdio::null());
        command
    }

    fn status(&self) -> Status {
        let output = self.sv(&["status"]).stdout(Stdio::piped()).output().expect("sv");
        let text = String::from_utf8(output.stdout).expect("it is text");
        // `run: DIRECTORY: (pid 17) 1s, want down, got TERM`; the seconds pass.
        let pid = text.split_once("(pid ").and_then(|(_, rest)| rest.split_once(')')?.0.parse().ok());
        let (state, rest) = text.trim_end().split_once(": ").expect("a state");
        let want = rest.split_once(", want").map(|(_, want)| format!(", want{want}"));
        Status { state: state.to_owned() + &want.unwrap_or_default(), pid: pid.unwrap_or_default() }
    }
}

impl Drop for Runit<'_> {
    fn drop(&mut self) {
        end(&mut self.process, self.dir);
    }
}

#[test]
fn runit_sees_one_process_through_every_upgrade() {
    let Some(root) = packages("runit", &["runit"]) else { return };
    let dir = Dir::new();
    let runit = Runit::start(root, &dir);
    let address = dir.wait_until("a generation that serves", || addresses(&dir, 1).pop());
    upgrade_thrice(&dir, &address, || assert!(succeeds(&mut runit.sv(&["hup"]))), || runit.status());
    let watched = runit.status();
    assert_eq!(children(runit.process.id()), [watched.pid.to_string()], "runsv has one child");

    // A service that is told to end is started again once it has drained.
    let mut client = Client::tcp(&address);
    let who = client.who();
    assert!(succeeds(&mut runit.sv(&["term"])));
    drains(&mut client, &address, who);
    assert_eq!(runit.status().pid, watched.pid);
    client.close();
    let address = dir.wait_until("another first generation", || addresses(&dir, 1).get(1).cloned());
    let again = runit.status();
    assert_eq!(again.state, "run");
    assert_ne!(again.pid, watched.pid);

    let mut client = Client::tcp(&address);
    let who = client.who();
    let mut stop = runit.sv(&["-w", "40", "stop"]).spawn().expect("sv");
    drains(&mut client, &address, who);
    assert_eq!(runit.status(), Status { state: "run, want down, got TERM".to_owned(), pid: again.pid });
    assert!(stop.try_wait().expect("it is a child").is_none(), "it waits");
    client.close();
    assert!(stop.wait().expect("it is a child").success());
    assert_eq!(runit.status().state, "down");
    assert_eq!(children(runit.process.id()), [""; 0]);
    assert!(!dir.join("run/echo.pid").exists());
}
