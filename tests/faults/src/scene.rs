//! A service under load that is traced, and what is looked at while it is upgraded and broken.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use crate::errors;
use crate::load::{Load, Tally};
use crate::manager::Manager;
use crate::release::{EXECUTABLE, Release, is_shell};
use crate::service::{HOLD, PIDFILE, TOLD_OF_FAILURE, TOLD_OF_SUCCESS, UPGRADE};
use crate::tracer::{Call, Tracer, Verdict, send, text_of};

/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How many system calls an old process makes from the decision that it is not needed any more to its end, and a few
/// more. A successor that dies in that time dies as any process that is alone.
const LAST_CALLS: usize = 40;

/// How often a process reads all that has arrived before it has certainly heeded a signal.
const LOOKS: usize = 3;

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
    /// SIGTERM at that system call.
    Stop { at: usize },
    /// SIGSTOP at that system call of a new process, counted from the first of the program on.
    Stall { at: usize },
    /// At that system call, counted in the same way, its thread forks, and goes on in the child; the process exits.
    Fork { at: usize },
}

impl Fault {
    /// Its place among those of its kind.
    pub(crate) fn number(self) -> usize {
        let (Self::Kill { at: number }
        | Self::KillBesideDrain { at: number }
        | Self::Delay { at: number, .. }
        | Self::Stop { at: number }
        | Self::Stall { at: number }
        | Self::Fork { at: number }
        | Self::Error { nth: number, .. }) = self;
        number
    }
}

/// What a fault has hit.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The system call.
    pub(crate) call: String,
    /// Who was killed, or is to be.
    pub(crate) victim: Option<i32>,
    /// What they have accepted and not answered is lost: that process, and what belongs to it.
    pub(crate) losers: Vec<i32>,
    pub(crate) moment: Moment,
    /// Who was told to stop.
    pub(crate) stopped: Option<i32>,
    /// The old process was killed before there was another: nobody can serve then.
    pub(crate) alone: bool,
    /// A connection that was accepted could not be registered with epoll: tokio has closed it, see docs/reliability.md.
    is_unregistered: bool,
    /// The process that was asked for the upgrade, and the length of its log then.
    pub(crate) old: i32,
    log: usize,
}

/// What had been said before a fault, or has crossed it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// Whom the pid file named.
    pub(crate) named: Option<i32>,
    /// The new process was told to serve.
    pub(crate) is_committed: bool,
    /// It was asked for the sign of life that ends its probation.
    pub(crate) is_asked: bool,
    /// The old process knew before the fault that the new one serves.
    pub(crate) is_known_active: bool,
}

/// How a process says that an upgrade has failed, or that it starts its own image in the place of one that died.
const FAILURES: [&str; 3] = ["upgrade failed: ", "upgrade refused: ", " is started in its place"];

/// How an old process that was told to stop in a probation says that the new one serves on.
const UNWATCHED: &str = " serves, and nothing watches it";

/// How a service is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) release: Release,
    pub(crate) probation: Duration,
    /// How long a new process may take, if not as long as ever.
    pub(crate) upgrade_timeout: Option<Duration>,
}

pub(crate) struct Scene {
    dir: PathBuf,
    setup: Setup,
    tracer: Tracer,
    first: Child,
    address: SocketAddr,
    pub(crate) load: Load,
    /// A connection that keeps the first process from ending its drain.
    held: Option<TcpStream>,
    /// A connection by which it is asked for an upgrade, and told of the outcome.
    asking: Option<TcpStream>,
    manager: Option<Manager>,
    /// Every process of the service so far that was traced.
    processes: Vec<i32>,
    /// Those of them that a fault has ended.
    killed: Vec<i32>,
    /// To each of them that another one has started which belongs to the same release, by a script or by a fork, the first of these.
    roots: HashMap<i32, i32>,
    /// The one that was made to fork.
    forked: Option<i32>,
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
    /// Starts a service, and waits until it serves. The next process is to be of the release.
    pub(crate) fn start(dir: &Path, setup: Setup, manager: Option<Manager>) -> Result<Self, String> {
        setup.release.first().install(dir);
        let mut first = start(dir, setup, manager.as_ref(), Stdio::piped());
        let mut line = String::new();
        let mut stdout = BufReader::new(first.stdout.take().expect("it is a pipe"));
        stdout.read_line(&mut line).expect("the service says where it listens");
        // Its successors write there as well.
        thread::spawn(move || stdout.lines().for_each(drop));
        let address = line.trim().parse().expect("an address");
        let mut scene = Self {
            dir: dir.to_owned(),
            setup,
            tracer: Tracer::default(),
            first,
            address,
            load: Load::start(address, 0, Duration::ZERO),
            held: None,
            asking: None,
            manager,
            processes: Vec::new(),
            killed: Vec::new(),
            roots: HashMap::new(),
            forked: None,
            before: Tally::default(),
            accepted: HashMap::new(),
            accepting: HashSet::new(),
            exited: Vec::new(),
            restarted: false,
        };
        scene.wait_for_first()?;
        scene.install(setup.release);
        Ok(scene)
    }

    /// Has the next process be of this release.
    pub(crate) fn install(&self, release: Release) {
        release.install(&self.dir);
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
        (self.held, self.asking) = (None, None);
        self.until("the end of what was left", |scene| scene.alive().is_empty())?;
        self.install(self.setup.release.first());
        // Where it listens is known.
        self.first = start(&self.dir, self.setup, self.manager.as_ref(), Stdio::null());
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
        self.held = Some(self.open(HOLD)?);
        Ok(())
    }

    /// Has the next request to upgrade be one that is told of its outcome.
    pub(crate) fn prepare_to_ask(&mut self) -> io::Result<()> {
        self.asking = Some(self.open(UPGRADE)?);
        Ok(())
    }

    fn open(&self, what: u8) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(&[what])?;
        BufReader::new(&stream).read_line(&mut String::new())?;
        Ok(stream)
    }

    /// How many descriptors the process that serves has without a client. It is counted beside a client that was answered: before
    /// the first answer a process still has what it takes over with.
    pub(crate) fn descriptors_without_clients(&mut self, process: i32) -> Result<usize, String> {
        self.hold().map_err(|error| error.to_string())?;
        let open = descriptors(process) - 1;
        self.held = None;
        self.until("the end of the first connection", |_| descriptors(process) == open)?;
        Ok(open)
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
        let Self { tracer, processes, killed, roots, forked, .. } = self;
        let Self { accepted, accepting, exited, manager, .. } = self;
        let ended = tracer.pump(|call| {
            let (Call::Born { process, .. } | Call::Entry { process, .. } | Call::Exit { process, .. }) =
                call;
            if !processes.contains(&process) {
                processes.push(process);
            }
            let verdict = judge(processes.len(), &call);
            let is_made = !matches!(verdict, Verdict::Kill | Verdict::Fork | Verdict::Stall);
            if verdict == Verdict::Fork {
                *forked = Some(process);
            }
            match call {
                Call::Born { by, .. } if by != process && (*forked == Some(by) || is_shell(by)) => {
                    let root = roots.get(&by).copied().unwrap_or(by);
                    roots.insert(process, root);
                }
                Call::Entry { number: libc::SYS_accept4, .. } if is_made => {
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
                    "{what}: not within {DEADLINE:?}; the pid file names {named:?}; of {:?} there are {alive:?}; the \
                     listener is also in {:?}; the last answer was {:?}'s, lost {:?}; {}",
                    self.processes,
                    named.map(|named| self.others_with_listener(named)),
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

    /// Waits until one serves, the pid file names it, a manager follows it, and no other is left, not even as a zombie, nor
    /// anybody else who has the listener. Returns that one.
    pub(crate) fn settle(&mut self) -> Result<i32, String> {
        let what = "one process that serves, with the pid file in its name";
        self.until(what, |scene| scene.serves_alone().is_some() || scene.has_ended())?;
        if self.has_ended() {
            self.restart()?;
            self.until(what, |scene| scene.serves_alone().is_some())?;
        }
        Ok(self.named().unwrap_or_default())
    }

    /// The one process that is there, but for a script that waits for it, if all is as it is to be.
    pub(crate) fn serves_alone(&self) -> Option<i32> {
        let serving = self.named()?;
        let script = parent_of(serving).and_then(|parent| i32::try_from(parent).ok());
        let script =
            script.filter(|parent| self.root_of(serving) == self.root_of(*parent) && is_shell(*parent));
        let alive = self.alive();
        let is_alone = alive.contains(&serving)
            && alive.iter().all(|process| *process == serving || Some(*process) == script);
        let is_so = is_alone
            && self.load.tally().last == Some(serving)
            && self.is_content_with(serving)
            && self.others_with_listener(serving).is_empty();
        is_so.then_some(serving)
    }

    fn root_of(&self, process: i32) -> i32 {
        self.roots.get(&process).copied().unwrap_or(process)
    }

    /// Who has the listener that a process serves, beside that one and this program, which may be its manager: every process of the
    /// machine is looked at.
    fn others_with_listener(&self, serving: i32) -> Vec<i32> {
        let Some(inode) = listener(serving, self.address.port()) else { return vec![serving] };
        let socket = PathBuf::from(format!("socket:[{inode}]"));
        let has_it = |process: &i32| {
            let fds = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
            fds.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == socket))
        };
        let this = i32::try_from(process::id()).unwrap_or_default();
        let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        processes.filter(|process| ![serving, this].contains(process)).filter(has_it).collect()
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
        match self.asking.as_mut().map(|stream| stream.write_all(&[UPGRADE])) {
            Some(asked) => asked.expect("the service has this connection open"),
            None => send(process, Signal::SIGHUP),
        }
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
        (self.held, self.asking) = (None, None);
        self.settle()
    }

    /// Waits until whoever was told to stop is gone, and the others have come to rest. Returns who serves, if anybody does.
    pub(crate) fn outcome_of_stop(&mut self, hit: &Hit, stopped: i32) -> Result<Option<i32>, String> {
        self.asking = None;
        self.until("the end of the process that was told to stop", |scene| {
            !scene.alive().contains(&stopped)
        })?;
        // Whoever is left of a service that stops may answer once more before it has heard of that.
        let told = self.said_since(hit);
        let is_left_serving = [TOLD_OF_SUCCESS, UNWATCHED].iter().any(|outcome| told.contains(outcome));
        let is_stopping = stopped == hit.old && !is_left_serving;
        let is_at_rest = |scene: &Self| match scene.serves_alone() {
            None => false,
            Some(serving) if serving == hit.old => is_told(&scene.said_since(hit)),
            Some(_) => !is_stopping,
        };
        self.until("the end of all, or one process that serves", |scene| {
            scene.alive().is_empty() || is_at_rest(scene)
        })?;
        Ok(self.serves_alone())
    }

    /// All that has come into being since the tracing began, but for this one, was of a release that does wrong: what these have
    /// accepted they may have lost.
    pub(crate) fn excuse_all_but(&self, serving: i32, hit: &mut Hit) {
        hit.losers = self.processes.iter().copied().filter(|process| *process != serving).collect();
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
        let is_asking = self.asking.is_some();
        let deadline = Instant::now() + DEADLINE;
        let (mut count, mut calls_of_old, mut hit) = (0, 0, None::<Hit>);
        let (dir, release) = (self.dir.clone(), self.setup.release);
        let (mut executed, mut words) = (HashSet::new(), Words::default());
        let mut since_two: Option<Instant> = None;
        loop {
            self.pump_with(|processes, call| {
                if is_asking {
                    words.hear(call, old, hit.as_mut().map(|hit| &mut hit.moment));
                }
                if let Call::Exit { process, number: libc::SYS_execve, result: 0 } = *call {
                    executed.insert(process);
                }
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
                    Fault::Kill { .. }
                    | Fault::KillBesideDrain { .. }
                    | Fault::Delay { .. }
                    | Fault::Stop { .. } => true,
                    // Before that the thread of its parent waits for it.
                    Fault::Fork { .. } => executed.contains(&process),
                    // A script that waits for the service and is stopped is waited for itself, by nobody.
                    Fault::Stall { .. } => {
                        executed.contains(&process) && !(release == Release::Wrapper && is_shell(process))
                    }
                    Fault::Error { call, error, .. } => {
                        call == number && errors::can_fail(process, call, error, arguments)
                    }
                };
                count += usize::from(is_counted);
                let is_it = is_counted && count == fault.number();
                let verdict = match fault {
                    _ if !is_it => return Verdict::Pass,
                    Fault::Kill { .. } | Fault::KillBesideDrain { .. } => Verdict::Kill,
                    Fault::Delay { by, .. } => Verdict::Hold(by),
                    Fault::Error { error, .. } => Verdict::Fail(error),
                    Fault::Stop { .. } => Verdict::Stop,
                    Fault::Stall { .. } => Verdict::Stall,
                    Fault::Fork { .. } => Verdict::Fork,
                };
                let ends = matches!(verdict, Verdict::Kill | Verdict::Stall | Verdict::Fork);
                let victim = ends.then_some(process);
                let stopped = (verdict == Verdict::Stop).then_some(process);
                hit = Some(Hit {
                    call: errors::name(number),
                    victim,
                    losers: victim.into_iter().collect(),
                    moment: words.moment(named_in(&dir), stopped),
                    stopped,
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
            if let Some(hit) = hit.as_ref().filter(|hit| hit.victim.is_some() && is_asking) {
                let told = self.said_since(hit);
                if told.contains(TOLD_OF_SUCCESS) && hit.moment.is_asked {
                    // It had given its last sign of life by then.
                    return Ok(None);
                }
                if is_running(old) && !is_told(&told) {
                    continue;
                }
            }
            let stopped = hit.as_ref().and_then(|hit| hit.stopped);
            // Of a release that cannot be upgraded to, nothing is left then, and the old process serves for ever.
            let release_has_failed = |scene: &Self| {
                let said = || scene.log().split_off(log);
                !release.is_sound()
                    && FAILURES.iter().any(|failure| said().contains(failure))
                    && scene.alive() == [old]
            };
            let is_over = match victim.or(stopped) {
                Some(victim) => {
                    let old_goes_on = side == Side::Old
                        || calls_of_old >= LAST_CALLS
                        || stopped.is_some() && !is_running(old)
                        || self.has_ended();
                    old_goes_on && !is_running(victim)
                }
                None => hit.is_some() || !is_running(old) || release_has_failed(self),
            };
            if is_over {
                // The old process may have been starting its successor when it was killed.
                find_unheard_of(&self.tracer, &mut self.processes);
                let count = self.processes.len();
                let losers = self.processes.iter().copied();
                let losers = losers
                    .filter(|it| victim.is_some_and(|victim| self.root_of(*it) == self.root_of(victim)));
                let losers = losers.collect();
                return Ok(hit.map(|hit| Hit { alone: victim == Some(old) && count == 1, losers, ..hit }));
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
        let count = |of: &dyn Fn(i32) -> u64| hit.losers.iter().map(|process| of(*process)).sum::<u64>();
        let accepted = count(&|process| {
            let accepted = self.accepted.get(&process).copied().unwrap_or(0);
            accepted + u64::from(self.accepting.contains(&process))
        });
        let answered = count(&|process| tally.answered_by(process) - self.before.answered_by(process));
        let cut_off = accepted.saturating_sub(answered) + u64::from(hit.is_unregistered);
        let lost = tally.lost - self.before.lost;
        if lost > cut_off || tally.refused > self.before.refused {
            return Err(format!(
                "lost {lost}, {:?}; {:?} were hit, with {cut_off} accepted and not answered",
                tally.errors, hit.losers
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

/// Whether a process has said what came of its upgrade.
fn is_told(log: &str) -> bool {
    [TOLD_OF_SUCCESS, TOLD_OF_FAILURE].iter().any(|told| log.contains(told))
}

/// What the two processes have said to each other, as far as it decides what a fault comes to.
#[derive(Default)]
struct Words {
    so_far: Moment,
    /// The new process has said that it serves.
    is_active: bool,
    /// Who was told to stop; whether a handler of its has run since.
    stopped: Option<i32>,
    is_handled: bool,
    /// How often it has read all that had arrived since then, which goes before a stop.
    looks: usize,
    /// How many system calls the new process has made since another fault.
    calls: usize,
}

impl Words {
    fn hear(&mut self, call: &Call, old: i32, of_fault: Option<&mut Moment>) {
        match *call {
            Call::Entry { process, number: libc::SYS_sendmsg, arguments } => {
                let text = text_of(process, arguments[1]);
                let says = |word: &str| text.contains(&format!("\"type\":\"{word}\""));
                self.so_far.is_committed |= process == old && says("commit");
                self.so_far.is_asked |= process == old && says("ping");
                self.is_active |= process != old && says("active");
            }
            Call::Exit { process, number: libc::SYS_recvmsg, result: 1.. } if process == old => {
                self.so_far.is_known_active |= self.is_active;
            }
            Call::Exit { process, number: libc::SYS_recvmsg, result } if self.stopped == Some(process) => {
                self.looks += usize::from(self.is_handled && result == -i64::from(libc::EAGAIN));
            }
            Call::Entry { process, number: libc::SYS_rt_sigreturn, .. } if self.stopped == Some(process) => {
                self.is_handled = true;
            }
            Call::Entry { process, .. } => self.calls += usize::from(process != old),
            _ => {}
        }
        // What is sent soon after the fault has crossed it: a signal waits for a thread that has a processor, and a death is noticed
        // after a few calls.
        let is_noticed = match self.stopped {
            Some(_) => self.looks >= LOOKS,
            None => self.calls >= LAST_CALLS,
        };
        if let Some(moment) = of_fault.filter(|_| !is_noticed) {
            moment.is_committed |= self.so_far.is_committed;
            moment.is_asked |= self.so_far.is_asked;
        }
    }

    /// That of a fault.
    fn moment(&mut self, named: Option<i32>, stopped: Option<i32>) -> Moment {
        (self.stopped, self.is_handled, self.looks, self.calls) = (stopped, false, 0, 0);
        Moment { named, ..self.so_far }
    }
}

/// The inode of the TCP socket that a process listens with at a port, by the list of proc_pid_net(5).
fn listener(process: i32, port: u16) -> Option<String> {
    const LISTENS: &str = "0A";
    let list = fs::read_to_string(format!("/proc/{process}/net/tcp")).ok()?;
    list.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&format!(":{port:04X}")) && *fields.get(3)? == LISTENS;
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

/// Adds the processes that have been started, and have made no system call yet, by one that is dead by now.
fn find_unheard_of(tracer: &Tracer, processes: &mut Vec<i32>) {
    let found: Vec<_> = tracer.traced().into_iter().filter(|process| !processes.contains(process)).collect();
    processes.extend(found);
}

/// Starts the service.
fn start(dir: &Path, setup: Setup, manager: Option<&Manager>, stdout: Stdio) -> Child {
    let executable = dir.join(EXECUTABLE);
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a file for stderr");
    let mut command = match manager {
        Some(manager) => manager.command(&executable).expect("descriptors for what it has stored"),
        None => {
            let mut command = Command::new(&executable);
            command.stdin(Stdio::null());
            command
        }
    };
    if let Some(timeout) = setup.upgrade_timeout {
        command.env("TABLEFLIP_UPGRADE_TIMEOUT", format!("{}ms", timeout.as_millis()));
    }
    command
        .arg("serve")
        .current_dir(dir)
        .env_remove("TABLEFLIP_HANDOVER")
        .env("TABLEFLIP_PROBATION", format!("{}ms", setup.probation.as_millis()))
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
