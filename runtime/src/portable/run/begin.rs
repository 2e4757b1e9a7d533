//! The start of a service: everything before the body. There is no predecessor to take over from.

use std::collections::VecDeque;
use std::env;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::base::address::Address;
use crate::base::error::{StartError, UpgradeError};
use crate::base::limits::no_thread;
use crate::base::report::cannot_start;
use crate::between::note::{Inheritance, Note, Prepared};
use crate::between::params::Start;
use crate::between::shared::{Shared, start_thread};
use crate::config::environment::{Environment, HANDOVER, SUPERVISOR};
use crate::config::service::Service;
use crate::config::settings::{Settings, Supervise};
use crate::engine::{Engine, Neighbours, Process};
use crate::outside::pidfile::Pidfile;
use crate::outside::sockets::{self, BoundSocket};
use crate::sys::signals;

/// Where a service runs.
pub(crate) enum Host {
    /// This process is the service: its environment, its signals.
    Process,
    /// It is one of several in the process of a test.
    Test {
        /// Told as soon as there is something to talk to.
        started: Started,
    },
}

pub(crate) type Started = Box<dyn FnOnce(&Arc<Shared>, &[BoundSocket]) + Send>;

/// Everything before the body, in this order: what this process was started with, the engine, the listeners, the body's own
/// preparation. From the second step on a stop ends the start at any moment. An error is said on stderr.
pub(crate) fn begin<P>(
    service: Service,
    host: Host,
    prepare: impl FnOnce(&mut Start) -> Result<P, StartError>,
) -> Result<(Arc<Shared>, P), StartError> {
    let is_process = matches!(host, Host::Process);
    let begun = settle(service, host).and_then(start_engine).and_then(|(shared, listeners, started)| {
        let prepared = shared.preparing(|| open_and_prepare(&shared, listeners, started, prepare))?;
        Ok((shared, prepared))
    });
    begun.inspect_err(|error| {
        if is_process {
            cannot_start(error);
        }
    })
}

/// What a process was started with.
fn settle(service: Service, host: Host) -> Result<(Settings, Option<Started>), StartError> {
    let Host::Test { started } = host else {
        let (environment, ours) = Environment::take();
        let unsupported = |variable: &str| StartError::Environment {
            variable: variable.to_owned(),
            problem: UpgradeError::Unsupported.to_string(),
        };
        if ours.handover.is_some() {
            return Err(unsupported(HANDOVER));
        }
        if ours.supervisor.is_some() {
            return Err(unsupported(SUPERVISOR));
        }
        let directory = env::current_dir().map_err(StartError::system("find the working directory"))?;
        let settings = service.settle(environment, &directory)?;
        if settings.supervise == Supervise::Always {
            let problem = "`always`: no supervisor is needed where there are no upgrades".to_owned();
            return Err(StartError::Option { option: "supervise", problem });
        }
        signals::install(settings.upgrade_signal)
            .map_err(no_thread)
            .map_err(StartError::system("install the signal handlers"))?;
        return Ok((settings, None));
    };
    Ok((service.settle(Environment::default(), Path::new("/"))?, Some(started)))
}

type Listeners = Vec<(String, Address)>;

fn start_engine(
    (mut settings, started): (Settings, Option<Started>),
) -> Result<(Arc<Shared>, Listeners, Option<Started>), StartError> {
    let shared = Arc::new(
        Shared::new(1, false, settings.timeouts.drain)
            .map_err(StartError::system("make what wakes the engine"))?,
    );
    shared.predecessor_gone.set(());
    let is_process = started.is_none();
    if is_process {
        let woken = shared.clone();
        signals::wake_through(move || woken.wake());
    }
    let listeners = mem::take(&mut settings.listeners);
    let pidfile = settings.pidfile.take().filter(|_| is_process).map(|path| Pidfile::new(path, shared.pid));
    let run = start_thread(thread::Builder::new().name("tableflip".to_owned()), Engine::run)?;
    let process = Process { shared: shared.clone(), settings, pidfile, is_process };
    run(Engine::new(process, Neighbours::default()));
    Ok((shared, listeners, started))
}

/// Opens the listeners, and prepares the body. The engine has notes of all that is to be removed should the start not come to
/// its end.
fn open_and_prepare<P>(
    shared: &Arc<Shared>,
    listeners: Listeners,
    started: Option<Started>,
    prepare: impl FnOnce(&mut Start) -> Result<P, StartError>,
) -> Result<P, StartError> {
    let mut held = Vec::new();
    for (name, address) in listeners {
        let _binding = shared.binding(&address);
        let bound = sockets::bind(&name, &address)?;
        let noted = Some(Box::new(bound.clone()));
        shared.leave(Note::Listener { socket: noted, gates: Vec::new(), adopted: None });
        held.push(bound);
    }
    if let Some(started) = started {
        started(shared, &held);
    }
    let mut start = Start::new(shared.clone(), held, VecDeque::new(), Vec::new());
    let prepared = prepare(&mut start)?;
    start.check()?;
    let Start { gates, manual_ready, .. } = start;
    shared.post(Note::Prepared(Box::new(Prepared { gates, manual_ready, inherited: Inheritance })));
    Ok(prepared)
}
