//! The two ways to run a [`Service`], on tokio and on threads, and the exit code of its process.

#[cfg(feature = "tokio")]
use std::future::Future;
use std::process::{ExitCode, Termination};

use crate::base::error::StartError;
use crate::base::returned::{Returned, ReturnedWithError};
use crate::between::params::Start;
use crate::between::shared::Verdict;
use crate::config::service::Service;
use crate::run::begin::Host;
use crate::run::body::{self, Ended};

impl Service {
    /// Runs the service on tokio until it is replaced or stopped.
    ///
    /// Call it before the process has a second thread: it removes variables of its own and of a service manager's from the
    /// environment, and holds signals back for those that are started later. What starts threads, such as a writer of logs, is for
    /// `prepare` or for the body.
    ///
    /// `prepare` takes the parameters of the body and returns the body. A start that fails says why on stderr, and
    /// to the predecessor if there is one, which serves on.
    ///
    /// The body returns what is [`Returned`]: `()`, an [`ExitCode`], or a `Result`, whose error is told.
    ///
    /// The exit code is that of the body. It is success when the process was replaced or stopped and its body, which
    /// waits for connections for ever, was dropped; failure (1) when the start failed; 101 when the body panicked. A body
    /// that cannot be dropped, as it blocks its thread, is not waited for longer than 2 s: the process ends. What the program
    /// does after `run` takes as long as it likes.
    #[cfg(feature = "tokio")]
    pub fn run<F, B>(self, prepare: F) -> ExitCode
    where
        F: FnOnce(&mut Start) -> Result<B, StartError>,
        B: Future<Output: Returned>,
    {
        exit_code(body::run_async(self, Host::Process, prepare, B::Output::error).map(|ended| Ended {
            returned: ended.returned.map(|returned| returned.map(Termination::report)),
            verdict: ended.verdict,
        }))
    }

    /// Runs the service on a thread of its own, without tokio, until it is replaced or stopped.
    ///
    /// As `run`, but `prepare` returns a closure, which may block. It cannot be dropped from outside: when the process
    /// ends, it ends with it.
    pub fn run_blocking<F, B, T>(self, prepare: F) -> ExitCode
    where
        F: FnOnce(&mut Start) -> Result<B, StartError>,
        B: FnOnce() -> T + Send + 'static,
        T: Returned,
    {
        // Reported on its thread, because an error need not be `Send`.
        let prepare = |start: &mut Start| {
            prepare(start).map(|body| {
                move || {
                    let returned = body();
                    let error = returned.error();
                    ReturnedWithError::new(returned.report(), error)
                }
            })
        };
        let ended = body::run_blocking(self, Host::Process, prepare, ReturnedWithError::error);
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
        // What std exits with after a panic of `main`.
        Ok(Ended { returned: Some(Err(_)), .. }) => ExitCode::from(101),
        Ok(Ended { verdict: Verdict::Failure, .. }) => ExitCode::FAILURE,
        Ok(Ended { returned: Some(Ok(code)), .. }) => code,
        Ok(Ended { returned: None, verdict: Verdict::Success }) => ExitCode::SUCCESS,
        Ok(Ended { returned: None, verdict: Verdict::OfBody }) => ExitCode::FAILURE,
    }
}
