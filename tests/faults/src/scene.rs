//! A service under load that is traced: its start, its requests, and the waits for what comes of them.
//!
//! * `breaking.rs`: one upgrade with one fault in it. `reverting.rs`: one revert.
//! * `words.rs`: what the processes say to each other and in the log.

mod breaking;
mod reverting;
mod words;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;
use processes::pidfile;
use processes::proc::{self, Listening, Stat};

pub(crate) use self::reverting::{Broken, Words};
use self::words::{leaves_successor, says_failure, tells_outcome};
use crate::fault::Hit;
use crate::load::{Load, Tally};
use crate::manager::Manager;
use crate::moving::Ledger;
use crate::release::{EXECUTABLE, Release, is_shell};
use crate::service::{HOLD, PIDFILE, UPGRADE};
use crate::tracer::{Call, Tracer, Verdict, send};

/// How long a scene waits for an event that has to happen.
const DEADLINE: Duration = Duration::from_secs(30);

/// How often a wait looks for the listener in every process of the machine, which takes long on a busy one.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How many system calls an old process makes from its decision to exit to its end, with the end of the thread that moved its
/// connections and the connections that have moved just before, and a few more. A successor that dies in that time dies as any
/// process that is alone.
const LAST_CALLS: usize = 160;

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
    /// The connection that asks for an upgrade; the service logs the outcome of a request of this kind.
    asking: Option<TcpStream>,
    manager: Option<Manager>,
    /// Every process of the service so far that was traced.
    processes: Vec<i32>,
    /// Those of them that a fault has ended.
    killed: Vec<i32>,
    /// To each of them that another one has started which belongs to the same release, by a script or by a fork, the first of these.
    roots: HashMap<i32, i32>,
    /// The process that was made to fork.
    forked: Option<i32>,
    /// What had come of the connections when the tracing began. None was under way.
    before: Tally,
    /// How many connections each of them has accepted since then.
    accepted: HashMap<i32, u64>,
    /// Those that are in accept4(2). If one is killed there, the kernel does not say whether it has accepted.
    accepting: HashSet<i32>,
    /// The threads that have exited by themselves, with their status.
    exited: Vec<(i32, i32)>,
    /// The manager has started it once more.
    pub(crate) restarted: bool,
    /// Who owns each connection that moves, in a scene whose fault hits the move.
    ledger: Option<Ledger>,
    /// When a wait has last looked for the listener in other processes.
    last_look: Cell<Option<Instant>>,
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
            ledger: None,
            last_look: Cell::new(None),
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

    /// Takes down that this process belongs to the service.
    pub(crate) fn know(&mut self, process: i32) {
        self.processes.push(process);
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

    /// Makes the next request to upgrade one whose outcome the service logs.
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

    /// Traces both processes of an upgrade from now on, and takes down which connections move back. No client may have a connection.
    pub(crate) fn trace_revert(&mut self, old: i32, new: i32) -> Result<(), String> {
        self.trace(old)?;
        self.processes = vec![old, new];
        self.attach(new)?;
        let listener = self.listener_of(new).ok_or("the new process has no listener")?;
        self.ledger = Some(Ledger::of_revert(new, listener));
        Ok(())
    }

    /// From now on takes down who owns which connection. Until connections move no fault hits the upgrade.
    pub(crate) fn follow_connections(&mut self, old: i32) {
        self.ledger = Some(Ledger::of(old));
    }

    pub(crate) fn follow_no_connections(&mut self) {
        self.ledger = None;
    }

    fn follows_connections(&self) -> bool {
        self.ledger.is_some()
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().expect("the scene follows its connections")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The processes that a fault has ended.
    pub(crate) fn killed(&self) -> &[i32] {
        &self.killed
    }

    /// Every process since the tracing began, in order.
    pub(crate) fn processes(&self) -> &[i32] {
        &self.processes
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

    /// `judge` also gets the number of processes so far.
    fn pump_with(&mut self, mut judge: impl FnMut(usize, &Call) -> Verdict) {
        let Self { tracer, processes, killed, roots, forked, .. } = self;
        let Self { accepted, accepting, exited, manager, ledger, .. } = self;
        let ended = tracer.pump(|call| {
            let (Call::Born { process, .. } | Call::Entry { process, .. } | Call::Exit { process, .. }) =
                call;
            if !processes.contains(&process) {
                processes.push(process);
            }
            let verdict = match ledger {
                Some(ledger) => {
                    ledger.hear(&call);
                    if ledger.has_begun() { judge(processes.len(), &call) } else { Verdict::Pass }
                }
                None => judge(processes.len(), &call),
            };
            let is_never_made = matches!(verdict, Verdict::Kill | Verdict::Stall);
            if let Some(ledger) = ledger.as_mut().filter(|_| is_never_made) {
                ledger.is_not_made(&call);
            }
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
            // The death is looked at before the messages are read. So a message from before a death counts before it, as in systemd,
            // where messages are more urgent than SIGCHLD.
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
        self.processes.iter().copied().filter(|pid| proc::exists(pid)).collect()
    }

    /// Waits until one serves, the pid file names it, a manager follows it, and no other is left, not even as a zombie, nor
    /// anybody else who has the listener. Returns that one.
    pub(crate) fn settle(&mut self) -> Result<i32, String> {
        let what = "one process that serves, with the pid file in its name";
        self.until(what, |scene| scene.comes_to_serve_alone().is_some() || scene.has_ended())?;
        if self.has_ended() {
            self.restart()?;
            self.until(what, |scene| scene.comes_to_serve_alone().is_some())?;
        }
        Ok(self.named().unwrap_or_default())
    }

    /// The one process that is there, but for a script that waits for it, if all is as it is to be.
    pub(crate) fn serves_alone(&self) -> Option<i32> {
        self.seems_to_serve_alone().filter(|serving| self.others_with_listener(*serving).is_empty())
    }

    fn seems_to_serve_alone(&self) -> Option<i32> {
        let serving = self.named()?;
        let script = Stat::of(serving).and_then(|serving| i32::try_from(serving.parent).ok());
        let script =
            script.filter(|parent| self.root_of(serving) == self.root_of(*parent) && is_shell(*parent));
        let alive = self.alive();
        let is_alone = alive.contains(&serving)
            && alive.iter().all(|process| *process == serving || Some(*process) == script);
        let is_so = is_alone && self.load.tally().last == Some(serving) && self.is_content_with(serving);
        is_so.then_some(serving)
    }

    /// The same for a wait, which looks for the listener in other processes only now and then: every traced system call waits meanwhile.
    pub(crate) fn comes_to_serve_alone(&self) -> Option<i32> {
        let seems = self.seems_to_serve_alone()?;
        let now = Instant::now();
        if self.last_look.get().is_some_and(|last| now - last < LOOK_EVERY) {
            return None;
        }
        self.last_look.set(Some(now));
        self.others_with_listener(seems).is_empty().then_some(seems)
    }

    /// Whether this process answers, and the pid file names it.
    pub(crate) fn is_served_by(&self, process: i32) -> bool {
        self.named() == Some(process) && self.load.tally().last == Some(process)
    }

    fn root_of(&self, process: i32) -> i32 {
        self.roots.get(&process).copied().unwrap_or(process)
    }

    /// Who has the listener that a process serves, beside that one and this program, which may be its manager: every process of the
    /// machine is looked at.
    fn others_with_listener(&self, serving: i32) -> Vec<i32> {
        let Some(socket) = self.listener_of(serving) else { return vec![serving] };
        let has_it = |process: &i32| {
            let fds = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
            fds.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == socket))
        };
        let this = i32::try_from(process::id()).unwrap_or_default();
        let processes = proc::all().filter_map(|process| i32::try_from(process).ok());
        processes.filter(|process| ![serving, this].contains(process)).filter(has_it).collect()
    }

    /// The listener of the service, as /proc links to it.
    fn listener_of(&self, process: i32) -> Option<PathBuf> {
        let listening = Listening::in_network_of(process);
        let listener = listening.iter().find(|it| SocketAddr::V4(it.address) == self.address)?;
        Some(PathBuf::from(listener.link()))
    }

    /// Whether there is no manager, or the manager waits for nothing.
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

    /// Waits until a manager, if there is one, has the reason why the upgrade has failed. A manager that may have followed another
    /// process gets it once it follows this one again.
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
        let is_over = |scene: &Self| scene.named() != Some(hit.old) || says_failure(&scene.said_since(hit));
        self.until("the outcome of the upgrade", |scene| is_over(scene) || scene.has_ended())?;
        (self.held, self.asking) = (None, None);
        self.settle()
    }

    /// Waits until the process that got SIGTERM is gone, and the others have come to rest. Returns the process that serves, if any.
    pub(crate) fn outcome_of_stop(&mut self, hit: &Hit, stopped: i32) -> Result<Option<i32>, String> {
        self.asking = None;
        self.until("the end of the process that was told to stop", |scene| {
            !scene.alive().contains(&stopped)
        })?;
        // Whoever is left of a service that stops may answer once more before it has heard of that.
        let is_stopping = stopped == hit.old && !leaves_successor(&self.said_since(hit));
        let is_at_rest = |scene: &Self| match scene.seems_to_serve_alone() {
            None => false,
            Some(serving) if serving == hit.old => tells_outcome(&scene.said_since(hit)),
            Some(_) => !is_stopping,
        };
        self.until("the end of all, or one process that serves", |scene| {
            scene.alive().is_empty() || is_at_rest(scene) && scene.comes_to_serve_alone().is_some()
        })?;
        Ok(self.serves_alone())
    }

    /// Every process since the tracing began, but for `serving`, was of a bad release: these may have lost what they accepted.
    pub(crate) fn excuse_all_but(&self, serving: i32, hit: &mut Hit) {
        hit.losers = self.processes.iter().copied().filter(|process| *process != serving).collect();
    }

    /// Has the clients pause, and waits until no connection is open.
    pub(crate) fn quieten(&mut self) -> Result<(), String> {
        self.load.pause(true);
        self.until("the end of every connection", |scene| scene.load.is_paused())
    }

    /// Waits until every connection that had begun is over and counted.
    pub(crate) fn wait_for_every_client(&mut self) -> Result<(), String> {
        let begun = self.load.begun();
        // One connection may be under way: the one after it counts.
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

    /// How much was lost since the tracing began. It is an error if that is more than the processes of the hit had accepted and not
    /// answered, or if a client was refused. Every connection is over.
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
        // No process of a scene outlives it. The clients wait for stopped processes, and for the listener that a manager has stored.
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

/// Adds the processes that have made no system call yet, and whose parent is dead by now.
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
    i32::try_from(pidfile(&dir.join(PIDFILE)).ok()?).ok()
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: i32) -> usize {
    proc::count(pid, "fd").unwrap_or(0)
}
