//! The surroundings of a process: its predecessor, its supervisor and its service manager, and what they have given it.

use std::ffi::OsString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::base::error::{StartError, chain};
use crate::base::identity::{Identity, PredecessorOffer};
use crate::base::limits::no_thread;
use crate::base::report::printable;
use crate::between::passed_on;
use crate::between::shared::Shared;
use crate::config::choices::Supervise;
use crate::config::environment::{Environment, HANDOVER, OwnVariables, SUPERVISOR};
use crate::config::service::Service;
use crate::config::settings::Settings;
use crate::engine::{Neighbours, PredecessorLink};
use crate::outside::handover::channel::Channel;
use crate::outside::handover::message::Message;
use crate::outside::hint;
use crate::outside::inherited::Numbers;
use crate::outside::pidfile::Pidfile;
use crate::outside::proof;
use crate::outside::spawn::{Launch, PassedDescriptors, Siblings};
use crate::outside::spawner::Spawner;
use crate::outside::supervise;
use crate::outside::systemd::{self, Manager, Passed, Variables, Whereabouts};
use crate::run::host::{ServiceHost, Started};
pub(super) use crate::run::offer::keep_from_children;
use crate::run::offer::{Offer, bad_variable, inherit_socket, take_offer};
use crate::run::sources::SocketSources;
use crate::sys::hangup;
use crate::sys::pidfd;
use crate::sys::signal_mask::{self, Blocked};

/// The channel to the predecessor, until the engine has it.
pub(super) type PredecessorChannel = Option<Channel>;

/// Says to the predecessor why the start has failed. An engine that runs has the channel, and has said it.
pub(super) fn say_failed(channel: PredecessorChannel, error: &StartError) {
    if let Some(mut channel) = channel {
        // A predecessor that is gone needs no answer.
        match channel.send(&Message::Failed { reason: printable(&chain(error)) }) {
            Ok(()) | Err(_) => {}
        }
    }
}

/// What a process was started with, and by what.
pub(super) struct Surroundings {
    /// What the predecessor offers.
    offer: Option<Offer>,
    /// How this process starts a successor.
    spawner: Box<dyn Spawner>,
    /// The socket to the supervisor.
    supervisor: Option<OwnedFd>,
    /// The service manager, if the process has a connection to it.
    manager: Option<Manager>,
    /// The service manager follows the generations, so that each becomes its main process.
    is_followed: bool,
    /// The sockets that the service manager has passed.
    passed: Vec<Passed>,
    /// Why the service has not taken the sockets that the service manager passed.
    not_ours: Option<String>,
    /// What the service does without. It is said once the service serves: a start that fails says why, and nothing else.
    warnings: Vec<String>,
    /// The signals of a process, until the engine can wake.
    blocked: Option<Blocked>,
}

impl Surroundings {
    /// The first step of a start.
    pub(super) fn find(
        service: Service,
        host: ServiceHost,
        channel: &mut PredecessorChannel,
    ) -> Result<(Settings, Self, Option<Started>), StartError> {
        match host {
            ServiceHost::Process => {
                let (settings, surroundings) = of_process(service, channel)?;
                Ok((settings, surroundings, None))
            }
            ServiceHost::Test { environment, parent, spawner, started } => {
                let (settings, surroundings) = of_test(service, environment, parent, spawner, channel)?;
                Ok((settings, surroundings, Some(started)))
            }
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.offer.as_ref().map_or(1, |offer| offer.generation)
    }

    pub(super) fn has_predecessor(&self) -> bool {
        self.offer.is_some()
    }

    /// Lets the signals wake the engine, and delivers the signals that came meanwhile.
    pub(super) fn deliver_signals(&mut self, shared: &Shared) -> Result<(), StartError> {
        shared.waker().on_signals().map_err(StartError::system("duplicate an eventfd"))?;
        self.blocked = None;
        Ok(())
    }

    /// Fails if the pid file names a running service that is not the predecessor.
    pub(super) fn check_pidfile(&self, pidfile: Option<&Pidfile>) -> Result<(), StartError> {
        let predecessor = self.predecessor();
        match pidfile.and_then(|pidfile| proof::other_service(pidfile, predecessor.as_ref())) {
            Some(running) => Err(running),
            None => Ok(()),
        }
    }

    /// The part of the engine, which takes the channel, and the part of the listeners.
    pub(super) fn divide(
        mut self,
        shared: &Shared,
        settings: &mut Settings,
        is_process: bool,
        channel: &mut PredecessorChannel,
    ) -> (Neighbours, SocketSources) {
        let predecessor = self.predecessor();
        let (sockets, mut files) = self.offer.map(|offer| (offer.sockets, offer.files)).unwrap_or_default();
        let supervisor = match files.iter().position(|(name, _)| name == supervise::NAME) {
            Some(at) => Some(files.remove(at).1),
            None => self.supervisor,
        };
        // Another release may pass on more of its own than this one knows. The body gets only what is the service's.
        files.retain(|(name, _)| !passed_on::is_own(name));
        if let Some(supervisor) = supervisor {
            shared.passed_on.set_own(supervise::NAME, supervisor);
        }
        let link = predecessor.zip(channel.take()).map(|(offered, channel)| {
            // In a test the end of the channel is the end of the service, as is that of a predecessor which is dead.
            let watch = if is_process { pidfd::of_maker(channel.as_fd()) } else { Ok(None) };
            let watch = watch.unwrap_or_else(|error| {
                self.warnings.push(unwatched(offered.pid, &error));
                None
            });
            PredecessorLink::new(offered, channel, watch)
        });
        let mut sources = SocketSources::new(sockets, self.passed, self.manager);
        sources.control = settings.control.take().filter(|_| is_process);
        sources.files = files;
        sources.not_ours = self.not_ours;
        sources.warnings = self.warnings;
        (Neighbours::new(self.spawner, link, self.is_followed), sources)
    }

    fn predecessor(&self) -> Option<PredecessorOffer> {
        self.offer.as_ref().map(Offer::predecessor)
    }
}

/// The warning about a predecessor without a pidfd.
fn unwatched(pid: u32, error: &io::Error) -> String {
    format!(
        "process {pid}, the predecessor, cannot be watched by a pidfd: {error}; the end of its channel counts as its death"
    )
}

fn of_test(
    service: Service,
    environment: Environment,
    parent: Option<OwnedFd>,
    spawner: Box<dyn Spawner>,
    channel: &mut PredecessorChannel,
) -> Result<(Settings, Surroundings), StartError> {
    let offer = parent.map(|fd| take_offer_of_test(fd, &service.identity(), channel)).transpose()?;
    let settings = service.settle(environment, Path::new("/"))?;
    let surroundings = Surroundings {
        offer,
        spawner,
        supervisor: None,
        manager: None,
        is_followed: false,
        passed: Vec::new(),
        not_ours: None,
        warnings: Vec::new(),
        blocked: None,
    };
    Ok((settings, surroundings))
}

fn take_offer_of_test(
    fd: OwnedFd,
    identity: &Identity,
    channel: &mut PredecessorChannel,
) -> Result<Offer, StartError> {
    take_offer(channel.insert(Channel::new(fd)), identity, &StartError::Handover)
}

/// Takes the channel to the predecessor, for a start that has failed already.
pub(super) fn meet_predecessor(
    host: ServiceHost,
    channel: &mut PredecessorChannel,
) -> Result<(), StartError> {
    let identity = Identity::default();
    match host {
        ServiceHost::Process => Inheritance::take(&identity, channel).map(drop),
        ServiceHost::Test { parent: Some(parent), .. } => {
            take_offer_of_test(parent, &identity, channel).map(drop)
        }
        ServiceHost::Test { parent: None, .. } => Ok(()),
    }
}

/// What the parent of this process has given it.
struct Inheritance {
    environment: Environment,
    variables: Variables,
    descriptors: Descriptors,
    offer: Option<Offer>,
}

impl Inheritance {
    fn take(identity: &Identity, channel: &mut PredecessorChannel) -> Result<Self, StartError> {
        let (environment, ours) = Environment::take();
        let variables = Variables::take();
        let descriptors = Descriptors::take(&ours, &variables, channel)?;
        let take = |(channel, value): (&mut Channel, OsString)| {
            take_offer(channel, identity, &|problem| bad_variable(HANDOVER, &value, &problem))
        };
        let offer = channel.as_mut().zip(ours.handover).map(take).transpose()?;
        Ok(Self { environment, variables, descriptors, offer })
    }
}

/// The order matters. A process with one thread loses no signal, and its children find no variable that means it alone.
/// It may have more: the thread of a handler of `ctrlc`, or those of an allocator.
fn of_process(
    service: Service,
    channel: &mut PredecessorChannel,
) -> Result<(Settings, Surroundings), StartError> {
    hint::note_user();
    let mut blocked = signal_mask::block().map_err(StartError::system("block signals"))?;
    let Inheritance { environment, variables, descriptors, mut offer } =
        Inheritance::take(&service.identity(), channel)?;
    let Descriptors { supervisor, passed } = descriptors;
    if offer.as_ref().is_some_and(|offer| hangup::is_led_by(offer.parent)) {
        hangup::pass_over();
    }
    let executable = offer.as_ref().and_then(|offer| offer.executable.clone());
    let umask = offer.as_ref().and_then(|offer| offer.umask);
    let mut launch = Launch::new(executable, umask, variables.for_successor())
        .map_err(StartError::system("find out how this process was started"))?;
    launch.set_previous(offer.as_mut().map(Offer::take_executables).unwrap_or_default());
    let settings = service.settle(environment, launch.directory())?;
    let is_supervised = supervisor.is_some() || offer.as_ref().is_some_and(Offer::has_supervisor);
    // A successor, and the first generation under a supervisor, have one already.
    if wants_supervisor(&settings) && offer.is_none() && supervisor.is_none() {
        let start = |socket: BorrowedFd<'_>| {
            let (descriptors, variables) = Passed::into_parts(passed);
            let passed = PassedDescriptors { descriptors, variables };
            launch.start_supervised(socket, settings.upgrade_signal, passed)
        };
        let mut manager = variables.connect(&mut Vec::new())?;
        let mut first = true;
        let say_ready = || match &mut manager {
            Some(manager) => manager.say_ready(mem::take(&mut first)),
            None => true,
        };
        match supervise::run(settings.upgrade_signal, say_ready, start) {
            Err(error) => return Err(StartError::system("supervise the service")(error)),
        }
    }
    blocked
        .install(settings.upgrade_signal)
        .map_err(no_thread)
        .map_err(StartError::system("install the signal handlers"))?;
    let ManagerPart { manager, is_followed, mut warnings } =
        connect_manager(&variables, offer.as_ref(), is_supervised, &mut launch)?;
    warnings.extend(pidfd::check_allowed().err().map(|error| without_pidfds(&error)));
    let not_ours = variables.not_for_us(is_supervised);
    warnings.extend(not_ours.clone());
    let (spawner, blocked) = (Box::new(launch), Some(blocked));
    let surroundings = Surroundings {
        offer,
        spawner,
        supervisor,
        manager,
        is_followed,
        passed,
        not_ours,
        warnings,
        blocked,
    };
    Ok((settings, surroundings))
}

/// The warning about a system that refuses the system calls of pidfds.
fn without_pidfds(error: &io::Error) -> String {
    format!(
        "an upgrade that fails may leave processes behind, which this process cannot watch or end: {error}"
    )
}

fn wants_supervisor(settings: &Settings) -> bool {
    match settings.supervise {
        Supervise::Always => true,
        Supervise::Auto => std::process::id() == 1,
        Supervise::Never => false,
    }
}

/// The part of the service manager in a start.
struct ManagerPart {
    manager: Option<Manager>,
    is_followed: bool,
    warnings: Vec<String>,
}

/// Connects to the service manager, and decides whether it follows the generations.
fn connect_manager(
    variables: &Variables,
    offer: Option<&Offer>,
    is_supervised: bool,
    launch: &mut Launch,
) -> Result<ManagerPart, StartError> {
    let mut warnings = Vec::new();
    let manager = variables.connect(&mut warnings)?;
    let whereabouts = Whereabouts::find();
    let is_followed = manager.is_some() && !is_supervised && whereabouts != Whereabouts::Outside;
    if manager.is_some() && !is_supervised && offer.is_none() {
        warnings.extend(whereabouts.warning());
    }
    if is_followed && offer.is_some_and(|offer| systemd::is_behind_a_wrapper(offer.parent)) {
        warnings.push(systemd::behind_a_wrapper(std::process::id()));
    }
    if variables.lacks_notify_socket() && !is_supervised && offer.is_none() {
        warnings.push(
            "systemd is not told of upgrades: unless the unit has PIDFile=, the end of this process after the first \
             one is that of the service; use Type=notify, or the option `supervise`"
                .to_owned(),
        );
    }
    if !is_supervised && whereabouts != Whereabouts::Outside {
        launch.set_siblings(if is_followed { Siblings::Always } else { Siblings::OfManager });
    }
    Ok(ManagerPart { manager, is_followed, warnings })
}

/// The descriptors that the environment names by their numbers.
struct Descriptors {
    supervisor: Option<OwnedFd>,
    passed: Vec<Passed>,
}

impl Descriptors {
    /// All of them are taken before this process opens a descriptor, which could get one of the numbers. So the offer is read
    /// later: the descriptors that come with it get numbers.
    fn take(
        ours: &OwnVariables,
        variables: &Variables,
        channel: &mut PredecessorChannel,
    ) -> Result<Self, StartError> {
        let mut numbers = Numbers::default();
        if let Some(value) = &ours.handover {
            *channel = inherit_socket(&mut numbers, HANDOVER, value)?.map(Channel::new);
        }
        let supervisor = ours.supervisor.as_ref();
        let supervisor =
            supervisor.map(|value| inherit_socket(&mut numbers, SUPERVISOR, value)).transpose()?.flatten();
        let passed = variables.passed(supervisor.is_some(), &mut numbers)?;
        Ok(Self { supervisor, passed })
    }
}
