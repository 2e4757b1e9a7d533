//! The start of a service: everything before the body.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

use crate::base::address::{self, Address, Place};
use crate::base::error::StartError;
use crate::base::identity::{Identity, PredecessorOffer};
use crate::base::limits::{ENGINE_THREAD, no_thread};
use crate::base::report::{cannot_start, printable};
use crate::base::unadopted::{self, Entry, Source, Unadopted};
use crate::between::gate_control::CONTROL_SOCKET;
use crate::between::note::{Inheritance, Note, Prepared};
use crate::between::params::Start;
use crate::between::shared::{Shared, start_thread};
use crate::config::environment::{Environment, HANDOVER, SUPERVISOR};
use crate::config::service::Service;
use crate::config::settings::{ControlAt, Settings, Supervise};
use crate::control::server::Control;
use crate::engine::{Engine, Neighbours, PredecessorLink, Process};
use crate::outside::handover::channel::{Channel, ChannelError, Received};
use crate::outside::handover::message::{MAX_DESCRIPTORS, Message, Speaker};
use crate::outside::pidfile::Pidfile;
use crate::outside::proof;
use crate::outside::sockets::{self, BindError, BoundSocket, Numbers};
use crate::outside::spawn::{Launch, PassedDescriptors, Siblings};
use crate::outside::spawner::Spawner;
use crate::outside::supervise;
use crate::outside::systemd::{self, Manager, Passed, Variables, Whereabouts};
use crate::sys::pidfd;
use crate::sys::signals::{self, Blocked};

/// How long the offer of a predecessor may take: it is in the channel before this process exists.
const OFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a service manager may take to let go of what it had stored.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before an address is tried again that was stored.
const STORE_PAUSE: Duration = Duration::from_millis(2);

/// Where a service runs.
pub(crate) enum Host {
    /// This process is the service: its environment, its signals, its arguments.
    Process,
    /// It is one of several in the process of a test.
    Test {
        /// The channel to the predecessor.
        parent: Option<OwnedFd>,
        spawner: Box<dyn Spawner>,
        /// Told as soon as there is something to talk to.
        started: Started,
    },
}

pub(crate) type Started = Box<dyn FnOnce(&Arc<Shared>, &[BoundSocket]) + Send>;

/// Everything before the body, in this order: what this process was started with, the engine, the listeners, the control
/// socket, the body's own preparation. From the second step on a stop ends the start at any moment. An error is said on
/// stderr and to the predecessor.
pub(crate) fn begin<P>(
    service: Service,
    host: Host,
    prepare: impl FnOnce(&mut Start) -> Result<P, StartError>,
) -> Result<(Arc<Shared>, P), StartError> {
    let mut channel = None;
    let is_process = matches!(host, Host::Process);
    let begun = Origin::find(service, host, &mut channel)
        .and_then(|origin| origin.start_engine(&mut channel))
        .and_then(|(shared, declared)| {
            let prepared = shared.preparing(|| declared.prepare(&shared, prepare))?;
            Ok((shared, prepared))
        });
    begun.inspect_err(|error| {
        // An engine that runs has the channel, and has said it.
        if let Some(mut channel) = channel {
            // To a predecessor that is gone there is nobody to say it to.
            match channel.send(&Message::Failed { reason: printable(&error.to_string()) }) {
                Ok(()) | Err(_) => {}
            }
        }
        if is_process {
            cannot_start(error);
        }
    })
}

/// What a process was started with, and by whom.
struct Origin {
    settings: Settings,
    offered: Option<Offered>,
    spawner: Box<dyn Spawner>,
    /// The socket to the parent that stays.
    supervisor: Option<OwnedFd>,
    /// A service manager that is told, and whether it follows the generations itself.
    manager: Option<Manager>,
    follows: bool,
    passed: Vec<Passed>,
    /// What the service does without, to be said once it serves: a start that fails says why, and nothing else.
    warnings: Vec<String>,
    host: Origins,
}

/// What only a process has, or only a test.
enum Origins {
    Process(Blocked),
    Test(Started),
}

/// What is declared and what there is of it, for the part of the start that the engine runs beside.
struct Declared {
    listeners: Vec<(String, Address)>,
    control: Option<ControlAt>,
    sockets: Vec<(Entry, OwnedFd)>,
    files: Vec<(String, OwnedFd)>,
    passed: Vec<Passed>,
    manager: Option<Manager>,
    /// Those of the predecessor's listeners that it may have had stored.
    stored: Vec<(String, String)>,
    warnings: Vec<String>,
    started: Option<Started>,
}

impl Origin {
    fn find(service: Service, host: Host, channel: &mut Option<Channel>) -> Result<Self, StartError> {
        match host {
            Host::Process => Self::of_process(service, channel),
            Host::Test { parent, spawner, started } => {
                let identity = service.identity();
                let take =
                    |fd| take_offer(channel.insert(Channel::new(fd)), &identity, &StartError::Handover);
                Ok(Self {
                    offered: parent.map(take).transpose()?,
                    settings: service.settle(Environment::default(), Path::new("/"))?,
                    spawner,
                    supervisor: None,
                    manager: None,
                    follows: false,
                    passed: Vec::new(),
                    warnings: Vec::new(),
                    host: Origins::Test(started),
                })
            }
        }
    }

    /// The order matters: the process has one thread until the signals are installed.
    fn of_process(service: Service, channel: &mut Option<Channel>) -> Result<Self, StartError> {
        let mut blocked = signals::block().map_err(StartError::system("block signals"))?;
        let (environment, ours) = Environment::take();
        let variables = Variables::take();
        // By their numbers, and so all of them before anything is opened here that could have one of these: the offer is
        // read after that, because what comes with it gets numbers.
        let mut numbers = Numbers::default();
        if let Some(value) = &ours.handover {
            channel.replace(Channel::new(inherit_socket(&mut numbers, HANDOVER, value)?));
        }
        let supervisor = ours.supervisor.as_ref();
        let supervisor =
            supervisor.map(|value| inherit_socket(&mut numbers, SUPERVISOR, value)).transpose()?;
        let passed = variables.passed(supervisor.is_some(), &mut numbers)?;
        let identity = service.identity();
        let take = |(channel, value): (&mut Channel, OsString)| {
            take_offer(channel, &identity, &|problem| stray(HANDOVER, &value, &problem))
        };
        let offered = channel.as_mut().zip(ours.handover).map(take).transpose()?;
        let executable = offered.as_ref().and_then(|offered| offered.executable.clone());
        let umask = offered.as_ref().and_then(|offered| offered.umask);
        let mut launch = Launch::new(executable, umask, variables.for_successor())
            .map_err(StartError::system("find out how this process was started"))?;
        let settings = service.settle(environment, launch.directory())?;
        let is_supervised = supervisor.is_some()
            || offered.as_ref().is_some_and(|it| it.files.iter().any(|(name, _)| name == supervise::NAME));
        let is_wanted = match settings.supervise {
            Supervise::Always => true,
            Supervise::Auto => std::process::id() == 1,
            Supervise::Never => false,
        };
        // A successor, and the first generation under a supervisor, leave that to the process that has it.
        if is_wanted && offered.is_none() && supervisor.is_none() {
            let start = |socket: BorrowedFd<'_>| {
                let (descriptors, variables) = Passed::into_parts(passed);
                let passed = PassedDescriptors { descriptors, variables };
                launch.start_supervised(socket, settings.upgrade_signal, passed)
            };
            match supervise::run(start) {
                Err(error) => return Err(StartError::system("supervise the service")(error)),
            }
        }
        signals::install(settings.upgrade_signal, &mut blocked)
            .map_err(no_thread)
            .map_err(StartError::system("install the signal handlers"))?;
        let mut warnings = Vec::new();
        let manager = variables.connect(&mut warnings)?;
        let whereabouts = Whereabouts::find();
        let follows = manager.is_some() && !is_supervised && whereabouts != Whereabouts::Outside;
        if manager.is_some() && !is_supervised && offered.is_none() {
            warnings.extend(whereabouts.warning());
        }
        if follows && offered.as_ref().is_some_and(|it| systemd::is_behind_a_wrapper(it.parent)) {
            warnings.push(systemd::behind_a_wrapper(std::process::id()));
        }
        if variables.lacks_notify_socket() && !is_supervised && offered.is_none() {
            warnings.push(
                "systemd is not told of upgrades: unless the unit has PIDFile=, the end of this process after the first \
                 one is that of the service; use Type=notify, or the option `supervise`"
                    .to_owned(),
            );
        }
        if !is_supervised && whereabouts != Whereabouts::Outside {
            launch.set_siblings(if follows { Siblings::Always } else { Siblings::OfManager });
        }
        let (spawner, host) = (Box::new(launch), Origins::Process(blocked));
        Ok(Self { settings, offered, spawner, supervisor, manager, follows, passed, warnings, host })
    }

    /// Starts the engine, which has the channel from then on.
    fn start_engine(mut self, channel: &mut Option<Channel>) -> Result<(Arc<Shared>, Declared), StartError> {
        let generation = self.offered.as_ref().map_or(1, |offered| offered.generation);
        let shared = Shared::new(generation, self.offered.is_some(), self.settings.timeouts.drain)
            .map_err(StartError::system("make an eventfd"))?;
        let shared = Arc::new(shared);
        let (started, is_process) = match self.host {
            Origins::Process(blocked) => {
                signals::wake_through(shared.waker().as_fd())
                    .map_err(StartError::system("duplicate an eventfd"))?;
                drop(blocked);
                (None, true)
            }
            Origins::Test(started) => (Some(started), false),
        };
        let pidfile = self.settings.pidfile.take().filter(|_| is_process);
        let pidfile = pidfile.map(|path| Pidfile::new(path, shared.pid));
        let predecessor = self.offered.as_ref().map(Offered::predecessor);
        let running = pidfile.as_ref().and_then(|it| proof::other_service(it, predecessor.as_ref()));
        if let Some(running) = running {
            return Err(running);
        }
        if predecessor.is_none() {
            shared.predecessor_gone.set(());
        }
        let (sockets, mut files) =
            self.offered.map(|offered| (offered.sockets, offered.files)).unwrap_or_default();
        let supervisor = match files.iter().position(|(name, _)| name == supervise::NAME) {
            Some(at) => Some(files.remove(at).1),
            None => self.supervisor,
        };
        if let Some(supervisor) = supervisor {
            shared.passed_on().insert(supervise::NAME.to_owned(), Arc::new(supervisor));
        }
        // Neither its control socket, nor what a socket unit has passed.
        let stored = sockets.iter().map(|(entry, _)| entry);
        let stored = stored.filter(|entry| !entry.activated && entry.name != CONTROL_SOCKET);
        let mut declared = Declared {
            listeners: mem::take(&mut self.settings.listeners),
            control: self.settings.control.take().filter(|_| is_process),
            stored: stored.map(|entry| (entry.name.clone(), entry.address.clone())).collect(),
            sockets,
            files,
            passed: self.passed,
            manager: self.manager,
            warnings: self.warnings,
            started,
        };
        let run = start_thread(thread::Builder::new().name(ENGINE_THREAD.to_owned()), Engine::run)?;
        let parent = predecessor.zip(channel.take()).map(|(offered, channel)| {
            // In a test the end of the channel is the end of the service, as is that of a predecessor which is dead.
            let watch = if is_process { pidfd::of_maker(channel.as_fd()) } else { Ok(None) };
            let watch = watch.unwrap_or_else(|error| {
                declared.warnings.push(unwatched(offered.pid, &error));
                None
            });
            PredecessorLink::new(offered, channel, watch)
        });
        let neighbours = Neighbours::new(self.spawner, parent, self.follows);
        let process = Process { shared: shared.clone(), settings: self.settings, pidfile, is_process };
        run(Engine::new(process, neighbours));
        Ok((shared, declared))
    }
}

impl Declared {
    /// Opens the listeners and the control socket, and prepares the body. The engine has notes of all that is to be removed
    /// should the start not come to its end.
    fn prepare<P>(
        mut self,
        shared: &Arc<Shared>,
        prepare: impl FnOnce(&mut Start) -> Result<P, StartError>,
    ) -> Result<P, StartError> {
        let mut opened =
            open_listeners(self.listeners, self.sockets, self.passed, self.manager.as_mut(), shared)?;
        if let Some(control) = &self.control {
            open_control(control, &mut opened, shared, &mut self.warnings)?;
        }
        let Opened { held, adopted, unadopted, passed } = opened;
        self.warnings.extend(held.iter().filter(|held| held.is_cut_off()).map(|held| {
            let (name, address) = (&held.name, &held.address);
            format!("listener `{name}`: no client finds {address}, somebody has removed or replaced the file; stop and start the service")
        }));
        if let Some(started) = self.started {
            started(shared, &held);
        }
        let unadopted = unadopted.into_iter().chain(passed.into_iter().map(offered_by_manager)).collect();
        let mut start = Start::new(shared.clone(), held, unadopted, self.files);
        let prepared = prepare(&mut start)?;
        start.check()?;
        let Start { gates, manual_ready, unadopted, .. } = start;
        systemd::close_unadopted(unadopted, shared.who(), self.manager.as_mut());
        let Self { manager, stored, warnings, .. } = self;
        let inherited = Inheritance { adopted, manager, stored, warnings };
        shared.post(Note::Prepared(Box::new(Prepared { gates, manual_ready, inherited })));
        Ok(prepared)
    }
}

/// The warning of a predecessor that there is no pidfd of.
fn unwatched(pid: u32, error: &io::Error) -> String {
    format!(
        "process {pid}, the predecessor, cannot be watched by a pidfd: {error}; the end of its channel counts as its death"
    )
}

/// What a predecessor has offered.
struct Offered {
    /// The process ID of who offers it.
    parent: u32,
    /// What it says that the service is.
    identity: Identity,
    pidfile: Option<String>,
    /// That of this process, one more than the predecessor's.
    generation: u64,
    executable: Option<PathBuf>,
    /// That of the first start; an older release does not say.
    umask: Option<u32>,
    sockets: Vec<(Entry, OwnedFd)>,
    files: Vec<(String, OwnedFd)>,
}

impl Offered {
    /// What the engine compares with what this process is.
    fn predecessor(&self) -> PredecessorOffer {
        let listener = |(entry, _): &(Entry, OwnedFd)| (printable(&entry.name), printable(&entry.address));
        PredecessorOffer {
            pid: self.parent,
            identity: self.identity.clone(),
            pidfile: self.pidfile.clone(),
            listeners: self.sockets.iter().map(listener).collect(),
        }
    }
}

/// Takes the socket that the variable names, which is one of a pair of Unix sockets of ours.
fn inherit_socket(
    numbers: &mut Numbers,
    variable: &'static str,
    value: &OsStr,
) -> Result<OwnedFd, StartError> {
    let stray = |problem: &str| stray(variable, value, problem);
    let number = value.to_str().and_then(|text| text.parse::<RawFd>().ok()).filter(|number| *number >= 0);
    let number = number.ok_or_else(|| stray("not the number of a descriptor"))?;
    let is_channel = |fd: BorrowedFd<'_>| -> nix::Result<bool> {
        let kind = getsockopt(&fd, sockopt::SockType)?;
        let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        Ok(kind == SockType::SeqPacket && name.family() == Some(AddressFamily::Unix))
    };
    let is_wanted = |fd: BorrowedFd<'_>| match is_channel(fd) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the descriptor is not a handover channel".to_owned()),
        Err(errno) => Err(format!("the descriptor is not a handover channel: {}", io::Error::from(errno))),
    };
    numbers.take(variable, number, is_wanted).map_err(|problem| stray(&problem))
}

/// The error of a variable of ours that somebody else has set.
fn stray(variable: &str, value: &OsStr, problem: &str) -> StartError {
    StartError::Environment {
        variable: variable.to_owned(),
        problem: format!(
            "{value:?}: {problem}; it is set by a process for its successor, unset it to start the service"
        ),
    }
}

/// Takes the offer of the predecessor; `stray` makes an error of a channel on which there is nobody.
fn take_offer(
    channel: &mut Channel,
    identity: &Identity,
    stray: &dyn Fn(String) -> StartError,
) -> Result<Offered, StartError> {
    let deadline = Instant::now() + OFFER_TIMEOUT;
    let broken = |error: ChannelError| StartError::Handover(error.to_string());
    let (speaker, executable, umask, pidfile, socket_count, file_count) =
        match channel.receive_by(deadline).map_err(broken)? {
            Received::Message(Message::Offer { speaker, sockets, files, executable, umask, pidfile }, _) => {
                (speaker, executable, umask, pidfile, sockets, files)
            }
            Received::Nothing => return Err(stray("nobody offers anything on it".to_owned())),
            Received::End => return Err(stray("its other end is closed".to_owned())),
            Received::Message(..) | Received::Unknown(_) => {
                return Err(StartError::Handover("it did not begin with an offer".to_owned()));
            }
        };
    // Said before the verdict on the other's version, so that both sides can name it, and with the first message after
    // it: alone it would only wake the predecessor.
    let generation = speaker.next_generation();
    let ours = Speaker::us(*generation.as_ref().unwrap_or(&speaker.generation), identity);
    let hello = Message::Hello { speaker: ours };
    channel.queue(&hello);
    speaker.understands_us().map_err(StartError::Handover)?;
    let generation = generation.map_err(StartError::Handover)?;
    let count = socket_count.saturating_add(file_count);
    if count > MAX_DESCRIPTORS {
        let problem = format!("it offers {count} descriptors; at most {MAX_DESCRIPTORS} are taken");
        return Err(StartError::Handover(problem));
    }
    let (mut sockets, mut files) = (Vec::new(), Vec::new());
    while sockets.len() < socket_count || files.len() < file_count {
        match channel.receive_by(deadline).map_err(broken)? {
            Received::Message(Message::Sockets { entries }, fds) => {
                sockets.extend(entries.into_iter().zip(fds));
                at_most(socket_count, sockets.len(), "sockets")?;
            }
            Received::Message(Message::Files { names }, fds) => {
                files.extend(names.into_iter().zip(fds));
                at_most(file_count, files.len(), "files")?;
            }
            // The predecessor was killed in the middle of its offer. What it did not get to send died with it.
            Received::End => break,
            // Whoever says other things without end is as late as one that says nothing.
            Received::Message(..) | Received::Unknown(_) if Instant::now() < deadline => {}
            Received::Nothing | Received::Message(..) | Received::Unknown(_) => {
                let got = sockets.len() + files.len();
                let problem = format!("it offered {count} descriptors and sent {got}");
                return Err(StartError::Handover(problem));
            }
        }
    }
    let (identity, pidfile) = (speaker.identity(), pidfile.as_deref().map(printable));
    Ok(Offered { parent: speaker.pid, identity, pidfile, generation, executable, umask, sockets, files })
}

/// More than was announced is not taken: nobody has compared it with a limit, and which of it was meant is a guess.
fn at_most(offered: usize, sent: usize, what: &str) -> Result<(), StartError> {
    if sent <= offered {
        return Ok(());
    }
    Err(StartError::Handover(format!("it offered {offered} {what} and sent {sent}")))
}

/// What came of the declared listeners.
struct Opened {
    held: Vec<BoundSocket>,
    /// Which of the offered sockets were adopted.
    adopted: Vec<usize>,
    /// Those that were not.
    unadopted: VecDeque<Unadopted>,
    /// What a service manager has passed and nobody has taken.
    passed: Vec<Passed>,
}

impl Opened {
    /// Adopts what matches, by name and identity, or binds it.
    fn open(
        &mut self,
        name: &str,
        address: &Address,
        manager: Option<&mut Manager>,
    ) -> Result<BoundSocket, StartError> {
        match self.adopt(name, address)? {
            Some(held) => Ok(held),
            None => self.bind(name, address, manager),
        }
    }

    /// Adopts what matches, by name and identity.
    fn adopt(&mut self, name: &str, address: &Address) -> Result<Option<BoundSocket>, StartError> {
        if let Some(Unadopted { source, entry, fd }) =
            unadopted::take_offered(&mut self.unadopted, name, address)
        {
            self.adopted.extend(source.place());
            return sockets::adopt(address, entry, fd).map(Some);
        }
        let passed = systemd::take_passed(&mut self.passed, name, address);
        passed.map(|passed| systemd::adopt_passed(name, address, passed)).transpose()
    }

    fn bind(
        &mut self,
        name: &str,
        address: &Address,
        manager: Option<&mut Manager>,
    ) -> Result<BoundSocket, StartError> {
        let is_in_use =
            |result: &Result<BoundSocket, BindError>| result.as_ref().is_err_and(BindError::is_in_use);
        let try_bind = || sockets::try_bind(name, address);
        let mut bound = try_bind();
        // What was stored for a listener that is declared otherwise by now is in the way as long as it is open.
        if is_in_use(&bound) && self.forget_stored(manager, |stored| is_in_the_way(stored, address)) {
            // systemd closes it in a thread of its own, and says nothing of when.
            let deadline = Instant::now() + STORE_TIMEOUT;
            bound = try_bind();
            while is_in_use(&bound) && Instant::now() < deadline {
                thread::sleep(STORE_PAUSE);
                bound = try_bind();
            }
        }
        // What is behind an error is looked for once, at the end.
        bound.map_err(BindError::explained)
    }

    /// Closes what an earlier process has had stored and is not wanted, here and at the manager. Returns whether there was
    /// anything.
    fn forget_stored(
        &mut self,
        manager: Option<&mut Manager>,
        is_unwanted: impl Fn(&Passed) -> bool,
    ) -> bool {
        let (unwanted, others): (Vec<_>, _) =
            mem::take(&mut self.passed).into_iter().partition(|it| it.stored && is_unwanted(it));
        self.passed = others;
        let Some(manager) = manager.filter(|_| !unwanted.is_empty()) else { return false };
        unwanted.iter().for_each(|it| manager.forget(&it.name));
        drop(unwanted);
        manager.wait_until_heard(STORE_TIMEOUT);
        true
    }
}

/// Whether an address cannot be bound as long as this socket is open.
fn is_in_the_way(passed: &Passed, address: &Address) -> bool {
    let bound = systemd::describe_passed(passed).and_then(|bound| bound.parse::<Address>().ok());
    let Some(bound) = bound else { return false };
    let ip = |host: &address::Host| match host {
        address::Host::V4(ip) => Some(IpAddr::V4(*ip)),
        address::Host::V6(ip) => Some(IpAddr::V6(*ip).to_canonical()),
        address::Host::Name(_) => None,
    };
    match (bound.place(), address.place()) {
        (Place::Ip { host: theirs, port }, Place::Ip { host: ours, port: wanted }) => {
            let overlap = match (ip(theirs), ip(ours)) {
                (Some(theirs), Some(ours)) => {
                    theirs == ours || theirs.is_unspecified() || ours.is_unspecified()
                }
                // It is resolved as it is bound, to any.
                _ => true,
            };
            bound.kind() == address.kind() && port == wanted && overlap
        }
        (theirs, ours) => theirs == ours,
    }
}

fn open_listeners(
    declared: Vec<(String, Address)>,
    offered: Vec<(Entry, OwnedFd)>,
    passed: Vec<Passed>,
    mut manager: Option<&mut Manager>,
    shared: &Shared,
) -> Result<Opened, StartError> {
    let unadopted = |(place, (entry, fd))| Unadopted { source: Source::Predecessor(place), entry, fd };
    let unadopted = offered.into_iter().enumerate().map(unadopted).collect();
    let mut opened = Opened { held: Vec::new(), adopted: Vec::new(), unadopted, passed };
    // The path of one that was stored may have been removed with its directory: nobody would reach it.
    opened.forget_stored(manager.as_deref_mut(), |stored| !systemd::is_reachable(stored));
    // What there is has its place before anything is bound, for the sake of which some of it may be let go of.
    let adopted: Result<Vec<_>, _> =
        declared.iter().map(|(name, address)| opened.adopt(name, address)).collect();
    for ((name, address), adopted) in declared.into_iter().zip(adopted?) {
        let _binding = shared.binding(&address);
        let held = adopted.map_or_else(|| opened.bind(&name, &address, manager.as_deref_mut()), Ok)?;
        let noted = Some(Box::new(held.clone()));
        shared.leave(Note::Listener { socket: noted, gates: Vec::new(), adopted: None });
        opened.held.push(held);
    }
    Ok(opened)
}

/// What a service manager has passed and no declared listener has taken, for a body that binds at run time.
fn offered_by_manager(passed: Passed) -> Unadopted {
    let address = systemd::describe_passed(&passed).unwrap_or_else(|| "no address".to_owned());
    let activated = !passed.stored;
    let entry = Entry { name: passed.name, address, inode: None, activated };
    Unadopted { source: Source::ServiceManager, entry, fd: passed.fd }
}

/// Opens the control socket, which is none of the body's listeners, and starts to serve it. One that nobody has asked for is
/// done without where it cannot be, unless another process serves it: that is the service which has this pid file.
fn open_control(
    control: &ControlAt,
    opened: &mut Opened,
    shared: &Arc<Shared>,
    warnings: &mut Vec<String>,
) -> Result<(), StartError> {
    let mut without = |problem: &dyn fmt::Display| {
        warnings.push(format!("there is no control socket beside the pid file: {problem}"));
        Ok(())
    };
    let (address, is_asked_for) = match control {
        ControlAt::Asked(address) => (address, true),
        ControlAt::Beside(Ok(address)) => (address, false),
        ControlAt::Beside(Err(problem)) => return without(problem),
    };
    let _binding = shared.binding(address);
    let held = match opened.open(CONTROL_SOCKET, address, None) {
        // Somebody has removed the file: the one that was inherited reaches nobody.
        Ok(held) if held.is_cut_off() => match opened.bind(CONTROL_SOCKET, address, None) {
            Ok(held) => held,
            Err(error) => {
                warnings.push(error.to_string());
                return Ok(());
            }
        },
        Ok(held) => held,
        Err(StartError::Bind { source, .. })
            if !is_asked_for && source.kind() != io::ErrorKind::AddrInUse =>
        {
            return without(&source);
        }
        Err(error) => return Err(error),
    };
    let control = held.duplicate().and_then(|socket| Control::start(shared.clone(), socket));
    let control = control
        .inspect_err(|_| sockets::forget(slice::from_ref(&held), shared.who()))
        .map_err(StartError::system("serve the control socket"))?;
    shared.post(Note::Control { socket: Box::new(held), control });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixDatagram, UnixListener};
    use std::sync::mpsc;

    use nix::errno::Errno;
    use nix::libc;
    use nix::sys::socket::accept;

    use super::*;
    use crate::between::shared::Verdict;
    use crate::outside::preflight::Check;
    use crate::outside::spawner::{Child, Image};
    use crate::sys::fault;
    use crate::{Ready, blocking};

    fn stored(name: &str, fd: impl Into<OwnedFd>) -> Passed {
        Passed { name: name.to_owned(), fd: fd.into(), stored: true }
    }

    fn declared(name: &str, address: impl fmt::Display) -> (String, Address) {
        (name.to_owned(), address.to_string().parse().unwrap())
    }

    /// Whoever waits in the queue of another listener is not sent away for the sake of one whose address has changed.
    #[test]
    fn a_changed_address_costs_the_stored_socket_that_is_in_the_way_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let mut manager = Manager::at(&at);
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (http, other, late) = (listen(), listen(), listen());
        let (port, other_at) = (http.local_addr().unwrap().port(), other.local_addr().unwrap());
        let client = TcpStream::connect(other_at).unwrap();
        // As a manager does it: it closes what it has kept after it has heard all.
        let kept = http.try_clone().unwrap();
        let heard = thread::spawn(move || {
            let mut heard = Vec::new();
            let mut buffer = [0; 256];
            while heard.last().is_none_or(|last| last != "BARRIER=1") {
                let length = at.recv(&mut buffer).unwrap();
                heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
            drop(kept);
            heard
        });
        let passed = vec![stored("http", http), stored("other", other), stored("late", late)];
        let wanted = vec![
            declared("http", format!("tcp://0.0.0.0:{port}")),
            declared("other", format!("tcp://{other_at}")),
        ];
        let opened = open_listeners(wanted, Vec::new(), passed, Some(&mut manager), &shared()).unwrap();
        let held: Vec<_> = opened.held.iter().map(|held| (held.name.as_str(), held.created)).collect();
        assert_eq!(held, [("http", true), ("other", false)]);
        assert_eq!(opened.passed.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["late"]);
        assert_eq!(heard.join().unwrap(), ["FDSTOREREMOVE=1\nFDNAME=tableflip.http", "BARRIER=1"]);
        assert!(accept(opened.held[1].fd.as_raw_fd()).is_ok(), "{client:?} is there still");
    }

    /// It starts no successor.
    struct Nobody;
    impl Spawner for Nobody {
        fn spawn(&mut self, _: Image, _: OwnedFd) -> Result<Box<dyn Child>, String> {
            unreachable!("it is not asked to")
        }
        fn executable(&self) -> Option<&Path> {
            None
        }
        fn check(&self, _: &OsStr) -> io::Result<Check> {
            unreachable!("it is not asked to")
        }
    }

    /// A predecessor that offers nothing, and where its successor runs.
    fn predecessor() -> (Channel, Host) {
        let (mut predecessor, parent) = Channel::pair().unwrap();
        let speaker = Speaker::us(1, &Identity::default());
        let offer =
            Message::Offer { speaker, sockets: 0, files: 0, executable: None, umask: None, pidfile: None };
        predecessor.send(&offer).unwrap();
        let started = Box::new(|_: &Arc<Shared>, _: &[BoundSocket]| ());
        (predecessor, Host::Test { parent: Some(parent), spawner: Box::new(Nobody), started })
    }

    /// A predecessor is told, and nothing is left at the paths that were bound.
    #[test]
    fn a_start_that_gets_no_thread_says_so_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http");
        let (mut predecessor, host) = predecessor();
        let service = Service::new().listen("http", path.to_str().unwrap());
        let begun = fault::failing(libc::SYS_clone3, Errno::EAGAIN, || {
            begin(service, host, |start| start.listener::<blocking::UnixListener>("http")).map(drop)
        });
        let error = begun.unwrap_err().to_string();
        assert!(error.starts_with("cannot start a thread: "), "{error}");
        let mut heard = Vec::new();
        loop {
            match predecessor.receive().unwrap() {
                Received::Message(message, _) => heard.push(message),
                Received::End => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard.pop(), Some(Message::Failed { reason: error }));
        assert!(!path.exists(), "it was bound, and nobody will remove it");
    }

    /// It lives, and would wait for `prepared` until its deadline.
    #[test]
    fn a_start_that_cannot_be_told_the_predecessor_ends() {
        let (_predecessor, host) = predecessor();
        // The thread of the engine has the filter of the one that starts it.
        let shared = fault::failing(libc::SYS_sendmsg, Errno::EMSGSIZE, || {
            let (shared, ready) = begin(Service::new(), host, Start::harness::<Ready>).unwrap();
            ready.notify();
            shared
        });
        let (tell, told) = mpsc::channel();
        thread::spawn(move || tell.send(*shared.verdict.wait_blocking()));
        assert_eq!(told.recv_timeout(OFFER_TIMEOUT), Ok(Verdict::Failure));
    }

    /// A process may have more descriptors than a port has numbers.
    #[test]
    fn a10_a_number_is_that_of_any_descriptor() {
        let refusal = |value: &str| {
            inherit_socket(&mut Numbers::default(), HANDOVER, value.as_ref()).unwrap_err().to_string()
        };
        for value in ["70000", "2147483647"] {
            let error = refusal(value);
            assert!(error.contains(&format!("\"{value}\": no such descriptor")), "{error}");
        }
        for value in ["-1", "2147483648", "x", ""] {
            let error = refusal(value);
            assert!(error.contains("not the number of a descriptor"), "{error}");
        }
    }

    fn shared() -> Shared {
        Shared::new(1, false, Duration::ZERO).unwrap()
    }

    #[test]
    fn for_an_address_that_another_process_has_nothing_is_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let at = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        at.set_nonblocking(true).unwrap();
        let mut manager = Manager::at(&at);
        let late = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = late.local_addr().unwrap().port();
        let foreign = TcpListener::bind(("127.0.0.2", port)).unwrap();
        let path = dir.path().join("late");
        let passed = vec![stored("late", late), stored("unix", UnixListener::bind(path).unwrap())];
        let wanted = vec![declared("http", format!("tcp://{}", foreign.local_addr().unwrap()))];
        let error = open_listeners(wanted, Vec::new(), passed, Some(&mut manager), &shared())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("in use"), "{error}");
        let holder = std::process::id().to_string();
        assert!(error.contains(&holder), "who has it is said: {error}");
        assert_eq!(at.recv(&mut [0; 256]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_in_the_way_of_an_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let passed = stored("http", listener);
        for (address, is_one) in [
            (format!("tcp://127.0.0.1:{port}"), true),
            (format!("tcp://0.0.0.0:{port}"), true),
            (format!("tcp://[::]:{port}"), true),
            (format!("tcp://localhost:{port}"), true),
            (format!("tcp://127.0.0.2:{port}"), false),
            (format!("tcp://[::1]:{port}"), false),
            (format!("udp://127.0.0.1:{port}"), false),
            ("tcp://127.0.0.1:1".to_owned(), false),
            ("unix:///run/http".to_owned(), false),
        ] {
            assert_eq!(is_in_the_way(&passed, &address.parse().unwrap()), is_one, "{address}");
        }
    }
}
