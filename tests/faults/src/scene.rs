//! A service under load that is traced, and what is looked at while it is upgraded and broken.

use std::collections::{HashMap, HashSet};
use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use crate::errors;
use crate::load::{Load, Tally};
use crate::manager::Manager;
use crate::service::{HOLD, PIDFILE};
use crate::tracer::{Call, Tracer, Verdict, send};

/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How many system calls an old process makes from the decision that it is not needed any more to its end, and a few
/// more. A successor that dies in that time dies as any process that is alone.
const LAST_CALLS: usize = 40;

/// The process that the fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Old,
    New,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// SIGKILL at this system call, counted from 1 over all threads: of the old process from the request on, of the new
    /// one from its first.
    Kill { at: usize },
    /// The same of a new process whose predecessor has a connection to finish that takes longer.
    KillBesideDrain { at: usize },
    /// That system call, counted in the same way, is made so much later.
    Delay { at: usize, by: Duration },
    /// This system call fails, the n-th time that it is made.
    Error { call: i64, error: Errno, nth: usize },
}

impl Fault {
    /// Its place among those of its kind.
    pub(crate) fn number(self) -> usize {
        let (Self::Kill { at: number }
        | Self::KillBesideDrain { at: number }
        | Self::Delay { at: number, .. }
        | Self::Error { nth: number, .. }) = self;
        number
    }
}

/// What a fault has hit.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The system call.
    pub(crate) call: String,
    /// Who was killed.
    pub(crate) victim: Option<i32>,
    /// The old process was killed before there was another: nobody can serve then.
    pub(crate) alone: bool,
    /// A connection that was accepted could not be registered with epoll: tokio has closed it, see docs/reliability.md.
    is_unregistered: bool,
    /// The process that was asked for the upgrade, and the length of its log then.
    old: i32,
    log: usize,
}

/// How a process says that an upgrade has failed, or that it starts its own image in the place of one that died.
const FAILURES: [&str; 3] = ["upgrade failed: ", "upgrade refused: ", " is started in its place"];

pub(crate) struct Scene {
    dir: PathBuf,
    probation: String,
    tracer: Tracer,
    first: Child,
    address: SocketAddr,
    pub(crate) load: Load,
    /// A connection that keeps the first process from ending its drain.
    held: Option<TcpStream>,
    manager: Option<Manager>,
    /// Every process of the service so far that was traced.
    processes: Vec<i32>,
    /// Those of them that a fault has ended.
    killed: Vec<i32>,
    /// What had come of the connections when the tracing began. None was under way.
    before: Tally,
    /// How many connections each of them has accepted since then.
    accepted: HashMap<i32, u64>,
    /// Those that are in accept4(2). The kernel does not say what came of it to one that is killed in it.
    accepting: HashSet<i32>,
    /// The threads that have exited by themselves, with their status.
    exited: Vec<(i32, i32)>,
    /// The manager has started it once more.
    pub(crate) restarted: bool,
}

impl Scene {
    /// Starts a service, with this probation, and waits until it serves.
    pub(crate) fn start(dir: &Path, probation: &str, manager: Option<Manager>) -> Result<Self, String> {
        let mut first = start(dir, probation, manager.as_ref(), Stdio::piped());
        let mut line = String::new();
        let mut stdout = BufReader::new(first.stdout.take().expect("it is a pipe"));
        stdout.read_line(&mut line).expect("the service says where it listens");
        // Its successors write there as well.
        thread::spawn(move || stdout.lines().for_each(drop));
        let address = line.trim().parse().expect("an address");
        let mut scene = Self {
            dir: dir.to_owned(),
            probation: probation.to_owned(),
            tracer: Tracer::default(),
            first,
            address,
            load: Load::start(address, 0, Duration::ZERO),
            held: None,
            manager,
            processes: Vec::new(),
            killed: Vec::new(),
            before: Tally::default(),
            accepted: HashMap::new(),
            accepting: HashSet::new(),
            exited: Vec::new(),
            restarted: false,
        };
        scene.wait_for_first()?;
        Ok(scene)
    }

    fn wait_for_first(&mut self) -> Result<(), String> {
        let pid = i32::try_from(self.first.id()).expect("a process ID");
        self.processes = vec![pid];
        if let Some(manager) = &mut self.manager {
            manager.follow(pid);
        }
        self.until("the start", |scene| scene.named() == Some(pid) && scene.is_content_with(pid))
    }

    /// Starts the service again, as the manager does that has seen it end.
    fn restart(&mut self) -> Result<(), String> {
        self.held = None;
        self.until("the end of what was left", |scene| scene.alive().is_empty())?;
        // Where it listens is known.
        self.first = start(&self.dir, &self.probation, self.manager.as_ref(), Stdio::null());
        self.wait_for_first()?;
        self.restarted = true;
        self.attach(self.processes[0])
    }

    /// Has clients ask it, and waits for the first answer.
    pub(crate) fn put_under_load(&mut self, clients: usize, pace: Duration) -> Result<(), String> {
        self.load = Load::start(self.address, clients, pace);
        self.until("the first answer", |scene| scene.load.tally().last.is_some())
    }

    /// Keeps the process that serves from ending its drain, until the outcome of an upgrade is known.
    pub(crate) fn hold(&mut self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(&[HOLD])?;
        BufReader::new(&stream).read_line(&mut String::new())?;
        self.held = Some(stream);
        Ok(())
    }

    /// The process that the pid file names.
    pub(crate) fn named(&self) -> Option<i32> {
        named_in(&self.dir)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Traces the process that serves from now on, and what it starts. No client may have a connection.
    pub(crate) fn trace(&mut self, process: i32) -> Result<(), String> {
        self.processes = vec![process];
        self.before = self.load.tally();
        self.killed.clear();
        self.accepted.clear();
        self.accepting.clear();
        self.exited.clear();
        self.attach(process)
    }

    fn attach(&mut self, process: i32) -> Result<(), String> {
        self.tracer.attach(process).map_err(|errno| format!("cannot trace the service: {errno}"))
    }

    pub(crate) fn let_go(&mut self) {
        self.tracer.let_go();
    }

    /// Takes what has happened, without a fault.
    fn pump(&mut self) {
        self.pump_with(|_, _| Verdict::Pass);
    }

    /// `judge` is also told how many processes there have been.
    fn pump_with(&mut self, mut judge: impl FnMut(usize, &Call) -> Verdict) {
        let Self { tracer, processes, killed, accepted, accepting, exited, manager, .. } = self;
        let ended = tracer.pump(|call| {
            let (Call::Born { process } | Call::Entry { process, .. } | Call::Exit { process, .. }) = call;
            if !processes.contains(&process) {
                processes.push(process);
            }
            let verdict = judge(processes.len(), &call);
            match call {
                Call::Entry { number: libc::SYS_accept4, .. } if verdict != Verdict::Kill => {
                    accepting.insert(process);
                }
                Call::Exit { number: libc::SYS_accept4, result, .. } => {
                    accepting.remove(&process);
                    *accepted.entry(process).or_default() += u64::from(result >= 0);
                }
                _ => {}
            }
            killed.extend((verdict == Verdict::Kill).then_some(process));
            verdict
        });
        exited.extend(ended);
        if let Some(manager) = manager {
            // Looked at before what was said is heard: what was said before a death is heard before it, as by systemd, to
            // which messages are more urgent than SIGCHLD.
            let has_lost = manager.has_lost();
            if has_lost {
                find_unheard_of(tracer, processes);
            }
            manager.heed(has_lost, processes, killed);
        }
    }

    /// Waits for something, while everything goes on.
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.pump();
            self.look_for_violation()?;
            if is_so(self) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let (named, alive, tally) = (self.named(), self.alive(), self.load.tally());
                return Err(format!(
                    "{what}: not within {DEADLINE:?}; the pid file names {named:?}; of {:?} there are {alive:?}; the last \
                     answer was {:?}'s, lost {:?}; {}",
                    self.processes,
                    tally.last,
                    tally.errors,
                    self.manager.as_ref().map(Manager::story).unwrap_or_default()
                ));
            }
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// The processes that are there, the zombies among them.
    pub(crate) fn alive(&self) -> Vec<i32> {
        self.processes.iter().copied().filter(|pid| is_there(*pid)).collect()
    }

    /// Waits until one serves, the pid file names it, a manager follows it, and no other is left, not even as a zombie.
    /// Returns that one.
    pub(crate) fn settle(&mut self) -> Result<i32, String> {
        let settled = |scene: &Self| match scene.alive()[..] {
            [one] => {
                scene.named() == Some(one)
                    && scene.load.tally().last == Some(one)
                    && scene.is_content_with(one)
            }
            _ => false,
        };
        let what = "one process that serves, with the pid file in its name";
        self.until(what, |scene| settled(scene) || scene.has_ended())?;
        if self.has_ended() {
            self.restart()?;
            self.until(what, settled)?;
        }
        Ok(self.alive()[0])
    }

    /// Whether there is no manager, or one that has nothing left to wait for.
    fn is_content_with(&self, process: i32) -> bool {
        self.manager.as_ref().is_none_or(|manager| manager.is_content_with(process))
    }

    /// Whether the service is over to a manager, which starts it again once nothing is left of it.
    fn has_ended(&self) -> bool {
        self.manager.as_ref().is_some_and(Manager::has_ended_the_unit)
    }

    fn look_for_violation(&self) -> Result<(), String> {
        self.manager.as_ref().and_then(Manager::violation).map_or(Ok(()), Err)
    }

    pub(crate) fn is_managed(&self) -> bool {
        self.manager.is_some()
    }

    /// Waits until a manager, if there is one, was told why the upgrade has failed. One that may have followed another process is
    /// told once it can listen.
    pub(crate) fn hear_of_failure(&mut self) -> Result<(), String> {
        let has_heard = |manager: &Manager| manager.status().contains("; the last upgrade failed: ");
        self.until("the reason in the status", |scene| scene.manager.as_ref().is_none_or(has_heard))
    }

    /// Asks for an upgrade.
    pub(crate) fn reload(&mut self, process: i32) {
        if let Some(manager) = &mut self.manager {
            manager.reload();
        }
        send(process, Signal::SIGHUP);
    }

    /// Stops the service, and waits until nothing is left of it.
    pub(crate) fn stop(&mut self, process: i32) -> Result<(), String> {
        if let Some(manager) = &mut self.manager {
            manager.stop();
        }
        send(process, Signal::SIGTERM);
        self.until("the end", |scene| scene.alive().is_empty() && (!scene.is_managed() || scene.has_ended()))
    }

    /// What has been said since the upgrade began that a fault has hit.
    pub(crate) fn said_since(&self, hit: &Hit) -> String {
        self.log().split_off(hit.log)
    }

    /// Waits until the upgrade has succeeded, or is said to have failed, and one process serves. Returns that one.
    pub(crate) fn outcome(&mut self, hit: &Hit) -> Result<i32, String> {
        let is_over = |scene: &Self| {
            let failed = || FAILURES.iter().any(|failure| scene.said_since(hit).contains(failure));
            scene.named() != Some(hit.old) || failed()
        };
        self.until("the outcome of the upgrade", |scene| is_over(scene) || scene.has_ended())?;
        self.held = None;
        self.settle()
    }

    /// Has the clients pause, and waits until no connection is open.
    pub(crate) fn quieten(&mut self) -> Result<(), String> {
        self.load.pause(true);
        self.until("the end of every connection", |scene| scene.load.is_paused())
    }

    /// Waits until whatever had been begun is over and has been counted.
    pub(crate) fn wait_for_every_client(&mut self) -> Result<(), String> {
        let begun = self.load.begun();
        // The connection after the one that may be under way.
        let next = |scene: &Self| scene.load.begun().iter().zip(&begun).all(|(now, then)| *now > *then);
        self.until("the next connection of every client", next)
    }

    /// An upgrade of the service, which is not traced. Returns who serves.
    pub(crate) fn upgrade(&mut self, old: i32) -> Result<i32, String> {
        self.reload(old);
        self.processes = vec![old];
        self.until("the upgrade", |scene| scene.named() != Some(old))?;
        self.processes.extend(self.named());
        let serving = self.settle()?;
        self.wait_for_every_client()?;
        Ok(serving)
    }

    /// Asks the service, which is traced, for an upgrade, and has a fault happen in it. `None` if the upgrade was over before
    /// that. `spared`: the fault hits no process that is alone, nor a successor that is older than this.
    pub(crate) fn break_it(
        &mut self,
        side: Side,
        fault: Fault,
        spared: Option<Duration>,
    ) -> Result<Option<Hit>, String> {
        let old = self.processes[0];
        let log = self.log().len();
        self.reload(old);
        let deadline = Instant::now() + DEADLINE;
        let (mut count, mut calls_of_old, mut hit) = (0, 0, None);
        let mut since_two: Option<Instant> = None;
        loop {
            self.pump_with(|processes, call| {
                let Call::Entry { process, number, arguments } = *call else { return Verdict::Pass };
                calls_of_old += usize::from(process == old);
                if processes > 1 {
                    since_two.get_or_insert_with(Instant::now);
                }
                let is_spared = spared.is_some_and(|age| since_two.is_none_or(|since| since.elapsed() > age));
                if hit.is_some() || is_spared || (process == old) != (side == Side::Old) {
                    return Verdict::Pass;
                }
                let is_counted = match fault {
                    Fault::Kill { .. } | Fault::KillBesideDrain { .. } | Fault::Delay { .. } => true,
                    Fault::Error { call, error, .. } => {
                        call == number && errors::can_fail(process, call, error, arguments)
                    }
                };
                count += usize::from(is_counted);
                let verdict = match fault {
                    Fault::Kill { at } | Fault::KillBesideDrain { at } if count == at => Verdict::Kill,
                    Fault::Delay { at, by } if count == at => Verdict::Hold(by),
                    Fault::Error { error, nth, .. } if is_counted && count == nth => Verdict::Fail(error),
                    _ => return Verdict::Pass,
                };
                let victim = (verdict == Verdict::Kill).then_some(process);
                hit = Some(Hit {
                    call: errors::name(number),
                    victim,
                    alone: false,
                    is_unregistered: victim.is_none() && number == libc::SYS_epoll_ctl,
                    old,
                    log,
                });
                calls_of_old = 0;
                verdict
            });
            self.look_for_violation()?;
            let victim = hit.as_ref().and_then(|hit| hit.victim);
            if side == Side::New
                && victim.is_some()
                && self.exited.contains(&(old, 0))
                && calls_of_old < LAST_CALLS
            {
                // The old process had decided to go when the new one was killed.
                return Ok(None);
            }
            let is_over = match victim {
                Some(victim) => {
                    let old_goes_on = side == Side::Old || calls_of_old >= LAST_CALLS || self.has_ended();
                    old_goes_on && !is_running(victim)
                }
                None => hit.is_some() || !is_running(old),
            };
            if is_over {
                // The old process may have been starting its successor when it was killed.
                find_unheard_of(&self.tracer, &mut self.processes);
                let count = self.processes.len();
                return Ok(hit.map(|hit| Hit { alone: victim == Some(old) && count == 1, ..hit }));
            }
            if Instant::now() > deadline {
                return Err("the upgrade did not come to an end".to_owned());
            }
            thread::sleep(Duration::from_micros(20));
        }
    }

    /// How much was lost since the tracing began. It is an error if that is more than whoever was hit had accepted and not
    /// answered, or if anybody found nobody listening. Every connection is over.
    pub(crate) fn judge_losses(&self, hit: &Hit) -> Result<u64, String> {
        let tally = self.load.tally();
        let cut_off = hit.victim.map_or(u64::from(hit.is_unregistered), |victim| {
            let accepted = self.accepted.get(&victim).copied().unwrap_or(0);
            let answered = tally.answered_by(victim) - self.before.answered_by(victim);
            (accepted + u64::from(self.accepting.contains(&victim))).saturating_sub(answered)
        });
        let lost = tally.lost - self.before.lost;
        if lost > cut_off || tally.refused > self.before.refused {
            return Err(format!(
                "lost {lost}, {:?}; {:?} was killed, with {cut_off} accepted and not answered",
                tally.errors, hit.victim
            ));
        }
        Ok(lost)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Nothing of a scene outlives it. The clients wait for those who are stopped, and for what a manager has stored.
        self.load.stop();
        self.manager = None;
        let deadline = Instant::now() + DEADLINE;
        loop {
            find_unheard_of(&self.tracer, &mut self.processes);
            if self.alive().is_empty() || Instant::now() > deadline {
                return;
            }
            self.alive().into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
            self.pump();
            match self.first.try_wait() {
                Ok(_) | Err(_) => {}
            }
            thread::yield_now();
        }
    }
}

/// Adds the processes that have been started, and have made no system call yet, by one that is dead by now.
fn find_unheard_of(tracer: &Tracer, processes: &mut Vec<i32>) {
    let found: Vec<_> = tracer.traced().into_iter().filter(|process| !processes.contains(process)).collect();
    processes.extend(found);
}

/// Starts the service, with this probation.
fn start(dir: &Path, probation: &str, manager: Option<&Manager>, stdout: Stdio) -> Child {
    let executable = env::current_exe().expect("this program has a path");
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a file for stderr");
    let mut command = match manager {
        Some(manager) => manager.command(&executable).expect("descriptors for what it has stored"),
        None => {
            let mut command = Command::new(&executable);
            command.stdin(Stdio::null());
            command
        }
    };
    command
        .arg("serve")
        .current_dir(dir)
        .env_remove("TABLEFLIP_HANDOVER")
        .env("TABLEFLIP_PROBATION", probation)
        .stdout(stdout)
        .stderr(log)
        .spawn()
        .expect("the service can be started")
}

/// The process that the pid file in a directory names.
pub(crate) fn named_in(dir: &Path) -> Option<i32> {
    fs::read_to_string(dir.join(PIDFILE)).ok()?.trim().parse().ok()
}

/// Whether a process is there, be it as a zombie.
fn is_there(pid: i32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether any thread of a process runs: what one of them is doing is done although the first has ended.
pub(crate) fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_first_running =
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']));
    is_first_running || fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

/// The parent of a process.
pub(crate) fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

pub(crate) fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
