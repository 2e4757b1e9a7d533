//! The start of a service: everything before the body. There is no predecessor to take over from.

use std::collections::VecDeque;
use std::env;
use std::path::Path;
use std::sync::Arc;

use crate::engine::Engine;
use crate::environment::{Environment, HANDOVER, SUPERVISOR};
use crate::error::{StartError, UpgradeError};
use crate::params::Start;
use crate::pidfile::Pidfile;
use crate::report::cannot_start;
use crate::service::{Service, Supervise};
use crate::shared::{Shared, start_engine_thread};
use crate::signals;
use crate::sockets::{self, Held};

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

pub(crate) type Started = Box<dyn FnOnce(&Arc<Shared>, &[Held]) + Send>;

/// Everything before the body: prepares, then starts the engine. An error is said on stderr.
pub(crate) fn begin<P>(
    service: Service,
    host: Host,
    prepare: impl FnOnce(&mut Start) -> Result<P, StartError>,
) -> Result<(Arc<Shared>, P), StartError> {
    let is_process = matches!(host, Host::Process);
    try_begin(service, host, prepare).inspect_err(|error| {
        if is_process {
            cannot_start(error);
        }
    })
}

fn try_begin<P>(
    service: Service,
    host: Host,
    prepare: impl FnOnce(&mut Start) -> Result<P, StartError>,
) -> Result<(Arc<Shared>, P), StartError> {
    let (mut settings, started) = match host {
        Host::Process => {
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
                .map_err(StartError::system("install the signal handlers"))?;
            (settings, None)
        }
        Host::Test { started } => (service.settle(Environment::default(), Path::new("/"))?, Some(started)),
    };
    let shared = Arc::new(
        Shared::new(1, false, settings.timeouts.drain)
            .map_err(StartError::system("make what wakes the engine"))?,
    );
    shared.predecessor_gone.set(());
    let is_process = started.is_none();
    if is_process {
        signals::wake_through(&shared);
    }

    let mut held = Vec::new();
    for (name, address) in &settings.listeners {
        held.push(sockets::bind(name, address).inspect_err(|_| sockets::forget(&held, &shared))?);
    }
    let mut start = Start::new(shared.clone(), held, VecDeque::new(), Vec::new());
    let prepared = prepare(&mut start).and_then(|prepared| start.check().map(|()| prepared));
    let prepared = prepared.inspect_err(|_| sockets::forget(&start.held, &shared))?;
    let engine_thread =
        start_engine_thread(Engine::run).inspect_err(|_| sockets::forget(&start.held, &shared))?;
    if let Some(started) = started {
        started(&shared, &start.held);
    }
    let Start { held, doors, manual_ready, .. } = start;
    let pidfile = settings.pidfile.take().filter(|_| is_process).map(|path| Pidfile::new(path, shared.pid));
    let engine = Engine::new(shared.clone(), settings, pidfile, held, doors, manual_ready, is_process);
    engine_thread(engine);
    Ok((shared, prepared))
}
