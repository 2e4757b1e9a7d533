//! The measured processes: started, followed from one generation to the next, and ended by pid.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::Result;

/// The hidden arguments, under which this program is what it measures.
pub(crate) const EMPTY: &str = "--empty";
pub(crate) const EMPTY_BODY: &str = "--empty-body";
pub(crate) const STAMP: &str = "--stamp";
pub(crate) const SERVICE: &str = "--service";

/// After how long something that does not happen is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// For sched_setaffinity(2).
const THIS_THREAD: Pid = Pid::from_raw(0);

/// This program again, with other arguments.
pub(crate) fn this_program() -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    // What is set for somebody's service is not meant for these.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("TABLEFLIP_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// A process, by a pidfd: its number is never mistaken for that of another.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    pub(crate) fn open(pid: Pid) -> Result<Self> {
        // SAFETY: pidfd_open takes any number; the descriptor it makes is closed on exec.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let number = Errno::result(result)? as RawFd;
        // SAFETY: it has just been made, and nobody else knows its number.
        Ok(Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(number) } })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// kill(2). The number is still its own, because nobody else reaps it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid, signal)?)
    }

    /// Waits until it is dead, and reaps it. An end that is not a success is an error.
    pub(crate) fn wait(self) -> Result<()> {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(PATIENCE)?)? == 0 {
            return Err(format!("process {} does not end", self.pid).into());
        }
        match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => Err(format!("process {} has failed: {status:?}", self.pid).into()),
        }
    }

    fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        waitpid(self.pid, None)?;
        Ok(())
    }
}

/// A service that is measured: this program under [`SERVICE`].
#[derive(Debug)]
pub(crate) struct Service {
    process: Process,
    address: SocketAddr,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Service {
    /// Starts it, and waits until it says its address.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = this_program()?
            .arg(SERVICE)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let process = Process::open(Pid::from_raw(child.id().try_into()?));
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (process, (input, output)) = match (process, pipes) {
            (Ok(process), Some(pipes)) => (process, pipes),
            (Err(error), _) => {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
            (Ok(_), None) => unreachable!("both were asked for"),
        };
        let mut service = Self {
            process,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            input,
            output: BufReader::new(output),
        };
        service.address = service.hear()?.parse()?;
        Ok(service)
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Follows an upgrade: `successor` is this service from now on, and its predecessor is waited for.
    pub(crate) fn follow(&mut self, successor: Pid) -> Result<()> {
        let successor = Process::open(successor)?;
        std::mem::replace(&mut self.process, successor).wait()
    }

    /// Gives it a line.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.input, "{line}")?)
    }

    /// The next line that it says.
    pub(crate) fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("the service has ended".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill() {
            eprintln!("bench: process {}: {error}", self.process.pid);
        }
    }
}

/// The processors of this program: one for the client, which is the thread that calls, the others for the services. Where they
/// share them it depends on the scheduler who waits for whom, and a service that has to do less may get less done. With only one
/// processor they share it.
#[derive(Debug)]
pub(crate) struct Apart {
    all: CpuSet,
    client: CpuSet,
    services: CpuSet,
}

impl Apart {
    pub(crate) fn new() -> Result<Self> {
        let all = sched_getaffinity(THIS_THREAD)?;
        let mut members = (0..CpuSet::count()).filter(|number| all.is_set(*number) == Ok(true));
        let first = members.next().ok_or("no processor")?;
        let (mut client, mut services) = (CpuSet::new(), CpuSet::new());
        client.set(first)?;
        for number in [members.next().unwrap_or(first)].into_iter().chain(members) {
            services.set(number)?;
        }
        Ok(Self { all, client, services })
    }

    /// Starts a service on its processors.
    pub(crate) fn start(&self, arguments: &[&str]) -> Result<Service> {
        sched_setaffinity(THIS_THREAD, &self.services)?;
        let service = Service::start(arguments);
        sched_setaffinity(THIS_THREAD, &self.client)?;
        service
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(THIS_THREAD, &self.all) {
            eprintln!("bench: processors: {error}");
        }
    }
}

/// The processes that descend from this one. A service whose predecessor ends becomes a child of this program and
/// not of process 1, so that it is reaped here, and none is left when the program ends, however it does.
#[derive(Debug)]
pub(crate) struct Family(());

impl Family {
    pub(crate) fn found() -> Result<Self> {
        prctl::set_child_subreaper(true)?;
        // A thousand listeners are two thousand descriptors.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(Self(()))
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // Each one that dies may leave its own children to us.
        let mut killed = BTreeSet::new();
        while let Some(child) = children(Pid::this()).iter().find(|child| killed.insert(child.pid)) {
            // It is our child and not reaped, so the number is its own.
            if let Err(error) = kill(child.pid, Signal::SIGKILL).and_then(|()| waitpid(child.pid, None)) {
                eprintln!("bench: process {}: {error}", child.pid);
            }
        }
    }
}

/// A child of some process, as /proc shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChildOf {
    pub(crate) pid: Pid,
    pub(crate) is_zombie: bool,
}

/// The children of `parent`, from proc_pid_stat(5).
pub(crate) fn children(parent: Pid) -> Vec<ChildOf> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?);
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name, in parentheses, may hold anything; what follows it may not.
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let is_zombie = fields.next()? == "Z";
            (fields.next()?.parse() == Ok(parent.as_raw())).then_some(ChildOf { pid, is_zombie })
        })
        .collect()
}
