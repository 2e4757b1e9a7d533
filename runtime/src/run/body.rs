//! The body of a service: run on tokio or on a thread, from its start to the verdict of the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::base::error::StartError;
use crate::base::report::panic_message;
use crate::base::returned::BodyEnd;
use crate::between::drain::BodyMark;
use crate::between::params::Start;
use crate::between::shared::{Note, Shared, Verdict, start_thread};
use crate::config::service::Service;
use crate::run::begin::begin;
use crate::run::host::Host;

/// How a service has ended.
pub(crate) struct Ended<T> {
    /// What the body returned, or its panic; `None` if it was dropped.
    pub(crate) returned: Option<thread::Result<T>>,
    pub(crate) verdict: Verdict,
}

/// Runs a service whose body is a future.
#[cfg(feature = "tokio")]
pub(crate) fn run_async<F, B>(
    mut service: Service,
    host: Host,
    prepare: F,
    error_of: fn(&B::Output) -> Option<String>,
) -> Result<Ended<B::Output>, StartError>
where
    F: FnOnce(&mut Start) -> Result<B, StartError>,
    B: Future,
{
    use std::task::Poll;

    let (flavor, threads) = (service.flavor, service.worker_threads.take());
    let is_process = matches!(host, Host::Process);
    let (shared, (runtime, body)) = begin(service, host, |start| {
        let runtime = runtime(flavor, threads, is_process.then_some(&start.shared))?;
        let body = {
            // The types of tokio register with the runtime that they are made in.
            let _entered = runtime.enter();
            prepare(start)?
        };
        Ok((runtime, body))
    })?;
    let ended = runtime.block_on(async {
        let mut verdict = std::pin::pin!(shared.verdict.wait());
        let mut heart = std::pin::pin!(beat(&shared));
        let mut body = Box::pin(body);
        let mut error = None;
        let returned = std::future::poll_fn(|cx| {
            // The verdict ends the wait for a body that never returns: the drop below ends that body.
            if verdict.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            let Poll::Pending = heart.as_mut().poll(cx);
            let poll = || {
                let _mark = BodyMark::new(&shared);
                body.as_mut().poll(cx).map(|value| {
                    error = error_of(&value);
                    value
                })
            };
            match catch_unwind(AssertUnwindSafe(poll)) {
                Ok(poll) => poll.map(|value| Some(Ok(value))),
                Err(panic) => Poll::Ready(Some(Err(panic))),
            }
        })
        .await;
        // Its sockets are closed before the engine hears of it.
        drop(body);
        if let Some(outcome) = &returned {
            body_returned(&shared, outcome, error);
        }
        Ended { returned, verdict: *shared.verdict.wait().await }
    });
    // Not a plain drop, which would wait for blocking tasks that never end.
    runtime.shutdown_background();
    shared.left.set(());
    Ok(ended)
}

/// Gives a sign of life at each request, by the thread of the body and by a task of its own. So the sign is missing if the
/// body blocks its thread, or if tasks block all threads of the runtime.
#[cfg(feature = "tokio")]
async fn beat(shared: &Arc<Shared>) -> std::convert::Infallible {
    loop {
        shared.pulse.taken().await;
        let shared = shared.clone();
        tokio::spawn(async move { shared.post(Note::Alive) });
    }
}

/// `process` is `None` for a service of a test, which is not the whole process.
#[cfg(feature = "tokio")]
fn runtime(
    flavor: crate::config::service::Flavor,
    threads: Option<usize>,
    process: Option<&Arc<Shared>>,
) -> Result<tokio::runtime::Runtime, StartError> {
    use crate::config::service::Flavor;

    let mut builder = match flavor {
        Flavor::MultiThread => tokio::runtime::Builder::new_multi_thread(),
        Flavor::CurrentThread => tokio::runtime::Builder::new_current_thread(),
    };
    match threads {
        Some(0) => {
            let problem = "expected at least 1".to_owned();
            return Err(StartError::Option { option: "worker_threads", problem });
        }
        Some(threads) => _ = builder.worker_threads(threads),
        None => {}
    }
    let mut build = || builder.enable_all().build();
    let built = match process {
        Some(shared) => ending_at_a_panic(shared, build),
        None => build(),
    };
    built.map_err(StartError::system("start the tokio runtime"))
}

/// Starts the runtime, and ends the process if that panics.
///
/// tokio panics if it does not get every thread or descriptor that it needs. The unwinding would wait for the threads that it
/// has started, which never end. So the start fails in the hook of the panic, which does not return. The hook acts for this
/// thread and this call alone: a panic of another thread goes to the previous hook.
#[cfg(feature = "tokio")]
fn ending_at_a_panic<T>(shared: &Arc<Shared>, start: impl FnOnce() -> T) -> T {
    use std::io;
    use std::panic::{PanicHookInfo, set_hook, take_hook};

    use crate::base::limits::{DESCRIPTOR_LIMIT, THREAD_LIMITS};
    use crate::base::report::cannot_start;
    use crate::sys::signals;

    let before: Arc<dyn Fn(&PanicHookInfo<'_>) + Send + Sync> = take_hook().into();
    let (otherwise, shared, starts) = (before.clone(), shared.clone(), thread::current().id());
    set_hook(Box::new(move |info| {
        if thread::current().id() != starts {
            return otherwise(info);
        }
        let problem = panic_message(info.payload());
        let limits = if problem.contains("thread") { THREAD_LIMITS } else { DESCRIPTOR_LIMIT };
        let error =
            StartError::system("start the tokio runtime")(io::Error::other(format!("{problem}: {limits}")));
        shared.fail_start(&error.to_string());
        cannot_start(&error);
        signals::exit_now(1);
    }));
    let started = start();
    drop(take_hook());
    set_hook(Box::new(move |info| before(info)));
    started
}

/// Runs a service whose body is a closure, on a thread of its own.
pub(crate) fn run_blocking<F, B, T>(
    service: Service,
    host: Host,
    prepare: F,
    error_of: fn(&T) -> Option<String>,
) -> Result<Ended<T>, StartError>
where
    F: FnOnce(&mut Start) -> Result<B, StartError>,
    B: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (shared, (run, body)) = begin(service, host, |start| {
        let body = prepare(start)?;
        // As much stack as the thread of `main` usually has.
        let builder = thread::Builder::new().name("main".to_owned()).stack_size(8 << 20);
        Ok((start_thread(builder, Blocking::run)?, body))
    })?;
    let returned = Arc::new(Mutex::new(None));
    // A stop before the body exists ends the service without it.
    if shared.verdict.get().is_none() {
        run(Blocking { body, error_of, shared: shared.clone(), returned: returned.clone() });
    }
    let verdict = *shared.verdict.wait_blocking();
    shared.left.set(());
    let returned = returned.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(Ended { returned, verdict })
}

/// Runs on the thread of the body.
struct Blocking<B, T> {
    body: B,
    error_of: fn(&T) -> Option<String>,
    shared: Arc<Shared>,
    returned: Arc<Mutex<Option<thread::Result<T>>>>,
}

impl<B: FnOnce() -> T, T> Blocking<B, T> {
    fn run(self) {
        let mut error = None;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let _mark = BodyMark::new(&self.shared);
            let value = (self.body)();
            error = (self.error_of)(&value);
            value
        }));
        // Stored before the engine gets the note: its verdict ends the wait of `run_blocking`.
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        body_returned(&self.shared, returned.insert(outcome), error);
    }
}

/// Tells the engine how the body ended.
fn body_returned<T>(shared: &Shared, outcome: &thread::Result<T>, error: Option<String>) {
    let end = match outcome {
        Ok(_) => error.map_or(BodyEnd::Returned, BodyEnd::Failed),
        Err(panic) => BodyEnd::Panicked(panic_message(&**panic)),
    };
    shared.post(Note::BodyReturned(end));
}

#[cfg(feature = "tokio")]
#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::{Builder, Handle, RuntimeFlavor};

    use crate::{Flavor, Ready, Service, Shutdown, testing};

    /// The runtime of a body: its flavor and its number of threads.
    fn runs_on(service: Service) -> (RuntimeFlavor, usize) {
        let (say, said) = mpsc::channel();
        let running = testing::start(service, move |start| {
            let (ready, shutdown) = (start.harness::<Ready>()?, start.harness::<Shutdown>()?);
            Ok(async move {
                say.send(seen(&Handle::current())).unwrap();
                ready.notify();
                shutdown.await;
            })
        });
        running.unwrap().stop();
        said.recv().unwrap()
    }

    fn seen(runtime: &Handle) -> (RuntimeFlavor, usize) {
        (runtime.runtime_flavor(), runtime.metrics().num_workers())
    }

    #[test]
    fn the_body_runs_on_the_runtime_that_is_declared() {
        for threads in [1, 3] {
            let service = Service::new().worker_threads(threads);
            assert_eq!(runs_on(service), (RuntimeFlavor::MultiThread, threads));
        }
        let one = (RuntimeFlavor::CurrentThread, 1);
        assert_eq!(runs_on(Service::new().flavor(Flavor::CurrentThread)), one);
        // The default of tokio: one thread for each core, unless its own variable sets another number.
        let of_tokio = Builder::new_multi_thread().build().unwrap();
        assert_eq!(runs_on(Service::new()), seen(of_tokio.handle()));
    }
}
