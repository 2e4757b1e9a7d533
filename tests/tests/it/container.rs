//! The supervisor as the first process of a container.

use std::fs;
use std::io::{BufRead, BufReader, IoSliceMut, Lines};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use processes::{DEADLINE, proc};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::harness::find;
use crate::harness::load::Load;
use crate::harness::{Client, Dir, Root, Signal, root_or_skip, wait_until_refused};
use crate::look;
use crate::program::run;

/// A victim that is the first process of a namespace of processes.
struct Container {
    unshare: Unshare,
    /// That process, as it is seen from outside.
    first: u32,
    address: String,
    lines: Lines<BufReader<ChildStdout>>,
    /// Its end is how a victim learns that the test is over.
    _lifeline: ChildStdin,
}

/// unshare(1), whose end is that of the container: a victim that is the first process there cannot end itself when the test
/// is over, for no process of its namespace can kill it.
struct Unshare(Child);

impl Drop for Unshare {
    fn drop(&mut self) {
        match self.0.kill().and_then(|()| self.0.wait()) {
            Ok(_) | Err(_) => {}
        }
    }
}

impl Container {
    /// One with a supervisor, which is what there is unless somebody says otherwise. `plan` is that of each process, one a line;
    /// the first line is the supervisor's.
    fn supervised(dir: &Dir, plan: &str, supervise: Option<&str>) -> Self {
        let (container, serving) = Self::start(dir, plan, supervise);
        assert!(!serving.starts_with("1 "), "another one serves: {serving}");
        container
    }

    /// And the line of the process that serves.
    fn start(dir: &Dir, plan: &str, supervise: Option<&str>) -> (Self, String) {
        fs::write(dir.join("plan"), plan).expect("a file");
        let unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(env!("CARGO_BIN_EXE_victim"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("a path"))
            .env("VICTIM_DIR", dir.path())
            .env("VICTIM_LISTEN", "echo tcp://127.0.0.1:0")
            .env("VICTIM_AWAIT", "1")
            .env("TABLEFLIP_PIDFILE", dir.join("pid"))
            .env("TABLEFLIP_PROBATION", "10ms")
            .envs(supervise.map(|when| ("TABLEFLIP_SUPERVISE", when)))
            .envs(dir.join("notify").exists().then(|| ("NOTIFY_SOCKET", dir.join("notify"))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("log")).expect("a file"))
            .spawn()
            .expect("unshare");
        let mut unshare = Unshare(unshare);
        let lifeline = unshare.0.stdin.take().expect("it is a pipe");
        let mut lines = BufReader::new(unshare.0.stdout.take().expect("it is a pipe")).lines();
        assert!(wait(&mut lines, "main").starts_with("1 0"), "it is the first process");
        let address = wait(&mut lines, "listening").rsplit(' ').next().expect("an address").to_owned();
        let serving = wait(&mut lines, "step:Serving");
        let first = proc::children(unshare.0.id()).pop().expect("a child");
        (Self { unshare, first, address, lines, _lifeline: lifeline }, serving)
    }

    fn signal(&self, signal: Signal) {
        crate::harness::signal(self.first, signal).expect("it lives");
    }

    fn wait(&mut self, what: &str) -> String {
        wait(&mut self.lines, what)
    }

    /// Of the first process: the processes that it is the parent of.
    fn children(&self) -> Vec<u32> {
        look::children_of(self.first)
    }

    /// How the container has ended, as a container engine would say it.
    fn exit(mut self) -> i32 {
        let status = self.unshare.0.wait().expect("it is a child");
        status.code().expect("unshare exits like it")
    }
}

/// The next line of that kind, which every process of the service may have said.
fn wait(lines: &mut Lines<BufReader<ChildStdout>>, what: &str) -> String {
    let mut lines = lines.map(|line| line.expect("it is text"));
    let line = lines.find(|line| line.splitn(3, ' ').nth(2).is_some_and(|said| said.starts_with(what)));
    line.unwrap_or_else(|| panic!("there was no `{what}`"))
}

/// From outside, a service counts by other numbers: here the first process of this machine would be waited for.
#[test]
fn a6_the_program_waits_for_the_process_and_not_for_its_number() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let (container, serving) = Container::start(&dir, "", Some("never"));
    assert!(serving.starts_with("1 "), "{serving}");
    let outside = container.first;
    let note = format!("process 1 is process {outside} here: the service counts by its own PID namespace");
    let status = run(&dir, "status pid");
    assert!(status.done().starts_with("generation 1, process 1: serving"), "{}", status.out);
    assert!(status.err.contains(&note), "{}", status.err);
    // By the pid file alone, it is a number of this machine, whose process is another.
    let control = dir.join("pid.control");
    fs::rename(&control, dir.join("elsewhere")).unwrap();
    for verb in ["upgrade", "stop", "status"] {
        run(&dir, &format!("{verb} pid"))
            .failed(3, "pid names process 1, which is not proven to be the service: ");
    }
    fs::write(dir.join("outside"), outside.to_string()).unwrap();
    run(&dir, "stop outside").failed(3, "it is process 1 in a PID namespace of its own");
    fs::rename(dir.join("elsewhere"), control).unwrap();
    let stopped = run(&dir, "stop --timeout 20s pid");
    assert!(stopped.err.contains(&note), "{}", stopped.err);
    assert_eq!(stopped.done(), "process 1 is gone\n");
    assert_eq!(container.exit(), 0);
}

/// M11 and P2.
#[test]
fn m11_p2_ten_upgrades_of_a_container_under_load() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    // Of the supervisor and ten generations nothing; the last body has something to say at the stop.
    let mut container = Container::supervised(&dir, &("\n".repeat(11) + "shutdown return 7\n"), None);
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
    find("end of all but the one that serves", || (container.children().len() == 1).then_some(()));

    let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", container.first)).unwrap();
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
    // Said or not, it is the same.
    let mut container = Container::supervised(&dir, "", Some("auto"));
    container.signal(Signal::HUP);
    container.wait("alone");
    Client::tcp(&container.address).send("do signal KILL");
    assert_eq!(container.exit(), 128 + 9, "as a shell says of SIGKILL");
}

/// It is the service itself then, as docs/reference.md says: the first upgrade is the end of the container.
#[test]
fn a_first_process_that_is_to_supervise_nobody_serves() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let (mut container, serving) = Container::start(&dir, "", Some("never"));
    assert!(serving.starts_with("1 1 "), "{serving}");
    let mut client = Client::tcp(&container.address);
    assert_eq!(client.who(), (1, 1));
    assert_eq!(container.children(), [0_u32; 0]);
    container.signal(Signal::HUP);
    container.wait("upgrading");
    let draining = container.wait("draining");
    assert!(draining.starts_with("1 1 "), "{draining}");
    assert_eq!(container.children().len(), 1);
    client.close();
    let address = container.address.clone();
    assert_eq!(container.exit(), 0, "as it ends outside of a container");
    wait_until_refused(address);
}

/// A7. With `PrivatePIDs=yes` the service is PID 1, and for the manager its main process is the supervisor. With
/// `NotifyAccess=main` the manager takes nothing from a generation, which is another process.
#[test]
fn a7_a_supervisor_passes_readiness_on() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let manager = UnixDatagram::bind(dir.join("notify")).expect("a socket");
    manager.set_read_timeout(Some(DEADLINE)).expect("a time");
    set_socket_passcred(&manager, true).expect("SO_PASSCRED");
    let container = Container::supervised(&dir, "", None);
    let mut said = Vec::new();
    while !said.iter().any(|(sender, text)| *sender == container.first && text == "READY=1") {
        said.push(hear(&manager));
    }
}

/// A message, and the process that has sent it.
fn hear(manager: &UnixDatagram) -> (u32, String) {
    let mut data = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = recvmsg(manager, &mut [IoSliceMut::new(&mut data)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let length = length.expect("a message").bytes;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => {
            Some(sender.pid.as_raw_nonzero().get().unsigned_abs())
        }
        _ => None,
    });
    (sender.expect("its sender"), String::from_utf8_lossy(&data[..length]).into_owned())
}
