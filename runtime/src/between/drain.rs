//! The drain from the body's side: [`Shutdown`], the guards that a drain waits for, and whether it waits for the body itself.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use event_listener::EventListener;

use crate::between::shared::{Counted, Shared};
use crate::sys::fd::BorrowedFd;

/// A future that resolves when this process is to finish: its successor has passed the probation, or the service was asked to
/// stop.
///
/// It is `Clone`, so every task can have one. `axum::serve(..).with_graceful_shutdown(..)` and similar functions take it.
/// [`wait`](Self::wait) is for threads.
///
/// # When a drain waits for the body
///
/// A drain always waits for the streams and for the [guards](Self::guard). In these cases it also waits for the body to return,
/// up to `drain_timeout`:
///
/// * The body itself awaits a `Shutdown`, in its own future or on its own thread. A clone counts too.
/// * The `Shutdown` that the body was given, and not a clone of it, is awaited anywhere. An example is a task that the body waits
///   for: `let served = tokio::spawn(serve(shutdown)); served.await; clean_up()`.
/// * The body takes a listener of [`blocking`](crate::blocking), because the calls of such a listener end at a drain.
/// * The body itself waits for the next connection of an `incoming()` of `net`, which ends at a drain.
/// * The body runs `http::serve`, which ends at a drain. An `http::serve` in a task counts too, except in one case: the body
///   itself waits at the `accept` of a managed listener, which never ends.
///
/// Any other body is dropped as soon as no stream and no guard is left. So a clone that a task or a connection
/// awaits does not delay a drain. Give the `Shutdown` itself to the task that the body waits for, and a clone to every
/// other task.
///
/// A drain in the first second of service may begin before the body has run for the first time. If the body has a `Shutdown`
/// then, the drain first waits until the runtime has polled the body, for at most 1 s. A body on a thread gets 200 ms.
#[derive(Debug)]
#[must_use = "it waits for nothing until it is awaited"]
pub struct Shutdown {
    shared: Arc<Shared>,
    /// Registered while this is polled and the drain has not begun.
    listener: Option<EventListener>,
    /// This is the `Shutdown` that the body was given, not a clone.
    given: Option<Given>,
}

/// Counts a `Shutdown` that the body was given, until that is dropped.
#[derive(Debug)]
struct Given {
    shared: Arc<Shared>,
}

impl Drop for Given {
    fn drop(&mut self) {
        self.shared.drop_shutdown();
    }
}

impl Shutdown {
    /// Counts as a clone: a drain waits for the body only if the body itself awaits it.
    #[cfg(any(feature = "http", all(test, any(feature = "tokio", loom))))]
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, listener: None, given: None }
    }

    /// The `Shutdown` that a body is given.
    pub(crate) fn given(shared: Arc<Shared>) -> Self {
        shared.give_shutdown();
        let given = Some(Given { shared: shared.clone() });
        Self { shared, listener: None, given }
    }

    /// Notes that this `Shutdown` is awaited. A body that notices a drain will return, so the drain waits for it.
    fn note_awaited(&self) {
        if self.given.is_some() || is_in_body(&self.shared) {
            self.shared.wait_for_body();
        }
    }

    /// Whether this process is to finish.
    pub fn is_raised(&self) -> bool {
        self.shared.shutdown.get().is_some()
    }

    /// Blocks the thread until this process is to finish.
    pub fn wait(&self) {
        self.note_awaited();
        self.shared.shutdown.wait_blocking();
    }

    /// Makes a drain wait, up to `drain_timeout`, until the guard is dropped.
    ///
    /// A managed stream has a guard of its own. Take one for work that outlives its stream or has no stream.
    pub fn guard(&self) -> Guard {
        Guard { counted: Arc::new(self.shared.count()) }
    }

    #[cfg(feature = "http")]
    pub(crate) fn handed_over(&self) -> bool {
        self.shared.handed_over()
    }

    #[cfg(feature = "http")]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// How long a drain may take.
    pub fn drain_timeout(&self) -> Duration {
        self.shared.drain_timeout
    }
}

impl Shutdown {
    /// Waits until this is raised or a socket is readable. Returns whether this is raised.
    #[cfg(upgrades)]
    pub(crate) fn raised_or_readable(&self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        use nix::poll::{PollFd, PollFlags};
        use std::os::fd::AsFd;
        let drain = self.shared.drain_wake()?;
        let mut fds = [socket, drain.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        crate::sys::poll::until(&mut fds, None)?;
        Ok(self.is_raised())
    }

    /// There is no poll(2) of both: only the socket is waited for.
    #[cfg(not(upgrades))]
    pub(crate) fn raised_or_readable(&self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        #[cfg(unix)]
        let socket = socket2::SockRef::from(&socket);
        #[cfg(windows)]
        let socket = socket2::SockRef::from(&socket);
        socket.peek(&mut [std::mem::MaybeUninit::uninit()])?;
        Ok(self.is_raised())
    }
}

impl Clone for Shutdown {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), listener: None, given: None }
    }
}

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.note_awaited();
        loop {
            if this.is_raised() {
                this.listener = None;
                return Poll::Ready(());
            }
            match &mut this.listener {
                // Registered before the next look, so that a change in between is not missed.
                None => this.listener = Some(this.shared.shutdown.changed().listen()),
                Some(listener) => {
                    ready!(Pin::new(listener).poll(cx));
                    this.listener = None;
                }
            }
        }
    }
}

/// A drain waits until this guard and every clone of it is dropped. [`Shutdown::guard`] makes one.
#[derive(Clone, Debug)]
#[must_use = "a guard that is dropped at once guards nothing"]
pub struct Guard {
    #[expect(dead_code, reason = "only its drop has an effect")]
    counted: Arc<Counted>,
}

impl Guard {
    pub(crate) fn of(counted: Arc<Counted>) -> Self {
        Self { counted }
    }
}

thread_local! {
    static BODY: Cell<Option<InBody>> = const { Cell::new(None) };
}

/// The mark of a thread that runs the body's own code, and not the code of a task beside the body.
#[derive(Clone, Copy)]
struct InBody {
    /// The address of the state that the body shares with its engine.
    service: *const Shared,
    /// The tokio task that polls the body. `None` unless the service itself runs in a task.
    #[cfg(feature = "tokio")]
    task: Option<tokio::task::Id>,
    /// The body waits at a managed listener that will never hand out anything again.
    is_at_end: bool,
}

/// Marks this thread as the body's thread until the mark is dropped. The mark covers each poll of a future, or a whole closure.
pub(crate) struct BodyMark<'a> {
    shared: &'a Shared,
    before: Option<InBody>,
}

impl<'a> BodyMark<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        let mark = InBody {
            service: shared,
            #[cfg(feature = "tokio")]
            task: tokio::task::try_id(),
            is_at_end: false,
        };
        Self { shared, before: BODY.replace(Some(mark)) }
    }
}

impl Drop for BodyMark<'_> {
    fn drop(&mut self) {
        let mark = BODY.replace(self.before.take());
        self.shared.set_body_at_end(mark.is_some_and(|mark| mark.is_at_end));
    }
}

/// The mark of this thread, if it runs the body of this service. The body may poll tasks in its own future, such as those of a
/// `LocalSet`. Their code is not the body's, and their task IDs tell them apart.
fn body_of(shared: &Shared) -> Option<InBody> {
    let mark = BODY.get().filter(|mark| std::ptr::eq(mark.service, shared));
    #[cfg(feature = "tokio")]
    let mark = mark.filter(|mark| mark.task == tokio::task::try_id());
    mark
}

fn is_in_body(shared: &Shared) -> bool {
    body_of(shared).is_some()
}

/// Never ready: a call that waits at a retired managed listener waits here.
#[cfg(feature = "tokio")]
pub(crate) async fn never<T>(shared: &Shared) -> T {
    std::future::poll_fn(|_| poll_never(shared)).await
}

/// [`never`] for a `poll_` method.
#[cfg(feature = "tokio")]
pub(crate) fn poll_never<T>(shared: &Shared) -> Poll<T> {
    if let Some(mark) = body_of(shared) {
        BODY.set(Some(InBody { is_at_end: true, ..mark }));
    }
    Poll::Pending
}

/// Notes that this thread waits for what ends at a drain. If that is the body's own code, the body will return, and the drain
/// waits for it.
#[cfg(feature = "tokio")]
pub(crate) fn note_end_awaited(shared: &Shared) {
    if is_in_body(shared) {
        shared.wait_for_body();
    }
}

/// A5: for which bodies a drain waits.
#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::{Service, testing};

    /// The tests notice a drain that waits in vain long before it ends by itself.
    const DRAIN: Duration = Duration::from_secs(3600);
    const DEADLINE: Duration = Duration::from_secs(60);

    const CLEANED_UP: &str = "cleaned up";

    /// Stops a service without an open stream or guard. Returns `None` if the drain did not wait for the body.
    ///
    /// The stop comes once the body has reported. If the drain is to wait for the body, the stop comes once the engine knows
    /// that.
    fn stop<T: Send + 'static>(
        running: testing::Running<T>,
        reports: &mpsc::Receiver<Arc<Shared>>,
        is_waited_for: bool,
    ) -> Option<T> {
        let shared = reports.recv_timeout(DEADLINE).expect("the body reports");
        let deadline = Instant::now() + DEADLINE;
        while is_waited_for && !shared.waits_for_body() {
            assert!(Instant::now() < deadline, "the body is not waited for");
            thread::sleep(Duration::from_millis(1));
        }
        let (send, ended) = mpsc::channel();
        thread::spawn(move || send.send(running.stop()));
        ended.recv_timeout(DEADLINE).expect("the drain ends before its deadline")
    }

    /// Like [`stop_thread`], but the stop comes as soon as the body has reported.
    fn stop_thread_at_once<F>(body: F) -> Option<&'static str>
    where
        F: FnOnce(Shutdown, mpsc::Sender<Arc<Shared>>) + Send + 'static,
    {
        stop_thread(false, body)
    }

    /// Runs and stops a service whose body is a closure that ends with `body`.
    fn stop_thread<F>(is_waited_for: bool, body: F) -> Option<&'static str>
    where
        F: FnOnce(Shutdown, mpsc::Sender<Arc<Shared>>) + Send + 'static,
    {
        let (sender, reports) = mpsc::channel();
        let running = testing::start_blocking(Service::new().drain_timeout(DRAIN), move |start| {
            let (ready, shutdown) = (start.handle::<crate::Ready>()?, start.handle::<Shutdown>()?);
            Ok(move || {
                ready.notify();
                body(shutdown, sender);
                CLEANED_UP
            })
        });
        stop(running.unwrap(), &reports, is_waited_for)
    }

    /// Sends the state of the service to the test.
    fn report(shutdown: &Shutdown, sender: &mpsc::Sender<Arc<Shared>>) {
        sender.send(shutdown.shared.clone()).expect("the test waits for the report");
    }

    #[test]
    fn it_shows_what_the_engine_has_raised() {
        let shared = Arc::new(Shared::new(1, false, DRAIN).unwrap());
        let shutdown = Shutdown::given(shared.clone());
        assert_eq!(shutdown.drain_timeout(), DRAIN);
        let guards = [shutdown.guard(), shutdown.guard().clone()];
        assert_eq!(shared.counted(), 2);
        drop(guards);
        assert_eq!(shared.counted(), 0);
        assert!(!shutdown.is_raised());
        #[cfg(feature = "http")]
        assert!(!shutdown.handed_over());
        shared.start_draining();
        assert!(shutdown.is_raised());
        #[cfg(feature = "http")]
        assert!(shutdown.handed_over());
        assert!(!shared.waits_for_body());
        shutdown.wait();
        assert!(shared.waits_for_body());
    }

    #[test]
    fn a5_a_thread_that_waits_itself_is_waited_for() {
        let waits = |shutdown: Shutdown, to: mpsc::Sender<_>| {
            report(&shutdown, &to);
            shutdown.clone().wait();
        };
        assert_eq!(stop_thread(true, waits), Some(CLEANED_UP));
    }

    #[test]
    fn a5_a_thread_that_leans_on_another_one_is_waited_for() {
        let leans = |shutdown: Shutdown, to: mpsc::Sender<_>| {
            report(&shutdown, &to);
            thread::spawn(move || shutdown.wait()).join().unwrap();
        };
        assert_eq!(stop_thread(true, leans), Some(CLEANED_UP));
        let borrows = |shutdown: Shutdown, to: mpsc::Sender<_>| {
            report(&shutdown, &to);
            thread::scope(|scope| _ = scope.spawn(|| shutdown.wait()));
        };
        assert_eq!(stop_thread(true, borrows), Some(CLEANED_UP));
    }

    #[test]
    fn a5_a_clone_that_is_waited_for_in_another_thread_does_not_hold_the_drain() {
        let goes_on = |shutdown: Shutdown, to: mpsc::Sender<_>| {
            let clone = shutdown.clone();
            let waits = thread::spawn(move || {
                // As `wait` does before it sleeps.
                clone.note_awaited();
                report(&clone, &to);
                clone.wait();
            });
            // The body never returns by itself: this thread is left behind by the test.
            waits.join().unwrap();
            loop {
                thread::park();
            }
        };
        assert_eq!(stop_thread(false, goes_on), None);
    }

    /// A stop may come between two lines of the body.
    fn until_raised(shutdown: &Shutdown) {
        while !shutdown.is_raised() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_thread_that_waits_after_the_drain_has_begun_is_waited_for() {
        let waits_late = |shutdown: Shutdown, to: mpsc::Sender<_>| {
            report(&shutdown, &to);
            until_raised(&shutdown);
            shutdown.wait();
            thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(stop_thread_at_once(waits_late), Some(CLEANED_UP));
        let drops_it = |shutdown: Shutdown, to: mpsc::Sender<_>| {
            report(&shutdown, &to);
            let clone = shutdown.clone();
            drop(shutdown);
            until_raised(&clone);
            loop {
                thread::park();
            }
        };
        assert_eq!(stop_thread_at_once(drops_it), None);
    }

    #[cfg(feature = "tokio")]
    mod on_tokio {
        use std::pin::pin;

        use tokio::runtime::Handle;
        use tokio::task::{LocalSet, spawn_local};

        use super::*;
        use crate::Flavor;
        use crate::net::TcpListener;

        fn service() -> Service {
            Service::new().listen("echo", "tcp://127.0.0.1:0").drain_timeout(DRAIN).upgrade_timeout("60s")
        }

        /// The parameters of a body.
        struct Parts {
            echo: TcpListener,
            shutdown: Shutdown,
            sender: mpsc::Sender<Arc<Shared>>,
        }

        impl Parts {
            fn report(&self) {
                report(&self.shutdown, &self.sender);
            }

            /// Awaits a clone, and reports after the first poll.
            fn watch(&self) -> impl Future<Output = ()> + Send + 'static {
                let (mut clone, mut to) = (self.shutdown.clone(), Some(self.sender.clone()));
                std::future::poll_fn(move |cx| {
                    let polled = Pin::new(&mut clone).poll(cx);
                    if let Some(to) = to.take() {
                        report(&clone, &to);
                    }
                    polled
                })
            }

            async fn accept_for_ever(&self) {
                loop {
                    self.echo.accept().await.expect("it listens");
                }
            }
        }

        /// Stops a service whose body ends with `body`, in both flavours.
        fn stop_body<F, B>(is_waited_for: bool, body: F)
        where
            F: Fn(Parts) -> B + Clone + Send + 'static,
            B: Future<Output = ()>,
        {
            for flavor in [Flavor::MultiThread, Flavor::CurrentThread] {
                let ((sender, reports), body) = (mpsc::channel(), body.clone());
                let running = testing::start(service().flavor(flavor), move |start| {
                    let ready = start.handle::<crate::Ready>()?;
                    let parts = Parts { echo: start.listener("echo")?, shutdown: start.handle()?, sender };
                    Ok(async move {
                        ready.notify();
                        body(parts).await;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        CLEANED_UP
                    })
                });
                let ended = stop(running.unwrap(), &reports, is_waited_for);
                assert_eq!(ended, is_waited_for.then_some(CLEANED_UP), "{flavor:?}");
            }
        }

        #[test]
        fn a5_a_body_that_leans_on_a_task_with_its_shutdown_is_waited_for() {
            stop_body(true, |parts| async move {
                parts.report();
                let served = tokio::spawn(parts.shutdown);
                served.await.unwrap();
            });
            stop_body(true, |parts| async move {
                parts.report();
                let shutdown = parts.shutdown;
                tokio::task::spawn_blocking(move || shutdown.wait()).await.unwrap();
            });
        }

        /// Takes connections until they end, and reports after the first poll.
        fn take_incoming(parts: &Parts) -> impl Future<Output = ()> + Send + 'static {
            let mut incoming = parts.echo.incoming();
            let (shutdown, mut to) = (parts.shutdown.clone(), Some(parts.sender.clone()));
            std::future::poll_fn(move |cx| {
                let polled = incoming.poll_next(cx).map(|end| assert!(end.is_none()));
                if let Some(to) = to.take() {
                    report(&shutdown, &to);
                }
                polled
            })
        }

        #[test]
        fn a_body_whose_incoming_connections_end_is_waited_for() {
            stop_body(true, |parts| async move { take_incoming(&parts).await });
            // Not a task beside the body.
            stop_body(false, |parts| async move {
                tokio::spawn(take_incoming(&parts));
                std::future::pending::<()>().await;
            });
        }

        #[test]
        fn a_body_that_awaits_it_after_the_drain_has_begun_is_waited_for() {
            for body in [AwaitsLate::Itself, AwaitsLate::InATask] {
                let (sender, reports) = mpsc::channel();
                let running = testing::start(service(), move |start| {
                    let ready = start.handle::<crate::Ready>()?;
                    let parts = Parts { echo: start.listener("echo")?, shutdown: start.handle()?, sender };
                    Ok(async move {
                        ready.notify();
                        parts.report();
                        until_raised(&parts.shutdown);
                        match body {
                            AwaitsLate::Itself => parts.shutdown.await,
                            AwaitsLate::InATask => tokio::spawn(parts.shutdown).await.unwrap(),
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        CLEANED_UP
                    })
                });
                assert_eq!(stop(running.unwrap(), &reports, false), Some(CLEANED_UP), "{body:?}");
            }
        }

        #[derive(Clone, Copy, Debug)]
        enum AwaitsLate {
            Itself,
            InATask,
        }

        #[test]
        fn a5_a_body_that_awaits_a_clone_itself_is_waited_for() {
            stop_body(true, |parts| async move {
                parts.report();
                tokio::select! {
                    () = parts.accept_for_ever() => {}
                    () = parts.shutdown.clone() => {}
                }
            });
            // In the future of the set, not in a task of the set.
            stop_body(true, |parts| async move {
                parts.report();
                let local = LocalSet::new();
                local.spawn_local(std::future::pending::<()>());
                local.run_until(parts.shutdown.clone()).await;
            });
            stop_body(true, |parts| async move {
                parts.report();
                parts.shutdown.clone().wait();
            });
        }

        #[test]
        fn a5_a_body_that_awaits_a_clone_in_a_nested_runtime_is_waited_for() {
            let (sender, reports) = mpsc::channel();
            let running = testing::start(service(), move |start| {
                let ready = start.handle::<crate::Ready>()?;
                let parts = Parts { echo: start.listener("echo")?, shutdown: start.handle()?, sender };
                Ok(async move {
                    ready.notify();
                    parts.report();
                    let clone = parts.shutdown.clone();
                    tokio::task::block_in_place(|| Handle::current().block_on(clone));
                    CLEANED_UP
                })
            });
            assert_eq!(stop(running.unwrap(), &reports, true), Some(CLEANED_UP));
        }

        #[test]
        fn a5_a_clone_in_a_task_does_not_hold_the_drain() {
            stop_body(false, |parts| async move {
                drop(tokio::spawn(parts.watch()));
                parts.accept_for_ever().await;
            });
            // Also if the body waits for the task: the task awaits a clone, not the `Shutdown` itself.
            stop_body(false, |parts| async move {
                drop(tokio::spawn(parts.watch()).await);
                std::future::pending::<()>().await;
            });
        }

        #[test]
        fn a5_a_clone_in_a_local_task_does_not_hold_the_drain() {
            stop_body(false, |parts| async move {
                let local = LocalSet::new();
                local.spawn_local(parts.watch());
                local.run_until(parts.accept_for_ever()).await;
            });
            stop_body(false, |parts| async move {
                let local = LocalSet::new();
                let tasks = local.run_until(async {
                    drop(spawn_local(parts.watch()));
                    parts.accept_for_ever().await;
                });
                tasks.await;
            });
        }

        #[test]
        fn a5_a_clone_in_a_thread_for_what_blocks_does_not_hold_the_drain() {
            stop_body(false, |parts| async move {
                let (clone, to) = (parts.shutdown.clone(), parts.sender.clone());
                drop(tokio::task::spawn_blocking(move || {
                    clone.note_awaited();
                    report(&clone, &to);
                    clone.wait();
                }));
                parts.accept_for_ever().await;
            });
        }

        /// Two services in one process, as in a test.
        #[test]
        fn a5_a_body_that_awaits_the_shutdown_of_another_service_is_not_its_body() {
            let (send, other) = mpsc::channel();
            let watched = testing::start(service(), move |start| {
                let (echo, shutdown) = (start.listener::<TcpListener>("echo")?, start.handle::<Shutdown>()?);
                send.send(shutdown.clone()).unwrap();
                Ok(async move {
                    loop {
                        echo.accept().await.expect("it listens");
                    }
                })
            });
            let (watched, mut other) = (watched.unwrap(), other.recv().unwrap());
            let (sender, reports) = mpsc::channel();
            let watcher = testing::start(service(), move |start| {
                let (echo, own_shutdown) =
                    (start.listener::<TcpListener>("echo")?, start.handle::<Shutdown>()?);
                Ok(async move {
                    let mut sender = Some(sender);
                    let other = std::future::poll_fn(|cx| {
                        let polled = Pin::new(&mut other).poll(cx);
                        if let Some(to) = sender.take() {
                            report(&own_shutdown, &to);
                        }
                        polled
                    });
                    tokio::select! { _ = echo.accept() => {}, () = other => {} }
                    std::future::pending::<()>().await;
                })
            });
            let shared = reports.recv_timeout(DEADLINE).unwrap();
            assert!(!shared.waits_for_body());
            let watcher = watcher.unwrap();
            let (send, ended) = mpsc::channel();
            thread::spawn(move || send.send((watched.stop(), watcher.stop())));
            let ended = ended.recv_timeout(DEADLINE).expect("neither drain waits for a body");
            assert_eq!(ended, (None::<()>, None));
        }

        /// The test polls a task by hand while its thread has the mark of the body.
        #[tokio::test]
        async fn a5_a_body_in_a_task_is_told_from_a_task_beside_it() {
            let shared = Arc::new(Shared::new(1, false, DRAIN).unwrap());
            let clone = Shutdown::new(shared.clone());
            let mut body = pin!(async {
                let local = LocalSet::new();
                local.spawn_local(clone.clone());
                let _set = tokio::time::timeout(Duration::from_millis(1), local).await;
                let beside = shared.waits_for_body();
                _ = std::future::poll_fn(|cx| Poll::Ready(pin!(clone.clone()).poll(cx))).await;
                (beside, shared.waits_for_body())
            });
            let polled = std::future::poll_fn(|cx| {
                let _mark = BodyMark::new(&shared);
                body.as_mut().poll(cx)
            });
            assert_eq!(polled.await, (false, true));
        }

        #[cfg(feature = "http")]
        mod http {
            use std::convert::Infallible;

            use hyper::body::Incoming;
            use hyper::service::service_fn;
            use hyper::{Request, Response};

            use super::*;

            async fn serve(echo: TcpListener) {
                let answer =
                    |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(String::new())) };
                crate::http::serve(echo, service_fn(answer)).await.expect("it listens");
            }

            #[test]
            fn a5_a_body_that_serves_http_is_waited_for_in_a_task_too() {
                stop_body(true, |parts| async move {
                    parts.report();
                    serve(parts.echo).await;
                });
                stop_body(true, |parts| async move {
                    parts.report();
                    tokio::spawn(serve(parts.echo)).await.unwrap();
                });
            }

            #[test]
            fn a5_http_in_a_task_does_not_hold_the_drain_of_a_body_that_accepts() {
                stop_body(false, |parts| async move {
                    drop(tokio::spawn(serve(parts.echo.clone())));
                    let accepts = parts.accept_for_ever();
                    let mut accepts = pin!(accepts);
                    let mut has_reported = false;
                    std::future::poll_fn(|cx| {
                        let polled = accepts.as_mut().poll(cx);
                        if !std::mem::replace(&mut has_reported, true) {
                            parts.report();
                        }
                        polled
                    })
                    .await;
                });
            }
        }
    }
}
