//! Runs the body of a service, on tokio or on a thread, from its start to the verdict of the engine.

#[cfg(feature = "tokio")]
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

#[cfg(feature = "tokio")]
use crate::base::error::chain;
use crate::base::error::{Failure, StartError};
use crate::base::report::panic_message;
use crate::base::returned::BodyEnd;
use crate::between::drain::BodyMark;
use crate::between::note::Note;
use crate::between::params::Start;
use crate::between::shared::{Shared, start_thread};
use crate::config::service::Service;
#[cfg(feature = "tokio")]
use crate::config::service::Tokio;
use crate::run::begin::begin;
use crate::run::host::{Ended, ServiceHost};

/// Runs a service whose body is a future.
#[cfg(feature = "tokio")]
pub(crate) fn run_async<F, B>(
    mut service: Service,
    host: ServiceHost,
    prepare: F,
    error_of: fn(&B::Output) -> Option<String>,
) -> Result<Ended<B::Output>, StartError>
where
    F: FnOnce(&mut Start) -> Result<B, Failure>,
    B: Future,
{
    use std::task::Poll;

    let tokio = mem::take(&mut service.tokio);
    let is_process = matches!(host, ServiceHost::Process);
    let (shared, (runtime, body)) = begin(service, host, |start| {
        let runtime = runtime(tokio, is_process.then_some(&start.shared))?;
        let body = {
            // The types of tokio register with the runtime in which they are made.
            let _entered = runtime.enter();
            prepare(start)?
        };
        Ok((runtime, body))
    })?;
    if !shared.begin_body() {
        return Ok(end_without_body(&shared, is_process));
    }
    let ended = runtime.block_on(async {
        shared.pulse.expect_taker();
        let mut verdict = std::pin::pin!(shared.verdict.wait());
        let mut heart = std::pin::pin!(beat(&shared));
        let mut body = Box::pin(body);
        let mut error = None;
        let returned = std::future::poll_fn(|cx| {
            // A verdict ends the wait also if the body never returns. The drop below then ends the body.
            if verdict.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            let poll = || {
                let _mark = BodyMark::new(&shared);
                body.as_mut().poll(cx).map(|value| {
                    error = error_of(&value);
                    value
                })
            };
            let polled = match catch_unwind(AssertUnwindSafe(poll)) {
                Ok(poll) => poll.map(|value| Some(Ok(value))),
                Err(panic) => Poll::Ready(Some(Err(panic))),
            };
            // After the body: a sign of life says that the body was polled.
            let Poll::Pending = heart.as_mut().poll(cx);
            polled
        })
        .await;
        // Before the note to the engine, so that the sockets of the body are closed by then.
        drop(body);
        if let Some(outcome) = &returned {
            body_returned(&shared, outcome, error);
        }
        Ended { returned, verdict: *shared.verdict.wait().await }
    });
    // A plain drop would wait for blocking tasks that never end.
    runtime.shutdown_background();
    shared.left.set(());
    Ok(ended)
}

/// Answers each pulse of the engine. The answer needs the body's thread, which polls this, and a thread of the runtime, which
/// runs the task. So there is no answer while the body blocks its thread, or tasks block all threads of the runtime.
#[cfg(feature = "tokio")]
async fn beat(shared: &Arc<Shared>) -> std::convert::Infallible {
    loop {
        shared.pulse.taken().await;
        let shared = shared.clone();
        tokio::spawn(async move { shared.post(Note::Alive) });
    }
}

/// Builds the runtime. `process` is `None` if the service runs in a test.
#[cfg(feature = "tokio")]
fn runtime(tokio: Tokio, process: Option<&Arc<Shared>>) -> Result<tokio::runtime::Runtime, StartError> {
    use crate::config::choices::Flavor;

    let mut builder = match tokio.flavor {
        Flavor::MultiThread => tokio::runtime::Builder::new_multi_thread(),
        Flavor::CurrentThread => tokio::runtime::Builder::new_current_thread(),
    };
    match tokio.worker_threads {
        Some(0) => {
            let problem = "expected at least 1".to_owned();
            return Err(StartError::Option { option: "worker_threads", problem });
        }
        Some(threads) => _ = builder.worker_threads(threads),
        None => {}
    }
    if let Some(change) = tokio.hook {
        change(&mut builder);
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
/// tokio panics if it lacks a thread or a descriptor. The unwinding then waits for the threads that tokio has started, which
/// never end. So the start fails in the panic hook, which does not return. The hook handles only panics of this thread
/// during this call, and gives others to the hook before it.
#[cfg(feature = "tokio")]
fn ending_at_a_panic<T>(shared: &Arc<Shared>, start: impl FnOnce() -> T) -> T {
    use std::io;
    use std::panic::{PanicHookInfo, set_hook, take_hook};

    use crate::base::limits::{DESCRIPTOR_LIMIT, THREAD_LIMITS};
    use crate::base::report::cannot_start;
    use crate::sys::signals;

    let before: Arc<dyn Fn(&PanicHookInfo<'_>) + Send + Sync> = take_hook().into();
    let (others, shared, starter) = (before.clone(), shared.clone(), thread::current().id());
    set_hook(Box::new(move |info| {
        if thread::current().id() != starter {
            return others(info);
        }
        let problem = panic_message(info.payload());
        let limits = if problem.contains("thread") { THREAD_LIMITS } else { DESCRIPTOR_LIMIT };
        let error =
            StartError::system("start the tokio runtime")(io::Error::other(format!("{problem}: {limits}")));
        shared.fail_start(&chain(&error));
        cannot_start(&error);
        signals::exit_now(1);
    }));
    let started = start();
    drop(take_hook());
    set_hook(Box::new(move |info| before(info)));
    started
}

/// Runs a service whose body is a closure, on its own thread.
pub(crate) fn run_blocking<F, B, T>(
    service: Service,
    host: ServiceHost,
    prepare: F,
    error_of: fn(&T) -> Option<String>,
) -> Result<Ended<T>, StartError>
where
    F: FnOnce(&mut Start) -> Result<B, Failure>,
    B: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let is_process = matches!(host, ServiceHost::Process);
    let (shared, (run, body)) = begin(service, host, |start| {
        let body = prepare(start)?;
        // 8 MiB, the usual stack of the main thread.
        let builder = thread::Builder::new().name("main".to_owned()).stack_size(8 << 20);
        Ok((start_thread(builder, Blocking::run)?, body))
    })?;
    let returned = Arc::new(Mutex::new(None));
    if !shared.begin_body() {
        return Ok(end_without_body(&shared, is_process));
    }
    run(Blocking { body, error_of, shared: shared.clone(), returned: returned.clone() });
    let verdict = *shared.verdict.wait_blocking();
    shared.left.set(());
    let returned = returned.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(Ended { returned, verdict })
}

/// A stop has come before the body, which never begins. The engine ends the process, so the code after `Service::run` does not run.
fn end_without_body<T>(shared: &Shared, is_process: bool) -> Ended<T> {
    if is_process {
        loop {
            thread::park();
        }
    }
    let verdict = *shared.verdict.wait_blocking();
    shared.left.set(());
    Ended { returned: None, verdict }
}

/// The work of a body's thread.
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
        // Stored before the note to the engine: the engine's verdict ends the wait of `run_blocking`.
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        body_returned(&self.shared, returned.insert(outcome), error);
    }
}

/// Posts to the engine how the body ended.
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

    /// The flavor and the number of threads of the runtime on which the body of a service runs.
    fn runs_on(service: Service) -> (RuntimeFlavor, usize) {
        let (sender, receiver) = mpsc::channel();
        let running = testing::start(service, move |start| {
            let (ready, shutdown) = (start.handle::<Ready>()?, start.handle::<Shutdown>()?);
            Ok(async move {
                sender.send(kind(&Handle::current())).unwrap();
                ready.notify();
                shutdown.await;
            })
        });
        running.unwrap().stop();
        receiver.recv().unwrap()
    }

    fn kind(runtime: &Handle) -> (RuntimeFlavor, usize) {
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
        // tokio's own default: one thread for each core, unless tokio's variable sets another number.
        let of_tokio = Builder::new_multi_thread().build().unwrap();
        assert_eq!(runs_on(Service::new()), kind(of_tokio.handle()));
    }
}
