//! The supervisor under supervisord and runit, from the packages of the distribution, with the entries of docs/containers.md;
//! and under a shell at a terminal.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use processes::Process;
use processes::proc::{self, Stat};
use rustix::event::{PollFd, PollFlags, poll};

use crate::harness::load::{Load, ask};
use crate::harness::terminal::terminal;
use crate::harness::{Client, Dir, Signal, block_of_the_page, find, signal, skip, unpack};
use crate::look::children_of;

/// The packages of a supervisor, or why this test is skipped.
fn packages(name: &str, packages: &[&str]) -> Option<PathBuf> {
    unpack("", name, packages).inspect_err(|why| skip(&format!("{name} cannot be had: {why}"))).ok()
}

/// The entry of docs/containers.md in this language, for the service and the directory of a test.
fn entry_of_the_page(language: &str, dir: &Dir) -> String {
    let entry = block_of_the_page(language);
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
    signal(supervisor.id(), Signal::TERM).expect("it is a child");
    supervisor.wait().expect("it is a child");
}

/// The addresses of each process that has said that it is of this generation, in their order.
fn addresses(dir: &Dir, generation: u64) -> Vec<String> {
    let out = fs::read_to_string(dir.join("out")).unwrap_or_default();
    let begin = format!("generation {generation} is process ");
    let lines = out.split_inclusive('\n').filter_map(|line| line.strip_prefix(&begin)?.strip_suffix('\n'));
    lines.filter_map(|line| Some(line.split_once(" at ")?.1.trim_end().to_owned())).collect()
}

/// The state of a service, and the process that its supervisor takes it for.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    state: String,
    pid: u32,
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).status().expect("it runs").success()
}

/// Waits until that generation answers; its process. One that has said its address may have yet to serve, and would refuse an
/// upgrade.
fn wait_until_it_serves(address: &str, generation: u64) -> String {
    let serves = format!("{generation} ");
    find("generation that serves", || Some(ask(address).ok()?.strip_prefix(&serves)?.trim_end().to_owned()))
}

/// Three upgrades under load, through which the supervisor sees one process.
fn upgrade_thrice(dir: &Dir, address: &str, reload: impl Fn(), status: impl Fn() -> Status) {
    wait_until_it_serves(address, 1);
    let before = status();
    assert_ne!(before.pid, 0, "{before:?}");
    let load = Load::start(address);
    for generation in 2..=4 {
        reload();
        let pid = wait_until_it_serves(address, generation);
        // What it has said comes by way of whoever reads its stdout.
        find("its address", || (addresses(dir, generation) == [address]).then_some(()));
        assert_eq!(status(), before, "the same state, and the same process");
        // One that still drains would have the next refused, and is the parent of the one that serves; one that is not reaped
        // would be a child as well.
        find("end of the predecessor", || {
            (proc::children(before.pid) == [pid.parse::<u32>().expect("a process ID")]).then_some(())
        });
    }
    println!("{} answered in three upgrades", load.end());
}

/// A stop that somebody asks for meanwhile: the client that is there is served, and no other.
fn drains(client: &mut Client, address: &str, who: (u64, u32)) {
    find("refused client", || TcpStream::connect(address).is_err().then_some(()));
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
    find("RUNNING", || (supervisord.status().state == "RUNNING").then_some(()));
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
    // What runs is quicker than its status.
    find("run", || (runit.status().state == "run").then_some(()));
    upgrade_thrice(&dir, &address, || assert!(succeeds(&mut runit.sv(&["hup"]))), || runit.status());
    let watched = runit.status();
    assert_eq!(children_of(runit.process.id()), [watched.pid], "runsv has one child");

    // A service that is told to end is started again once it has drained.
    let mut client = Client::tcp(&address);
    let who = client.who();
    assert!(succeeds(&mut runit.sv(&["term"])));
    drains(&mut client, &address, who);
    assert_eq!(runit.status().pid, watched.pid);
    client.close();
    let address = dir.wait_until("another first generation", || addresses(&dir, 1).get(1).cloned());
    let again = find("status of the other one", || {
        Some(runit.status()).filter(|status| status.state == "run" && status.pid != watched.pid)
    });

    let mut client = Client::tcp(&address);
    let who = client.who();
    let mut stop = runit.sv(&["-w", "40", "stop"]).spawn().expect("sv");
    drains(&mut client, &address, who);
    // It is written down after the signal is sent.
    let stopping = Status { state: "run, want down, got TERM".to_owned(), pid: again.pid };
    find("status of a stop", || (runit.status() == stopping).then_some(()));
    assert!(stop.try_wait().expect("it is a child").is_none(), "it waits");
    client.close();
    assert!(stop.wait().expect("it is a child").success());
    assert_eq!(runit.status().state, "down");
    assert_eq!(children_of(runit.process.id()), [0_u32; 0]);
    assert!(!dir.join("run/echo.pid").exists());
}

/// Copies what is on a terminal until the pipe is closed, or no process has the other end of the terminal: EIO.
fn copy_until(closed: &PipeReader, mut terminal: File, out: &mut File) {
    let mut buffer = [0; 4096];
    loop {
        let mut fds = [PollFd::new(&terminal, PollFlags::IN), PollFd::new(closed, PollFlags::IN)];
        poll(&mut fds, None).expect("poll");
        if !fds[1].revents().is_empty() {
            return;
        }
        match terminal.read(&mut buffer) {
            Ok(length @ 1..) => out.write_all(&buffer[..length]).expect("a file"),
            Ok(0) | Err(_) => return,
        }
    }
}

/// A shell with job control, at a terminal of its own. All that was on the terminal is in the file `out`.
struct Shell<'d> {
    dir: &'d Dir,
    process: Child,
    /// None once the terminal is closed.
    keyboard: Option<File>,
    screen: Option<JoinHandle<()>>,
    /// Its end ends the thread of the screen.
    open: Option<PipeWriter>,
}

const PROMPT: &str = "at your service> ";

impl<'d> Shell<'d> {
    fn start(dir: &'d Dir, supervise: &str) -> Self {
        Self::of(dir, supervise, "sh", &["-i"])
    }

    fn of(dir: &'d Dir, supervise: &str, program: &str, args: &[&str]) -> Self {
        let (ours, theirs) = terminal();
        let (ours, mut out) = (File::from(ours), File::create(dir.join("out")).expect("a file"));
        let keyboard = ours.try_clone().expect("a descriptor");
        // It leads a session of its own, whose terminal this is.
        let process = command("setsid", dir)
            .args(["--ctty", program])
            .args(args)
            .env("PS1", PROMPT)
            .env("TABLEFLIP_PIDFILE", dir.join("pid"))
            .env("TABLEFLIP_SUPERVISE", supervise)
            .stdin(theirs.try_clone().expect("a descriptor"))
            .stdout(theirs.try_clone().expect("a descriptor"))
            .stderr(theirs)
            .spawn()
            .expect("setsid");
        let (closed, open) = io::pipe().expect("a pipe");
        let screen = thread::spawn(move || copy_until(&closed, ours, &mut out));
        Self { dir, process, keyboard: Some(keyboard), screen: Some(screen), open: Some(open) }
    }

    /// Closes the terminal, as its window is closed.
    fn hang_up(&mut self) {
        self.open = None;
        self.screen.take().expect("it is open").join().expect("it does not panic");
        self.keyboard = None;
    }

    fn press(&self, keys: &str) {
        self.keyboard.as_ref().expect("it is open").write_all(keys.as_bytes()).expect("it has room");
    }

    fn screen(&self) -> String {
        fs::read_to_string(self.dir.join("out")).expect("a file")
    }

    fn prompts(&self) -> usize {
        self.screen().matches(PROMPT).count()
    }

    fn wait_for_prompt(&self, number: usize) {
        self.dir.wait_until("prompt", || (self.prompts() >= number).then_some(()));
        assert_eq!(self.prompts(), number, "{}", self.screen());
    }

    /// The address of the first generation, which may have come after a prompt.
    fn address_of_the_first(&self) -> String {
        self.dir.wait_until("generation that serves", || {
            let screen = self.screen() + &fs::read_to_string(self.dir.join("said")).unwrap_or_default();
            let (line, _) = screen.split_once("generation 1 is process ")?.1.split_once('\n')?;
            Some(line.split_once(" at ")?.1.trim_end().to_owned())
        })
    }

    /// The process group that has the terminal.
    fn foreground(&self) -> u32 {
        let stat = Stat::of(self.process.id()).expect("the shell lives");
        u32::try_from(stat.foreground).expect("a process group")
    }

    /// The processes of the shell's session that live.
    fn session(&self) -> Vec<u32> {
        let session = self.process.id();
        let is_of_it = |stat: Stat| !stat.is_zombie() && stat.session == session;
        proc::all().filter(|pid| Stat::of(pid).is_some_and(is_of_it)).collect()
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the terminal\n{}---", self.screen());
        }
        // As long as the shell is not reaped, the number of the session is its own. Again and again, because an old process whose
        // successor is killed starts another.
        find("end of the session", || {
            let session = self.session();
            for pid in &session {
                let killed = Process::open(*pid).and_then(|process| process.signal_if_alive(Signal::KILL));
                killed.unwrap_or_else(|error| eprintln!("process {pid}: {error}"));
            }
            session.is_empty().then_some(())
        });
        self.process.wait().expect("it is a child");
        self.open = None;
        if let Some(screen) = self.screen.take() {
            screen.join().expect("it does not panic");
        }
    }
}

#[test]
fn a_terminal_is_the_services_until_it_has_drained() {
    let dir = Dir::new();
    let shell = Shell::start(&dir, "always");
    shell.wait_for_prompt(1);
    shell.press(concat!(env!("CARGO_BIN_EXE_unit"), "\n"));
    let address = dir.wait_until("a generation that serves", || addresses(&dir, 1).pop());
    let job = shell.foreground();
    assert_ne!(job, shell.process.id(), "the shell has job control");
    let status = || Status { state: format!("{} prompts", shell.prompts()), pid: shell.foreground() };
    upgrade_thrice(&dir, &address, || signal(job, Signal::HUP).expect("it lives"), status);

    // ^Z stops the parent, and the shell goes on; so does the service, which is no process of the job. fg has it back.
    shell.press("\x1a");
    shell.wait_for_prompt(2);
    assert_eq!(shell.foreground(), shell.process.id());
    wait_until_it_serves(&address, 4);
    shell.press("fg\n");
    find("the job in the foreground", || (shell.foreground() == job).then_some(()));

    let mut client = Client::tcp(&address);
    let who = client.who();
    shell.press("\x03");
    drains(&mut client, &address, who);
    assert_eq!(status(), Status { state: "2 prompts".to_owned(), pid: job });
    client.close();
    shell.wait_for_prompt(3);
    assert_eq!(shell.session(), [shell.process.id()], "the prompt comes when nothing is left");
    assert!(!dir.join("pid").exists());
    assert!(!shell.screen().contains(WITHOUT_TERMINAL), "{}", shell.screen());
    shell.press("echo status $?\n");
    dir.wait_until("status of a service that was stopped", || {
        shell.screen().contains("\nstatus 0\r\n").then_some(())
    });
}

/// In both warnings about a terminal.
const WITHOUT_TERMINAL: &str = "serves on without the terminal";

/// Upgrades a service at a terminal. Its process, once its predecessor has exited.
fn upgrade_at_terminal(address: &str, generation: u64) -> u32 {
    let old = wait_until_it_serves(address, generation).parse().expect("a process ID");
    signal(old, Signal::HUP).expect("it lives");
    let new = wait_until_it_serves(address, generation + 1).parse().expect("a process ID");
    find("end of the predecessor", || (!proc::is_running(old)).then_some(()));
    new
}

#[test]
fn d10_a_service_that_leaves_its_terminal_says_so_once() {
    let dir = Dir::new();
    let shell = Shell::start(&dir, "never");
    shell.wait_for_prompt(1);
    // In a pipeline of its own job, as a user may have it.
    shell.press(concat!("(exec ", env!("CARGO_BIN_EXE_unit"), ")\n"));
    let address = shell.address_of_the_first();
    let second = upgrade_at_terminal(&address, 1);
    shell.wait_for_prompt(2);
    let said =
        format!("process {second} {WITHOUT_TERMINAL}: once this process has exited, the shell goes on");
    assert!(shell.screen().contains(&said), "{}", shell.screen());
    assert!(shell.screen().contains(&format!("stop it with `kill {second}`")), "{}", shell.screen());
    // The prompt is there, Ctrl-C reaches no service, and nothing is said a second time.
    shell.press("\x03");
    shell.wait_for_prompt(3);
    let third = upgrade_at_terminal(&address, 2);
    assert_eq!(shell.screen().matches(WITHOUT_TERMINAL).count(), 1, "{}", shell.screen());
    signal(third, Signal::TERM).expect("it lives");
    find("end of the service", || (!proc::is_running(third)).then_some(()));
}

/// Ctrl-C never reached a job in the background.
#[test]
fn d10_a_job_in_the_background_says_nothing_of_the_terminal() {
    let dir = Dir::new();
    let shell = Shell::start(&dir, "never");
    shell.wait_for_prompt(1);
    shell.press(concat!(env!("CARGO_BIN_EXE_unit"), " &\n"));
    let address = shell.address_of_the_first();
    let second = upgrade_at_terminal(&address, 1);
    signal(second, Signal::TERM).expect("it lives");
    find("end of the service", || (!proc::is_running(second)).then_some(()));
    assert!(!shell.screen().contains(WITHOUT_TERMINAL), "{}", shell.screen());
}

#[test]
fn d10_a_service_in_the_place_of_the_shell_says_that_the_terminal_hangs_up() {
    let dir = Dir::new();
    let shell = Shell::start(&dir, "never");
    shell.wait_for_prompt(1);
    shell.press(concat!("exec ", env!("CARGO_BIN_EXE_unit"), "\n"));
    let address = shell.address_of_the_first();
    let first = wait_until_it_serves(&address, 1).parse().expect("a process ID");
    signal(first, Signal::HUP).expect("it lives");
    let said = format!("{WITHOUT_TERMINAL}, which hangs up once this process has exited");
    dir.wait_until("warning", || shell.screen().contains(&said).then_some(()));
}

/// The service has stopped in order: its connections were finished, and its pid file is gone.
fn assert_stops(dir: &Dir, pid: u32, client: Client) {
    client.close();
    find("end of the service", || (!proc::is_running(pid)).then_some(()));
    assert!(!dir.join("pid").exists(), "it ended in order");
}

/// A job in the foreground gets the SIGHUP of the kernel. One in the background gets that of the shell, sent with kill(2).
#[test]
fn b7_a_terminal_that_is_closed_stops_the_service() {
    for (shell, job, supervise) in [
        ("sh", "", "never"),
        ("sh", "exec ", "never"),
        ("bash", "", "never"),
        ("bash", " &", "never"),
        ("sh", "", "always"),
        ("sh", "exec ", "always"),
        ("bash", " &", "always"),
    ] {
        let dir = Dir::new();
        let args: &[&str] = if shell == "bash" { &["--norc", "--noprofile", "-i"] } else { &["-i"] };
        let mut terminal = Shell::of(&dir, supervise, shell, args);
        terminal.wait_for_prompt(1);
        let unit = env!("CARGO_BIN_EXE_unit");
        terminal.press(&if job.starts_with(' ') {
            format!("{unit}{job}\n")
        } else {
            format!("{job}{unit}\n")
        });
        let address = terminal.address_of_the_first();
        let pid = wait_until_it_serves(&address, 1).parse().expect("a process ID");
        let mut client = Client::tcp(&address);
        client.who();
        terminal.hang_up();
        let refused = || TcpStream::connect(&address).is_err().then_some(());
        find("a service that accepts nothing", refused);
        assert_eq!(client.who().1, pid, "{shell} {job} {supervise}: it finishes what is open");
        assert_stops(&dir, pid, client);
    }
}

/// The service upgrades from generation 2 on, and stops.
fn assert_lives_on(address: &str, second: u32) {
    let third = upgrade_at_terminal(address, 2);
    assert_ne!(second, third);
    signal(third, Signal::TERM).expect("it lives");
    find("end of the service", || (!proc::is_running(third)).then_some(()));
}

/// What nohup(1) starts survives its terminal, in every generation, and an operator may still ask for an upgrade.
#[test]
fn b7_a_hang_up_is_nothing_where_sighup_was_ignored() {
    for (job, supervise) in [("", "never"), (" &", "never"), ("", "always")] {
        let dir = Dir::new();
        let mut terminal = Shell::of(&dir, supervise, "bash", &["--norc", "--noprofile", "-i"]);
        terminal.wait_for_prompt(1);
        terminal.press(&format!(
            "nohup {} >{} 2>&1{job}\n",
            env!("CARGO_BIN_EXE_unit"),
            dir.join("said").display()
        ));
        let address = terminal.address_of_the_first();
        let second = upgrade_at_terminal(&address, 1);
        terminal.hang_up();
        find("end of the shell", || (!proc::is_running(terminal.process.id())).then_some(()));
        assert_lives_on(&address, second);
    }
}

/// An operator's SIGHUP is an upgrade, from the shell of the terminal, and from another place when the terminal is gone.
#[test]
fn b7_a_sighup_of_an_operator_is_an_upgrade() {
    let dir = Dir::new();
    let mut terminal = Shell::of(&dir, "never", "bash", &["--norc", "--noprofile", "-i"]);
    terminal.wait_for_prompt(1);
    // Without the terminal, writing to it fails.
    terminal.press(&format!("{} >{} 2>&1 &\n", env!("CARGO_BIN_EXE_unit"), dir.join("said").display()));
    let address = terminal.address_of_the_first();
    let first: u32 = wait_until_it_serves(&address, 1).parse().expect("a process ID");
    terminal.press("kill -HUP %1\n");
    let second: u32 = wait_until_it_serves(&address, 2).parse().expect("a process ID");
    find("end of the predecessor", || (!proc::is_running(first)).then_some(()));
    // Once the shell has said that the job has ended, it sends the process group of the job nothing more.
    terminal.press("\n");
    dir.wait_until("end of the job", || terminal.screen().contains("Done").then_some(()));
    terminal.hang_up();
    find("end of the shell", || (!proc::is_running(terminal.process.id())).then_some(()));
    assert_lives_on(&address, second);
}

/// The exit of a predecessor that leads the session hangs the terminal up: the service goes on without it.
#[test]
fn b7_the_exit_of_a_predecessor_is_no_hang_up_of_the_service() {
    let dir = Dir::new();
    let shell = Shell::start(&dir, "never");
    shell.wait_for_prompt(1);
    shell.press(&format!("exec {} >{} 2>&1\n", env!("CARGO_BIN_EXE_unit"), dir.join("said").display()));
    let address = shell.address_of_the_first();
    let second = upgrade_at_terminal(&address, 1);
    assert_lives_on(&address, second);
}
