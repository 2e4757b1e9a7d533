//! The two ways to run a [`Service`], on tokio and on threads, and the exit code of its process.

#[cfg(feature = "tokio")]
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{ExitCode, Termination};

use crate::base::error::{Failure, StartError};
use crate::base::report::panic_message;
use crate::base::returned::{Returned, ReturnedWithError};
use crate::between::params::Start;
use crate::between::shared::Verdict;
use crate::config::service::Service;
use crate::run::begin;
use crate::run::body;
use crate::run::host::{self, Ended, Outcome};
use crate::run::surroundings;

impl Service {
    /// Runs the service on tokio until it is replaced or stopped.
    ///
    /// Call `run` before the process has a second thread, if you can, and start threads such as a log writer in `prepare` or in
    /// the body. With one thread `run` removes its own variables and those of a service manager from the environment, and loses no
    /// signal. With several it removes nothing, so the processes that the service starts find these variables, and a signal that
    /// comes before `run` has installed its handlers has its default action.
    ///
    /// `prepare` takes the parameters of the body and returns the body. If the start fails, `run` prints the reason on
    /// stderr and sends it to the predecessor. A predecessor serves on.
    ///
    /// The return value of the body is a [`Returned`]: `()`, an [`ExitCode`], or a `Result`. The error of a `Result` is
    /// reported.
    ///
    /// The exit code is:
    ///
    /// * that of the body, if the body returned
    /// * success, if the process was replaced or stopped and the body was dropped
    /// * failure (1), if the start failed or the service is down
    /// * 101, if the body panicked
    ///
    /// A body that blocks its thread cannot be dropped. The process waits for it for at most 2 s and then ends. After `run`
    /// has returned, nothing limits the time of `main`.
    ///
    /// # Panics
    ///
    /// In a runtime of tokio, such as that of `#[tokio::main]`: the service starts its own.
    #[cfg(feature = "tokio")]
    pub fn run<F, B>(self, prepare: F) -> ExitCode
    where
        F: FnOnce(&mut Start) -> Result<B, Failure>,
        B: Future<Output: Returned>,
    {
        let Some(host) = host::of_main() else { return ExitCode::FAILURE };
        end(body::run_async(self, host, prepare, B::Output::error))
    }

    /// Runs the service on its own thread, without tokio, until it is replaced or stopped.
    ///
    /// Like `run`, but `prepare` returns a closure, which may block. A closure cannot be dropped from outside: it ends with
    /// the process.
    pub fn run_blocking<F, B, T>(self, prepare: F) -> ExitCode
    where
        F: FnOnce(&mut Start) -> Result<B, Failure>,
        B: FnOnce() -> T + Send + 'static,
        T: Returned,
    {
        // On the thread of the body, because its error need not be `Send`.
        let prepare = |start: &mut Start| {
            prepare(start).map(|body| {
                move || {
                    let returned = body();
                    let error = returned.error();
                    ReturnedWithError::new(returned.report(), error)
                }
            })
        };
        let Some(host) = host::of_main() else { return ExitCode::FAILURE };
        end(body::run_blocking(self, host, prepare, ReturnedWithError::error))
    }
}

/// Loads the configuration of a service, before the service is declared.
///
/// Call it in `main`, before [`Service::run`]. Nothing is bound or taken by then, so `load` may also end the process, as
/// a parser of arguments does for `--help`. If `load` fails, the error is one line on stderr and the reason of a failed
/// upgrade: the predecessor serves on.
///
/// ```no_run
/// use std::process::ExitCode;
/// use tableflip::{Service, net::TcpListener};
///
/// fn main() -> ExitCode {
///     let config = match tableflip::configure(|| {
///         let text = std::fs::read_to_string("/etc/echo.conf")?;
///         Ok(text.trim().parse::<std::net::SocketAddr>()?)
///     }) {
///         Ok(config) => config,
///         Err(exit_code) => return exit_code,
///     };
///     Service::new().listen("echo", config).run(|start| {
///         let echo: TcpListener = start.listener("echo")?;
///         Ok(async move { drop(echo) })
///     })
/// }
/// ```
///
/// A function with an error of its own is called in the closure: `configure(|| Ok(load()?))`.
///
/// In a test, [`testing::Program::config`](crate::testing::Program::config) takes the place of `load`.
///
/// # Errors
///
/// The exit code of the process, 1, if `load` failed.
pub fn configure<C: 'static>(load: impl FnOnce() -> Result<C, Failure>) -> Result<C, ExitCode> {
    surroundings::keep_from_children();
    let config = match host::config_of_test() {
        Ok(Some(config)) => Ok(config),
        Ok(None) => catch_unwind(AssertUnwindSafe(load))
            .unwrap_or_else(|panic| {
                let problem = format!("the configuration panicked: {}", panic_message(&*panic));
                begin::refuse(host::of_main(), &StartError::Service(problem.into()));
                resume_unwind(panic)
            })
            .map_err(Failure::into_error),
        Err(error) => Err(error),
    };
    config.map_err(|error| {
        begin::refuse(host::of_main(), &error);
        end(Err::<Ended<ExitCode>, _>(error))
    })
}

/// The end of the service: the exit code of its process, or the outcome of its test.
fn end<T: Termination>(ended: Result<Ended<T>, StartError>) -> ExitCode {
    let ended = ended.map(|ended| Ended {
        returned: ended.returned.map(|returned| returned.map(Termination::report)),
        verdict: ended.verdict,
    });
    let code = exit_code(&ended);
    host::leave_outcome(ended);
    code
}

/// The exit code of a process whose service has ended.
fn exit_code(ended: &Outcome) -> ExitCode {
    match ended {
        Err(_) => ExitCode::FAILURE,
        // The exit code of std after a panic of `main`.
        Ok(Ended { returned: Some(Err(_)), .. }) => ExitCode::from(101),
        Ok(Ended { verdict: Verdict::Failure, .. }) => ExitCode::FAILURE,
        Ok(Ended { returned: Some(Ok(code)), .. }) => *code,
        Ok(Ended { returned: None, verdict: Verdict::Success }) => ExitCode::SUCCESS,
        Ok(Ended { returned: None, verdict: Verdict::OfBody }) => ExitCode::FAILURE,
    }
}
