//! The parent that stays, for those who watch one process: as the first process of a container, and under supervisord.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, kill_process};

use crate::harness::booted::until;
use crate::harness::{Client, DEADLINE, Dir, Root, Signal, root_or_skip, skip, unpack};

/// Clients that come one after the other, on several threads, until it is ended.
struct Load {
    over: &'static AtomicBool,
    clients: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    fn start(address: &str) -> Self {
        let over: &AtomicBool = Box::leak(Box::default());
        let clients = (0..4).map(|_| {
            let address = address.to_owned();
            thread::spawn(move || {
                let (mut answered, mut lost) = (0, Vec::new());
                while !over.load(Ordering::Relaxed) {
                    match ask(&address) {
                        Ok(_) => answered += 1,
                        Err(error) => lost.push(error.to_string()),
                    }
                }
                (answered, lost)
            })
        });
        Self { over, clients: clients.collect() }
    }

    /// How many were answered; none was lost.
    fn end(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        let results = self.clients.into_iter().map(|client| client.join().expect("it does not panic"));
        let results: Vec<_> = results.collect();
        let lost: Vec<_> = results.iter().flat_map(|(_, lost)| lost).collect();
        assert!(lost.is_empty(), "{lost:?}");
        results.iter().map(|(answered, _)| answered).sum()
    }
}

fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"who\n")?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}

/// A victim that is the first process of a namespace of processes.
struct Container {
    unshare: Child,
    /// That process, as it is seen from outside.
    first: Pid,
    address: String,
    lines: Lines<BufReader<ChildStdout>>,
    /// Its end is how a victim learns that the test is over.
    _lifeline: ChildStdin,
}

impl Container {
    /// `plan` is that of each process, one a line; the first line is the supervisor's.
    fn start(dir: &Dir, plan: &str) -> Self {
        fs::write(dir.join("plan"), plan).expect("a file");
        let mut unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(env!("CARGO_BIN_EXE_victim"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("a path"))
            .env("VICTIM_DIR", dir.path())
            .env("VICTIM_LISTEN", "echo tcp://127.0.0.1:0")
            .env("VICTIM_AWAIT", "1")
            .env("TABLEFLIP_PIDFILE", dir.join("pid"))
            .env("TABLEFLIP_PROBATION", "10ms")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("log")).expect("a file"))
            .spawn()
            .expect("unshare");
        let lifeline = unshare.stdin.take().expect("it is a pipe");
        let mut lines = BufReader::new(unshare.stdout.take().expect("it is a pipe")).lines();
        assert!(wait(&mut lines, "main").starts_with("1 0"), "it is the first process");
        let address = wait(&mut lines, "listening").rsplit(' ').next().expect("an address").to_owned();
        assert!(!wait(&mut lines, "step:Serving").starts_with("1 "), "another one serves");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let first =
            fs::read_to_string(children).expect("it lives").trim().parse().ok().and_then(Pid::from_raw);
        Self { unshare, first: first.expect("a process ID"), address, lines, _lifeline: lifeline }
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.first, signal).expect("it lives");
    }

    fn wait(&mut self, what: &str) -> String {
        wait(&mut self.lines, what)
    }

    /// Of the first process: the processes that it is the parent of.
    fn children(&self) -> Vec<String> {
        let pid = self.first.as_raw_pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it lives");
        children.split_whitespace().map(str::to_owned).collect()
    }

    /// How the container has ended, as a container engine would say it.
    fn exit(mut self) -> i32 {
        let status = self.unshare.wait().expect("it is a child");
        status.code().expect("unshare exits like it")
    }
}

/// The next line of that kind, which every process of the service may have said.
fn wait(lines: &mut Lines<BufReader<ChildStdout>>, what: &str) -> String {
    let mut lines = lines.map(|line| line.expect("it is text"));
    let line = lines.find(|line| line.splitn(3, ' ').nth(2).is_some_and(|said| said.starts_with(what)));
    line.unwrap_or_else(|| panic!("there was no `{what}`"))
}

/// M11 and P2.
#[test]
fn m11_p2_ten_upgrades_of_a_container_under_load() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    // Of the supervisor and ten generations nothing; the last body has something to say at the stop.
    let mut container = Container::start(&dir, &("\n".repeat(11) + "shutdown return 7\n"));
    // What a service leaves behind is its parent's, which reaps it.
    let mut client = Client::tcp(&container.address);
    assert_eq!(client.ask("do run orphan setsid -f true"), "done");
    client.close();
    let load = Load::start(&container.address);
    for generation in 2..=11 {
        container.signal(Signal::HUP);
        let alone = container.wait("alone");
        assert_eq!(alone.split(' ').nth(1), Some(&*generation.to_string()), "{alone}");
    }
    let answered = load.end();
    until("end of all but the one that serves", || (container.children().len() == 1).then_some(()));

    let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", container.first.as_raw_pid())).unwrap();
    let kib = |field: &str| -> u64 {
        let line = memory.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let own = kib("Private_Dirty:") + kib("Private_Clean:");
    println!(
        "{answered} answered in ten upgrades; the supervisor has {own} KiB of its own, {} in all",
        kib("Rss:")
    );
    assert!(own < 3 * 1024, "{memory}");

    let mut client = Client::tcp(&container.address);
    let before = client.who();
    container.signal(Signal::TERM);
    container.wait("draining");
    assert_eq!(client.who(), before, "it drains");
    client.close();
    assert_eq!(container.exit(), 7, "that of the body");
}

#[test]
fn a_crash_of_the_one_that_serves_ends_the_container() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let mut container = Container::start(&dir, "");
    container.signal(Signal::HUP);
    container.wait("alone");
    Client::tcp(&container.address).send("do signal KILL");
    assert_eq!(container.exit(), 128 + 9, "as a shell says of SIGKILL");
}

/// The supervisord of the distribution, and what its page says.
fn supervisord() -> Option<PathBuf> {
    match unpack("", "supervisord", &["supervisor", "python3-pkg-resources"]) {
        Ok(_) if !PathBuf::from("/usr/bin/python3").exists() => {
            skip("supervisord is a program of /usr/bin/python3, which is not there");
            None
        }
        Ok(directory) => Some(directory),
        Err(why) => {
            skip(&format!("supervisord cannot be had: {why}"));
            None
        }
    }
}

/// The entry of docs/containers.md, for the files of a test.
fn entry_of_the_page(dir: &Dir) -> String {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/containers.md");
    let page = fs::read_to_string(page).expect("the page");
    let entry = page.split("```ini\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an entry");
    let more = format!(
        ",TABLEFLIP_PIDFILE=\"{0}/pid\",TABLEFLIP_LISTEN_ECHO=\"127.0.0.1:0\",TABLEFLIP_PROBATION=\"10ms\"",
        dir.path().display()
    );
    let log = dir.join("out");
    let (service, log) = (env!("CARGO_BIN_EXE_unit"), log.to_str().expect("it is UTF-8"));
    entry
        .replace("/usr/local/bin/echo-service", service)
        .replace("/var/log/echo.log", log)
        .replace("SUPERVISE=\"always\"", &format!("SUPERVISE=\"always\"{more}"))
}

struct Supervisord {
    root: PathBuf,
    configuration: PathBuf,
    process: Child,
}

impl Supervisord {
    fn start(root: PathBuf, dir: &Dir) -> Self {
        let configuration = dir.join("supervisord.conf");
        let entry = entry_of_the_page(dir);
        let text = format!(
            "[supervisord]\nnodaemon=true\nlogfile={0}/log\npidfile={0}/supervisord.pid\n\
             [unix_http_server]\nfile={0}/rpc\n[supervisorctl]\nserverurl=unix://{0}/rpc\n\
             [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n{entry}",
            dir.path().display()
        );
        fs::write(&configuration, text).expect("a file");
        let mut command = program(&root, "supervisord");
        let process = command.arg("-c").arg(&configuration).stdout(Stdio::null()).spawn().expect("python3");
        Self { root, configuration, process }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = program(&self.root, "supervisorctl");
        command.arg("-c").arg(&self.configuration).args(words).stdin(Stdio::null());
        command
    }

    fn ctl(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("python3");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn program(root: &Path, name: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(root.join("usr/bin").join(name));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"));
    command
}

impl Drop for Supervisord {
    fn drop(&mut self) {
        // It stops what it has started, and then itself.
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).expect("a process ID");
        kill_process(pid, Signal::TERM).expect("it is a child");
        self.process.wait().expect("it is a child");
    }
}

#[test]
fn supervisord_sees_one_process_through_every_upgrade() {
    let Some(root) = supervisord() else { return };
    let dir = Dir::new();
    let supervisord = Supervisord::start(root, &dir);
    let said = |generation: u64| {
        dir.wait_until("a generation that serves", || {
            let out = fs::read_to_string(dir.join("out")).ok()?;
            let begin = format!("generation {generation} is process ");
            let line = out.lines().find_map(|line| line.strip_prefix(&begin).map(str::to_owned))?;
            Some(line.split_once(" at ")?.1.to_owned())
        })
    };
    let address = said(1);
    let status = || {
        let status = supervisord.ctl(&["status", "echo"]);
        let words: Vec<_> = status.split_whitespace().map(str::to_owned).collect();
        (words[1].clone(), words.get(3).cloned())
    };
    until("RUNNING", || (status().0 == "RUNNING").then_some(()));
    let before = status();
    let load = Load::start(&address);
    for generation in 2..=4 {
        supervisord.ctl(&["signal", "HUP", "echo"]);
        said(generation);
        let serves = format!("{generation} ");
        until("generation that serves alone", || {
            let answer = ask(&address).ok()?;
            answer.starts_with(&serves).then_some(())
        });
        assert_eq!(status(), before, "RUNNING, and the same process");
        // One that still drains would refuse the next.
        until("end of the predecessor", || {
            let pid = before.1.as_ref()?.trim_end_matches(',');
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            (children.split_whitespace().count() == 1).then_some(())
        });
    }
    println!("{} answered in three upgrades", load.end());

    let mut client = Client::tcp(&address);
    let who = client.who();
    let mut stop = supervisord.command(&["stop", "echo"]).stdout(Stdio::null()).spawn().expect("python3");
    until("STOPPING", || (status().0 == "STOPPING").then_some(()));
    assert_eq!(client.who(), who, "it drains");
    assert!(stop.try_wait().expect("it is a child").is_none(), "it waits");
    client.close();
    assert!(stop.wait().expect("it is a child").success());
    assert_eq!(status().0, "STOPPED");
}
