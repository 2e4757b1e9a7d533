//! Where a service runs: as a process, or in a test.

use std::any::{Any, type_name};
use std::cell::RefCell;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use crate::base::error::StartError;
use crate::between::shared::{Shared, Verdict};
use crate::config::environment::Environment;
use crate::outside::sockets::BoundSocket;
#[cfg(upgrades)]
use crate::{outside::spawner::Spawner, sys::fd::OwnedFd};

/// Where a service runs.
pub(crate) enum ServiceHost {
    /// This process is the service: its environment, its signals, its arguments.
    Process,
    /// One of several services in the process of a test.
    Test {
        environment: Environment,
        /// The channel to the predecessor.
        #[cfg(upgrades)]
        parent: Option<OwnedFd>,
        #[cfg(upgrades)]
        spawner: Box<dyn Spawner>,
        started: Started,
    },
}

/// A test is called as soon as the listeners of the service are bound.
pub(crate) type Started = Box<dyn FnOnce(&Arc<Shared>, &[BoundSocket]) + Send>;

/// The end of a service.
pub(crate) struct Ended<T> {
    /// The value that the body returned, or its panic. `None` if the body was dropped.
    pub(crate) returned: Option<thread::Result<T>>,
    pub(crate) verdict: Verdict,
}

/// How a service ended that was the process, or stood for it in a test.
pub(crate) type Outcome = Result<Ended<ExitCode>, StartError>;

thread_local! {
    static PROGRAM: RefCell<Option<Program>> = const { RefCell::new(None) };
}

/// The `main` of a service that a test calls on this thread, in the place of a process of its own.
struct Program {
    /// Taken by the service.
    host: Option<ServiceHost>,
    /// The configuration, in the place of the one that the service would load.
    config: Option<Box<dyn Any>>,
    outcome: Option<Outcome>,
}

/// Calls the `main` of a service on this thread. `None` if it ran no service.
pub(crate) fn run_program(
    host: ServiceHost,
    config: Option<Box<dyn Any>>,
    main: impl FnOnce(),
) -> Option<Outcome> {
    PROGRAM.set(Some(Program { host: Some(host), config, outcome: None }));
    main();
    PROGRAM.take().and_then(|program| program.outcome)
}

/// Where the service of this `main` runs. `None` in a test whose `main` has run a service, or has failed to load its configuration:
/// a process would have ended by then.
pub(crate) fn of_main() -> Option<ServiceHost> {
    PROGRAM.with_borrow_mut(|program| match program {
        Some(program) => program.host.take(),
        None => Some(ServiceHost::Process),
    })
}

/// The configuration that a test gives the service, if it gives one.
pub(crate) fn config_of_test<C: 'static>() -> Result<Option<C>, StartError> {
    let Some(config) = PROGRAM.with_borrow_mut(|program| program.as_mut()?.config.take()) else {
        return Ok(None);
    };
    match config.downcast() {
        Ok(config) => Ok(Some(*config)),
        Err(_) => Err(StartError::Option {
            option: "config",
            problem: format!("the test gives it another type than {}", type_name::<C>()),
        }),
    }
}

/// Leaves the outcome to the test, if one calls this `main`. The first one counts.
pub(crate) fn leave_outcome(outcome: Outcome) {
    PROGRAM.with_borrow_mut(|program| {
        if let Some(program) = program {
            program.outcome.get_or_insert(outcome);
        }
    });
}
