//! The measured processes: started, followed from one generation to the next, and ended.

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{self, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use processes::{Exit, Process, Signal, adopt_orphans, proc};

use crate::Result;

/// The hidden arguments, under which this program is what it measures.
pub(crate) const EMPTY: &str = "--empty";
pub(crate) const EMPTY_BODY: &str = "--empty-body";
pub(crate) const STAMP: &str = "--stamp";
pub(crate) const SERVICE: &str = "--service";
pub(crate) const VERIFY: &str = "--verify";

/// How long the benchmark waits for an event that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// For sched_setaffinity(2).
const THIS_THREAD: Pid = Pid::from_raw(0);

/// This program again, with other arguments.
pub(crate) fn this_program() -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    // The variables of this environment are for another service.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("TABLEFLIP_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Waits until a process is dead, and reaps it. An end that is not a success is an error.
pub(crate) fn wait_for_success(process: &Process) -> Result<()> {
    match process.exit_within(PATIENCE)? {
        Some(Exit::Status(0)) => Ok(()),
        Some(exit) => Err(format!("process {} has failed: it {exit}", process.pid()).into()),
        None => Err(format!("process {} does not end", process.pid()).into()),
    }
}

fn kill(process: &Process) -> Result<()> {
    process.signal(Signal::KILL)?;
    match process.exit_within(PATIENCE)? {
        Some(_) => Ok(()),
        None => Err("it does not end".into()),
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
        let process = Process::open(child.id());
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (process, (input, output)) = match (process, pipes) {
            (Ok(process), Some(pipes)) => (process, pipes),
            (Err(error), _) => {
                child.kill()?;
                child.wait()?;
                return Err(error.into());
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
    pub(crate) fn follow(&mut self, successor: u32) -> Result<()> {
        let successor = Process::open(successor)?;
        wait_for_success(&std::mem::replace(&mut self.process, successor))
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
        if let Err(error) = kill(&self.process) {
            eprintln!("bench: process {}: {error}", self.process.pid());
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
/// not of process 1. So this program reaps it, and none is left however the program ends.
#[derive(Debug)]
pub(crate) struct Family(());

impl Family {
    pub(crate) fn found() -> Result<Self> {
        adopt_orphans()?;
        // A thousand listeners are two thousand descriptors.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(Self(()))
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // A child that dies may leave its own children to this process.
        let mut killed = BTreeSet::new();
        let this = process::id();
        while let Some(child) = proc::children(this).into_iter().find(|child| killed.insert(*child)) {
            // It is a child that is not reaped, so the number is its own.
            let ended = Process::open(child).map_err(Into::into).and_then(|child| kill(&child));
            if let Err(error) = ended {
                eprintln!("bench: process {child}: {error}");
            }
        }
    }
}
