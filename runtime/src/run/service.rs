//! The two ways to run a [`Service`], on tokio and on threads, and the exit code of its process.

#[cfg(feature = "tokio")]
use std::future::Future;
use std::process::{ExitCode, Termination};

use crate::base::error::StartError;
use crate::base::returned::{Returned, ReturnedWithError};
use crate::between::params::Start;
use crate::between::shared::Verdict;
use crate::config::service::Service;
use crate::run::body::{self, Ended};
use crate::run::host::ServiceHost;

impl Service {
    /// Runs the service on tokio until it is replaced or stopped.
    ///
    /// Call `run` before the process has a second thread. It removes variables from the environment: its own, and those of
    /// a service manager. It also blocks signals for all threads that start later. Start threads, such as a log writer, in
    /// `prepare` or in the body.
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
    #[cfg(feature = "tokio")]
    pub fn run<F, B>(self, prepare: F) -> ExitCode
    where
        F: FnOnce(&mut Start) -> Result<B, StartError>,
        B: Future<Output: Returned>,
    {
        exit_code(body::run_async(self, ServiceHost::Process, prepare, B::Output::error).map(|ended| Ended {
            returned: ended.returned.map(|returned| returned.map(Termination::report)),
            verdict: ended.verdict,
        }))
    }

    /// Runs the service on its own thread, without tokio, until it is replaced or stopped.
    ///
    /// Like `run`, but `prepare` returns a closure, which may block. A closure cannot be dropped from outside: it ends with
    /// the process.
    pub fn run_blocking<F, B, T>(self, prepare: F) -> ExitCode
    where
        F: FnOnce(&mut Start) -> Result<B, StartError>,
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
        let ended = body::run_blocking(self, ServiceHost::Process, prepare, ReturnedWithError::error);
        exit_code(ended.map(|ended| Ended {
            returned: ended.returned.map(|returned| returned.map(Termination::report)),
            verdict: ended.verdict,
        }))
    }
}

/// The exit code of a process whose service has ended.
fn exit_code(ended: Result<Ended<ExitCode>, StartError>) -> ExitCode {
    match ended {
        Err(_) => ExitCode::FAILURE,
        // The exit code of std after a panic of `main`.
        Ok(Ended { returned: Some(Err(_)), .. }) => ExitCode::from(101),
        Ok(Ended { verdict: Verdict::Failure, .. }) => ExitCode::FAILURE,
        Ok(Ended { returned: Some(Ok(code)), .. }) => code,
        Ok(Ended { returned: None, verdict: Verdict::Success }) => ExitCode::SUCCESS,
        Ok(Ended { returned: None, verdict: Verdict::OfBody }) => ExitCode::FAILURE,
    }
}
