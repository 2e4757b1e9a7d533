//! The start of a service in its order, until the body runs:
//!
//! 1. The [surroundings](Surroundings): what started this process, and with what. The settings and the signals.
//! 2. The engine. From here on a stop ends the start at any moment.
//! 3. The listeners, adopted or bound, and the control socket.
//! 4. The preparation of the body.

use std::mem;
use std::sync::Arc;
use std::thread;

use crate::base::address::Address;
use crate::base::error::{Failure, StartError};
use crate::base::limits::ENGINE_THREAD;
use crate::base::report::cannot_start;
use crate::between::note::{Note, Prepared};
use crate::between::params::Start;
use crate::between::shared::{Shared, start_thread};
use crate::config::service::Service;
use crate::config::settings::Settings;
use crate::engine::{Engine, Process};
use crate::outside::pidfile::Pidfile;
use crate::outside::sockets::BoundSocket;
use crate::run::host::{ServiceHost, Started};
use crate::run::sources::SocketSources;
use crate::run::surroundings::{self, PredecessorChannel, Surroundings, say_failed};
use crate::sys::signals::{self, Signal};

/// Takes all steps of a start. An error goes to stderr and to the predecessor.
pub(crate) fn begin<P>(
    service: Service,
    host: ServiceHost,
    prepare: impl FnOnce(&mut Start) -> Result<P, Failure>,
) -> Result<(Arc<Shared>, P), StartError> {
    let mut channel = None;
    let is_process = matches!(host, ServiceHost::Process);
    let begun = Surroundings::find(service, host, &mut channel)
        .and_then(|found| start_engine(found, &mut channel))
        .and_then(|(shared, opening)| {
            let prepared = shared.preparing(|| opening.prepare(&shared, prepare))?;
            Ok((shared, prepared))
        });
    begun.inspect_err(|error| {
        say_failed(channel, error);
        if is_process {
            cannot_start(error);
        }
    })
}

/// Ends a start before the service is declared. The error goes to stderr and to the predecessor.
pub(crate) fn refuse(host: Option<ServiceHost>, error: &StartError) {
    let Some(host) = host else { return };
    let is_process = matches!(host, ServiceHost::Process);
    let mut channel = None;
    // The error of the caller is the cause.
    match surroundings::meet_predecessor(host, &mut channel) {
        Ok(()) | Err(_) => say_failed(channel, error),
    }
    if is_process {
        cannot_start(error);
    }
}

/// Starts the engine, which owns the channel to the predecessor from then on.
fn start_engine(
    (mut settings, mut surroundings, started): (Settings, Surroundings, Option<Started>),
    channel: &mut PredecessorChannel,
) -> Result<(Arc<Shared>, Opening), StartError> {
    let is_process = started.is_none();
    let generation = surroundings.generation();
    let shared = Shared::new(generation, surroundings.has_predecessor(), settings.timeouts.drain)
        .map_err(StartError::system("make an eventfd"))?;
    let shared = Arc::new(shared);
    if is_process {
        surroundings.deliver_signals(&shared)?;
    }
    let pidfile = settings.pidfile.take().filter(|_| is_process);
    let pidfile = pidfile.map(|path| Pidfile::new(path, shared.pid));
    surroundings.check_pidfile(pidfile.as_ref())?;
    if !surroundings.has_predecessor() {
        shared.predecessor_gone.set(());
    }
    let upgrade_signal = is_process.then_some(settings.upgrade_signal);
    let (listeners, unopened) = (mem::take(&mut settings.listeners), mem::take(&mut settings.unopened));
    let probe = settings.probe.as_ref().map(|probe| probe.listener.clone());
    let run = start_thread(thread::Builder::new().name(ENGINE_THREAD.to_owned()), Engine::run)?;
    let (neighbours, sources) = surroundings.divide(&shared, &mut settings, is_process, channel);
    let process = Process { shared: shared.clone(), settings, pidfile, is_process };
    run(Engine::new(process, neighbours));
    Ok((shared, Opening { listeners, unopened, probe, sources, started, upgrade_signal }))
}

/// The part of a start that the engine runs beside.
struct Opening {
    listeners: Vec<(String, Address)>,
    unopened: Vec<String>,
    /// The listener that the option `probe` is for.
    probe: Option<String>,
    sources: SocketSources,
    started: Option<Started>,
    /// The upgrade signal of a process.
    upgrade_signal: Option<Signal>,
}

impl Opening {
    /// Opens the listeners and the control socket, and prepares the body. The engine has notes of all that it removes if the start
    /// fails.
    fn prepare<P>(
        mut self,
        shared: &Arc<Shared>,
        prepare: impl FnOnce(&mut Start) -> Result<P, Failure>,
    ) -> Result<P, StartError> {
        let sockets = open_listeners(self.listeners, &mut self.sources, shared)?;
        self.sources.open_control(&sockets, shared)?;
        if let Some(started) = self.started {
            started(shared, &sockets);
        }
        let (unadopted, files) = self.sources.left_over();
        let mut start = Start::new(shared.clone(), sockets, self.unopened, unadopted, files);
        let prepared = prepare(&mut start).map_err(Failure::into_error)?;
        start.check(self.probe.as_deref())?;
        let Start { gates, manual_ready, unadopted, .. } = start;
        let is_ready_at_once = !manual_ready && gates.is_empty() && shared.pool().is_none();
        if let Some(upgrade) = self.upgrade_signal.filter(|_| is_ready_at_once) {
            // Here and not in the engine: whether the body is too late for a handler of `ctrlc` does not depend on which of the
            // two threads is faster.
            signals::settle(upgrade);
        }
        let inherited = self.sources.finish(unadopted, shared);
        shared.post(Note::Prepared(Box::new(Prepared { gates, manual_ready, inherited })));
        Ok(prepared)
    }
}

/// Adopts or binds the declared listeners.
pub(super) fn open_listeners(
    declared: Vec<(String, Address)>,
    sources: &mut SocketSources,
    shared: &Shared,
) -> Result<Vec<BoundSocket>, StartError> {
    // Adopt every existing socket first: binding a new address may close stored sockets that are in its way.
    sources.adopt(&declared)?;
    let mut sockets = Vec::new();
    for (name, address) in declared {
        let _binding = shared.binding(&address);
        let socket = sources.adopted_or_bound(&name, &address)?;
        let noted = Some(Box::new(socket.clone()));
        shared.leave(Note::Listener { socket: noted, gates: Vec::new(), adopted: None });
        sockets.push(socket);
    }
    Ok(sockets)
}

#[cfg(upgrades)]
#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};
    use std::io;
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::sync::mpsc;

    use nix::errno::Errno;
    use nix::libc;

    use super::*;
    use crate::base::error::chain;
    use crate::base::identity::Identity;
    use crate::between::shared::Verdict;
    use crate::config::environment::Environment;
    use crate::outside::handover::channel::{Channel, Received};
    use crate::outside::handover::message::{Message, Speaker};
    use crate::outside::preflight::Check;
    use crate::outside::spawner::{Child, Image, Spawner};
    use crate::run::offer::OFFER_TIMEOUT;
    use crate::sys::fault;
    use crate::{Ready, blocking};

    /// A service of these tests starts no successor.
    struct NoSpawner;
    impl Spawner for NoSpawner {
        fn spawn(&mut self, _: Image, _: OwnedFd) -> Result<Box<dyn Child>, String> {
            unreachable!("it is not asked to")
        }
        fn executable(&self) -> Option<&Path> {
            None
        }
        fn check(&self, _: Image, _: &OsStr, _: &[(OsString, OsString)]) -> io::Result<Check> {
            unreachable!("it is not asked to")
        }
    }

    /// A predecessor that offers nothing, and where its successor runs.
    fn predecessor() -> (Channel, ServiceHost) {
        let (mut predecessor, parent) = Channel::pair().unwrap();
        let speaker = Box::new(Speaker::us(1, &Identity::default()));
        let (executable, umask, pidfile, probation_ms) = (None, None, None, None);
        let offer = Message::Offer {
            speaker,
            sockets: 0,
            files: 0,
            executable,
            umask,
            pidfile,
            probation_ms,
            aborted: 0,
        };
        predecessor.send(&offer).unwrap();
        let started = Box::new(|_: &Arc<Shared>, _: &[BoundSocket]| ());
        (
            predecessor,
            ServiceHost::Test {
                environment: Environment::default(),
                parent: Some(parent),
                spawner: Box::new(NoSpawner),
                started,
            },
        )
    }

    /// The predecessor gets the reason, and the bound paths are removed.
    #[test]
    fn a_start_that_gets_no_thread_says_so_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http");
        let (mut predecessor, host) = predecessor();
        let service = Service::new().listen("http", path.to_str().unwrap());
        let begun = fault::failing(libc::SYS_clone3, Errno::EAGAIN, || {
            begin(service, host, |start| Ok(start.listener::<blocking::UnixListener>("http")?)).map(drop)
        });
        let error = chain(&begun.unwrap_err());
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
        assert!(!path.exists(), "it was bound, and no other process removes it");
    }

    /// tokio itself panics there.
    #[cfg(feature = "tokio")]
    #[test]
    fn d11_a_listener_that_needs_the_runtime_fails_the_start_without_one() {
        fn take<T: crate::FromListener>() -> String {
            let (_predecessor, host) = predecessor();
            let service = Service::new().listen("http", "tcp://127.0.0.1:0");
            begin(service, host, |start| Ok(start.listener::<T>("http").map(drop)?)).unwrap_err().to_string()
        }
        let expected = "listener `http`: its type needs the runtime of tokio, and there is none here; start the service with \
                        `run`, or take a type of `tableflip::blocking`";
        assert_eq!(take::<crate::net::TcpListener>(), expected);
        assert_eq!(take::<tokio::net::TcpListener>(), expected);
        let (_predecessor, host) = predecessor();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let service = Service::new().listen("http", "tcp://127.0.0.1:0").listen("raw", "tcp://127.0.0.1:0");
        begin(service, host, |start| {
            let _entered = runtime.enter();
            start.listener::<crate::net::TcpListener>("http")?;
            start.listener::<tokio::net::TcpListener>("raw")?;
            Ok(())
        })
        .unwrap();
    }

    /// The predecessor lives, and would wait for `prepared` until its deadline.
    #[test]
    fn a_start_that_cannot_be_told_the_predecessor_ends() {
        let (_predecessor, host) = predecessor();
        // The engine thread inherits the filter of this thread.
        let shared = fault::failing(libc::SYS_sendmsg, Errno::EMSGSIZE, || {
            let (shared, ready) = begin(Service::new(), host, |start| Ok(start.handle::<Ready>()?)).unwrap();
            ready.notify();
            shared
        });
        let (sender, verdict) = mpsc::channel();
        thread::spawn(move || sender.send(*shared.verdict.wait_blocking()));
        assert_eq!(verdict.recv_timeout(OFFER_TIMEOUT), Ok(Verdict::Failure));
    }
}
