//! The body of a service: run on tokio or on a thread, from its start to the verdict of the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::begin::{Host, begin};
use crate::error::StartError;
use crate::params::Start;
use crate::report::panic_message;
use crate::service::Service;
use crate::shared::{Note, Shared, Verdict, start_thread};

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
) -> Result<Ended<B::Output>, StartError>
where
    F: FnOnce(&mut Start) -> Result<B, StartError>,
    B: Future,
{
    use std::task::Poll;

    let (flavor, threads) = (service.flavor, service.worker_threads.take());
    let (shared, (runtime, body)) = begin(service, host, |start| {
        let runtime = runtime(flavor, threads)?;
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
        let returned = std::future::poll_fn(|cx| {
            // A verdict ends the wait though the body never returns: dropping it is what ends it.
            if verdict.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            let Poll::Pending = heart.as_mut().poll(cx);
            match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(cx))) {
                Ok(poll) => poll.map(|value| Some(Ok(value))),
                Err(panic) => Poll::Ready(Some(Err(panic))),
            }
        })
        .await;
        // Its sockets are closed before the engine hears of it.
        drop(body);
        if let Some(outcome) = &returned {
            body_returned(&shared, outcome);
        }
        Ended { returned, verdict: *shared.verdict.wait().await }
    });
    // Not a plain drop, which would wait for blocking tasks that never end.
    runtime.shutdown_background();
    shared.left.set(());
    Ok(ended)
}

/// Gives a sign of life whenever it is asked for: by the thread of the body and by a task of its own. So a body that blocks
/// its thread gives none, nor do tasks that block all threads of the runtime.
#[cfg(feature = "tokio")]
async fn beat(shared: &Arc<Shared>) -> std::convert::Infallible {
    loop {
        shared.pulse.taken().await;
        let shared = shared.clone();
        tokio::spawn(async move { shared.post(Note::Alive) });
    }
}

#[cfg(feature = "tokio")]
fn runtime(
    flavor: crate::service::Flavor,
    threads: Option<usize>,
) -> Result<tokio::runtime::Runtime, StartError> {
    use crate::service::Flavor;

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
    builder.enable_all().build().map_err(StartError::system("start the tokio runtime"))
}

/// Runs a service whose body is a closure, on a thread of its own.
pub(crate) fn run_blocking<F, B, T>(service: Service, host: Host, prepare: F) -> Result<Ended<T>, StartError>
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
    // A stop that came before there was a body ends the service without it.
    if shared.verdict.get().is_none() {
        run(Blocking { body, shared: shared.clone(), returned: returned.clone() });
    }
    let verdict = *shared.verdict.wait_blocking();
    shared.left.set(());
    let returned = returned.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(Ended { returned, verdict })
}

/// What the thread of a body does.
struct Blocking<B, T> {
    body: B,
    shared: Arc<Shared>,
    returned: Arc<Mutex<Option<thread::Result<T>>>>,
}

impl<B: FnOnce() -> T, T> Blocking<B, T> {
    fn run(self) {
        let outcome = catch_unwind(AssertUnwindSafe(self.body));
        // Kept before the engine hears of it, whose verdict ends the wait of `run_blocking`.
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        body_returned(&self.shared, returned.insert(outcome));
    }
}

/// Tells the engine how the body ended.
fn body_returned<T>(shared: &Shared, outcome: &thread::Result<T>) {
    let panic = outcome.as_ref().err().map(|panic| panic_message(&**panic));
    shared.post(Note::BodyReturned { panic });
}

#[cfg(feature = "tokio")]
#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::{Builder, Handle, RuntimeFlavor};

    use crate::{Flavor, Ready, Service, Shutdown, testing};

    /// What the body of a service finds that it runs on: the flavor, and how many threads it has.
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
        // As many as tokio takes by itself: one for each core, unless its own variable says otherwise.
        let of_tokio = Builder::new_multi_thread().build().unwrap();
        assert_eq!(runs_on(Service::new()), seen(of_tokio.handle()));
    }
}
