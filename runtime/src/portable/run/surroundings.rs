//! The surroundings of a process that cannot be upgraded: no predecessor, no service manager, no supervisor.

use std::convert::Infallible;
use std::env;
use std::path::Path;

use crate::base::error::{StartError, UpgradeError};
use crate::base::limits::no_thread;
use crate::between::shared::Shared;
use crate::config::choices::Supervise;
use crate::config::environment::{Environment, HANDOVER, SUPERVISOR};
use crate::config::service::Service;
use crate::config::settings::Settings;
use crate::engine::Neighbours;
use crate::outside::pidfile::Pidfile;
use crate::run::host::{ServiceHost, Started};
use crate::run::sources::SocketSources;
use crate::sys::signals;

pub(super) type PredecessorChannel = Option<Infallible>;

pub(super) fn say_failed(_channel: PredecessorChannel, _error: &StartError) {}

#[expect(clippy::unnecessary_wraps, reason = "its twin takes a channel")]
pub(super) fn meet_predecessor(
    _host: ServiceHost,
    _channel: &mut PredecessorChannel,
) -> Result<(), StartError> {
    Ok(())
}

pub(super) fn keep_from_children() {}

pub(super) struct Surroundings;

impl Surroundings {
    pub(super) fn find(
        service: Service,
        host: ServiceHost,
        _channel: &mut PredecessorChannel,
    ) -> Result<(Settings, Self, Option<Started>), StartError> {
        match host {
            ServiceHost::Process => Ok((of_process(service)?, Self, None)),
            ServiceHost::Test { environment, started } => {
                Ok((service.settle(environment, Path::new("/"))?, Self, Some(started)))
            }
        }
    }

    pub(super) fn generation(&self) -> u64 {
        1
    }

    pub(super) fn has_predecessor(&self) -> bool {
        false
    }

    pub(super) fn deliver_signals(&mut self, shared: &Shared) -> Result<(), StartError> {
        let delivered = shared.waker().on_signals().map_err(no_thread);
        delivered.map_err(StartError::system("install the signal handlers"))
    }

    #[expect(clippy::unnecessary_wraps, reason = "its twin looks for another service")]
    pub(super) fn check_pidfile(&self, _pidfile: Option<&Pidfile>) -> Result<(), StartError> {
        Ok(())
    }

    pub(super) fn divide(
        self,
        _shared: &Shared,
        _settings: &mut Settings,
        _is_process: bool,
        _channel: &mut PredecessorChannel,
    ) -> (Neighbours, SocketSources) {
        (Neighbours::default(), SocketSources)
    }
}

fn of_process(service: Service) -> Result<Settings, StartError> {
    let (environment, ours) = Environment::take();
    for (variable, value) in [(HANDOVER, ours.handover), (SUPERVISOR, ours.supervisor)] {
        if value.is_some() {
            let problem = UpgradeError::Unsupported.to_string();
            return Err(StartError::Environment { variable: variable.to_owned(), problem });
        }
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
    Ok(settings)
}
