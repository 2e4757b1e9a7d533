//! Test a running service: start its body inside a test on ephemeral ports, upgrade it to another body, and stop it.
//!
//! The services run on threads of the test's own process, with the same life cycle, handover and drain as real
//! processes. Three things of a real process are missing: the services handle no signal, and ignore the environment and
//! the pid file.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::io::{Read, Write};
//! use tableflip::{Service, StartError, Start, blocking::TcpListener, testing};
//!
//! // The body under test.
//! fn greet(listener: TcpListener, greeting: &str) -> std::io::Result<()> {
//!     for stream in listener.incoming() {
//!         stream?.write_all(greeting.as_bytes())?;
//!     }
//!     Ok(())
//! }
//!
//! let declared = || Service::new().listen("greet", "tcp://127.0.0.1:0").probation("0s");
//! let ask = |address| {
//!     let mut answer = String::new();
//!     std::net::TcpStream::connect(address)?.read_to_string(&mut answer)?;
//!     std::io::Result::Ok(answer)
//! };
//!
//! let old = testing::start_blocking(declared(), |start| {
//!     let listener = start.listener("greet")?;
//!     Ok(move || greet(listener, "hello"))
//! })?;
//! let address = old.address("greet").unwrap();
//! assert_eq!(ask(address)?, "hello");
//!
//! let new = old.replace_blocking(declared(), |start| {
//!     let listener = start.listener("greet")?;
//!     Ok(move || greet(listener, "good day"))
//! })?;
//! assert_eq!(ask(address)?, "good day");
//! assert_eq!(new.upgrader().generation(), 2);
//!
//! new.stop();
//! assert!(ask(address).is_err());
//! # Ok(())
//! # }
//! ```
//!
//! A [`Program`] runs a service as it stands: the `main` that the attribute has written, or one that calls
//! [`Service::run`]. Its options need not be repeated in the test.

use std::fmt;
#[cfg(feature = "tokio")]
use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use socket2::SockRef;

use crate::base::error::{Failure, StartError, UpgradeError, UpgradeStep, chain};
use crate::between::handles::Upgrader;
use crate::between::params::Start;
use crate::between::shared::{Shared, Verdict};
use crate::config::environment::Environment;
use crate::config::service::Service;
use crate::outside::sockets::BoundSocket;
use crate::run::body;
use crate::run::host::{Ended, ServiceHost};
use crate::sys::fd::OwnedFd;

mod program;
#[cfg(upgrades)]
mod spawner;
mod successor;

pub use program::Program;
use successor::{Next, ThreadChild};

/// A service that runs inside a test. Dropping this value ends the service at once, as SIGKILL ends a process.
#[must_use = "dropping it ends the service at once"]
pub struct Running<T> {
    shared: Arc<Shared>,
    addresses: Addresses,
    next: Next,
    thread: Option<JoinHandle<Result<Ended<T>, StartError>>>,
}

type Addresses = Vec<(String, Option<SocketAddr>)>;

/// Starts a service whose body is a future, and waits until it serves.
///
/// # Errors
///
/// The error that [`Service::run`] would print on stderr.
#[cfg(feature = "tokio")]
pub fn start<F, B>(service: Service, prepare: F) -> Result<Running<B::Output>, StartError>
where
    F: FnOnce(&mut Start) -> Result<B, Failure> + Send + 'static,
    B: Future<Output: Send + 'static>,
{
    OnThread::start(Environment::default(), None, move |host| {
        body::run_async(service, host, prepare, |_| None)
    })
    .wait_until_it_serves()
}

/// Starts a service whose body is a closure, and waits until it serves.
///
/// # Errors
///
/// The error that [`Service::run_blocking`] would print on stderr.
pub fn start_blocking<F, B, T>(service: Service, prepare: F) -> Result<Running<T>, StartError>
where
    F: FnOnce(&mut Start) -> Result<B, Failure> + Send + 'static,
    B: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    OnThread::start(Environment::default(), None, move |host| {
        body::run_blocking(service, host, prepare, |_| None)
    })
    .wait_until_it_serves()
}

impl<T: Send + 'static> Running<T> {
    /// The address to which a listener is bound, with its real port. `None` if no listener of this name is declared, or if
    /// the listener has no IP address.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.addresses.iter().find(|(name, _)| name == listener)?.1
    }

    /// The handle that upgrades and stops this service, and reports its status.
    pub fn upgrader(&self) -> Upgrader {
        Upgrader::new(self.shared.clone())
    }

    /// Upgrades to another body, as SIGHUP upgrades to a new executable. Waits until the successor serves and has passed its
    /// probation. This service then drains.
    ///
    /// # Errors
    ///
    /// Why the upgrade was refused or failed. This service serves on. It refuses while its own predecessor drains:
    /// [`Upgrader::predecessor_gone_blocking`] waits until that has ended. A service that has ended returns
    /// [`Terminating`](UpgradeError::Terminating).
    #[cfg(feature = "tokio")]
    pub fn replace<F, B>(&self, service: Service, prepare: F) -> Result<Running<B::Output>, UpgradeError>
    where
        F: FnOnce(&mut Start) -> Result<B, Failure> + Send + 'static,
        B: Future<Output: Send + 'static>,
    {
        self.replace_by(Environment::default(), move |host| body::run_async(service, host, prepare, |_| None))
    }

    /// The twin of `replace` for a body that is a closure.
    ///
    /// # Errors
    ///
    /// As for `replace`.
    pub fn replace_blocking<F, B, U>(&self, service: Service, prepare: F) -> Result<Running<U>, UpgradeError>
    where
        F: FnOnce(&mut Start) -> Result<B, Failure> + Send + 'static,
        B: FnOnce() -> U + Send + 'static,
        U: Send + 'static,
    {
        self.replace_by(Environment::default(), move |host| {
            body::run_blocking(service, host, prepare, |_| None)
        })
    }

    /// Upgrades to another program, as SIGHUP upgrades to a new executable. See [`replace_blocking`](Self::replace_blocking).
    ///
    /// # Errors
    ///
    /// As for `replace`.
    pub fn replace_program(&self, program: Program) -> Result<Running<ExitCode>, UpgradeError> {
        let (environment, run) = program.into_parts();
        self.replace_by(environment, run)
    }

    fn replace_by<U: Send + 'static>(
        &self,
        environment: Environment,
        run: impl FnOnce(ServiceHost) -> Result<Ended<U>, StartError> + Send + 'static,
    ) -> Result<Running<U>, UpgradeError> {
        let (sender, receiver) = mpsc::channel();
        self.next.set(Some(Box::new(move |channel| {
            let successor = OnThread::start(environment, Some(channel), run);
            let child = successor.child.clone();
            // The receiver lives until the upgrade has its outcome.
            match sender.send(successor) {
                Ok(()) | Err(_) => child,
            }
        })));
        let outcome = self.upgrader().upgrade_blocking();
        self.next.set(None);
        outcome?;
        let successor = receiver.try_recv().map_err(|_| UpgradeError::Failed {
            step: UpgradeStep::Spawn,
            reason: "another upgrade took the place of this one".to_owned(),
        })?;
        successor
            .wait_until_it_serves()
            .map_err(|error| UpgradeError::Failed { step: UpgradeStep::Start, reason: chain(&error) })
    }

    /// Stops the service gracefully, as SIGTERM does, and waits for its end. Returns the same as [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// If the body panicked.
    pub fn stop(self) -> Option<T> {
        self.upgrader().stop();
        self.wait()
    }

    /// Waits for the end of the service. Returns the value that the body returned. Returns `None` if the body was dropped,
    /// because the service was replaced or stopped, or if the service failed.
    ///
    /// # Panics
    ///
    /// If the body panicked.
    pub fn wait(mut self) -> Option<T> {
        let thread = self.thread.take().expect("it is taken once, here or when it is dropped");
        match thread.join() {
            Ok(Ok(Ended { returned: Some(Err(panic)), .. })) | Err(panic) => std::panic::resume_unwind(panic),
            Ok(Ok(Ended { returned, .. })) => returned.and_then(Result::ok),
            Ok(Err(_)) => None,
        }
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if self.thread.is_some() {
            kill(&self.shared);
        }
    }
}

impl<T> fmt::Debug for Running<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// A service on its own thread.
struct OnThread<T> {
    thread: JoinHandle<Result<Ended<T>, StartError>>,
    started: mpsc::Receiver<(Arc<Shared>, Addresses)>,
    next: Next,
    child: Arc<ThreadChild>,
}

impl<T: Send + 'static> OnThread<T> {
    fn start(
        environment: Environment,
        parent: Option<OwnedFd>,
        run: impl FnOnce(ServiceHost) -> Result<Ended<T>, StartError> + Send + 'static,
    ) -> Self {
        let (sender, started) = mpsc::channel();
        let next = Next::default();
        let child = Arc::new(ThreadChild::new());
        let report = {
            let child = child.clone();
            move |shared: &Arc<Shared>, sockets: &[BoundSocket]| {
                let address =
                    |socket: &BoundSocket| SockRef::from(&*socket.fd).local_addr().ok()?.as_socket();
                let addresses = sockets.iter().map(|socket| (socket.name.clone(), address(socket))).collect();
                child.started(shared.clone());
                match sender.send((shared.clone(), addresses)) {
                    Ok(()) | Err(_) => {}
                }
            }
        };
        let host = next.host(environment, parent, Box::new(report));
        let life = Life { child: child.clone() };
        let thread = thread::spawn(move || {
            let _life = life;
            run(host)
        });
        Self { thread, started, next, child }
    }

    fn wait_until_it_serves(self) -> Result<Running<T>, StartError> {
        let Self { thread, started, next, .. } = self;
        let ended_early = || StartError::NotReady("the service ended before it served".to_owned());
        let running = started.recv().ok().filter(|(shared, _)| *shared.serving.wait_blocking());
        match running {
            Some((shared, addresses)) => Ok(Running { shared, addresses, next, thread: Some(thread) }),
            None => match thread.join() {
                Ok(Ok(Ended { returned: Some(Err(panic)), .. })) | Err(panic) => {
                    std::panic::resume_unwind(panic)
                }
                Ok(Ok(_)) => Err(ended_early()),
                Ok(Err(error)) => Err(error),
            },
        }
    }
}

/// The life of a service. It ends with the thread of the service, also if the thread panics, as a process ends.
struct Life {
    child: Arc<ThreadChild>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if thread::panicking() {
            self.child.kill();
        }
        self.child.dead();
    }
}

/// Ends a service at once, without a drain.
fn kill(shared: &Shared) {
    shared.verdict.set(Verdict::Failure);
    shared.wake();
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::base::limits::MAX_LISTENERS;
    use crate::base::status::Phase;
    use crate::blocking::TcpListener;

    /// The longest wait for an expected event.
    const DEADLINE: Duration = Duration::from_secs(30);

    /// The value that `f` returns within the deadline.
    fn in_time<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        thread::spawn(move || send.send(f()));
        receive.recv_timeout(DEADLINE).expect("it neither hangs nor panics")
    }

    fn declared() -> Service {
        Service::new().listen("greet", "tcp://127.0.0.1:0").probation("0s").upgrade_timeout("10s")
    }

    fn greet(greeting: &'static str) -> impl FnOnce(&mut Start) -> Result<Body, Failure> {
        move |start| {
            let listener: TcpListener = start.listener("greet")?;
            Ok(Box::new(move || {
                for stream in listener.incoming() {
                    stream?.write_all(greeting.as_bytes())?;
                }
                Ok(())
            }))
        }
    }

    type Body = Box<dyn FnOnce() -> std::io::Result<()> + Send>;

    fn ask(address: SocketAddr) -> std::io::Result<String> {
        let mut answer = String::new();
        TcpStream::connect(address)?.read_to_string(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn a_body_that_fails_to_prepare_is_an_error_of_the_start() {
        let started = start_blocking(declared(), |start| {
            let _: TcpListener = start.listener("missing")?;
            Ok(|| ())
        });
        assert!(started.unwrap_err().to_string().contains("`missing`: it is not declared"));
    }

    /// The messages about more listeners would not fit into a packet of the handover.
    #[test]
    fn there_are_as_many_listeners_as_a_handover_can_name() {
        let problem = format!("a service has at most {MAX_LISTENERS} listeners");
        let listen = |service: Service, at| service.listen(format!("l{at}"), "tcp://127.0.0.1:0");
        let declared = (0..=MAX_LISTENERS).fold(Service::new(), listen);
        let refused = start_blocking(declared, greet("many")).map(drop).unwrap_err().to_string();
        assert_eq!(refused, format!("option `listen`: {problem}"));
        let refused = start_blocking(Service::new(), |start| -> Result<Body, Failure> {
            let listeners: crate::Listeners = start.handle()?;
            let used = ("used".to_owned(), "tcp://127.0.0.1:0".parse().unwrap());
            start.shared.pool().as_mut().unwrap().used = vec![used; MAX_LISTENERS];
            listeners.bind::<TcpListener>("late", "tcp://127.0.0.1:0")?;
            Ok(Box::new(|| Ok(())))
        });
        assert_eq!(refused.map(drop).unwrap_err().to_string(), format!("listener `late`: {problem}"));
    }

    /// Long names fit into the messages of an offer, whatever their total length.
    #[test]
    #[cfg(upgrades)]
    fn what_is_passed_on_under_long_names_arrives() {
        let old = start_blocking(declared(), greet("old")).unwrap();
        let upgrader = old.upgrader();
        let names: Vec<_> = (0..40).map(|at| format!("{at:02}{}", "x".repeat(4094))).collect();
        let file = || std::fs::File::open("/dev/null").unwrap();
        names.iter().for_each(|name| upgrader.pass_on(name, file()).unwrap());
        let inherited = names.clone();
        let new = old.replace_blocking(declared(), move |start| {
            let files: crate::Inherited = start.handle()?;
            assert_eq!(files.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>(), inherited);
            greet("new")(start)
        });
        let new = new.unwrap();
        old.wait();
        let refused = new.upgrader().pass_on("x".repeat(4097), file()).unwrap_err().to_string();
        assert!(refused.contains("has 4097 bytes; it may have at most 4096"), "{refused}");
        // A name that was refused refuses no upgrade.
        let newer = new.replace_blocking(declared(), greet("newer")).unwrap();
        assert_eq!(ask(newer.address("greet").unwrap()).unwrap(), "newer");
        newer.stop();
        new.wait();
    }

    #[test]
    fn a_service_serves_until_it_is_stopped() {
        let service = start_blocking(declared(), greet("hello")).unwrap();
        let address = service.address("greet").unwrap();
        assert_eq!(ask(address).unwrap(), "hello");
        assert_eq!(service.upgrader().generation(), 1);
        service.stop();
        assert!(ask(address).is_err());
    }

    #[test]
    #[cfg(not(upgrades))]
    fn an_upgrade_is_not_supported() {
        let service = start_blocking(declared(), greet("hello")).unwrap();
        let upgrader = service.upgrader();
        assert_eq!(upgrader.upgrade_blocking(), Err(UpgradeError::Unsupported));
        assert_eq!(
            service.replace_blocking(declared(), greet("new")).map(|_| ()),
            Err(UpgradeError::Unsupported)
        );
        assert!(!upgrader.has_predecessor());
        upgrader.predecessor_gone_blocking();
        assert_eq!(ask(service.address("greet").unwrap()).unwrap(), "hello", "it serves on");
        service.stop();
    }

    #[test]
    #[cfg(upgrades)]
    fn a_successor_that_fails_leaves_the_old_one_serving() {
        let old = start_blocking(declared(), greet("old")).unwrap();
        let address = old.address("greet").unwrap();
        let early = old.replace_blocking(declared(), |start| {
            let _greet: TcpListener = start.listener("greet")?;
            Ok(|| ())
        });
        let reason = early.unwrap_err().to_string();
        assert!(reason.contains("the body returned before it was ready"), "{reason}");
        assert_eq!(ask(address).unwrap(), "old");

        // However long its error is.
        let wordy = old
            .replace_blocking(declared(), |_| -> Result<Body, Failure> { Err("x".repeat(1 << 20).into()) });
        let reason = wordy.map(drop).unwrap_err().to_string();
        assert!(reason.contains("the successor could not start: xxx"), "{}", reason.len());
        assert_eq!(ask(address).unwrap(), "old");

        let panicking = old.replace_blocking(declared(), |start| {
            let _greet: TcpListener = start.listener("greet")?;
            Ok(|| panic!("no configuration"))
        });
        let panicking = panicking.map(|_: Running<()>| ()).unwrap_err().to_string();
        assert!(panicking.contains("the body panicked: no configuration"), "{panicking}");
        assert_eq!(ask(address).unwrap(), "old");

        let new = old.replace_blocking(declared(), greet("new")).unwrap();
        assert_eq!(ask(address).unwrap(), "new");
        old.wait();
        new.stop();
        assert!(ask(address).is_err());
    }

    /// The unwinding drops `Ready` before the panic is caught. The reason is still the panic.
    #[cfg(upgrades)]
    #[test]
    fn a_successor_that_panics_with_its_ready_says_why() {
        let old = start_blocking(declared(), greet("old")).unwrap();
        let panicking = old.replace_blocking(declared(), |start| {
            let _greet: TcpListener = start.listener("greet")?;
            let ready: crate::Ready = start.handle()?;
            Ok(move || {
                let _ready = ready;
                panic!("no configuration")
            })
        });
        let reason = panicking.map(|_: Running<()>| ()).unwrap_err().to_string();
        assert!(reason.contains("the body panicked: no configuration"), "{reason}");
        old.stop();
    }

    #[test]
    #[cfg(upgrades)]
    fn a_successor_that_is_never_ready_is_killed_and_the_old_one_serves_on() {
        let old = start_blocking(declared().upgrade_timeout("100ms"), greet("old")).unwrap();
        let address = old.address("greet").unwrap();
        let stuck = old.replace_blocking(declared(), |start| {
            let _greet: TcpListener = start.listener("greet")?;
            Ok(|| {
                loop {
                    thread::park();
                }
            })
        });
        let reason = stuck.map(|_: Running<()>| ()).unwrap_err().to_string();
        assert!(reason.contains("not ready within 100ms") && reason.contains("`greet`"), "{reason}");
        assert_eq!(ask(address).unwrap(), "old");
        old.stop();
    }

    #[test]
    #[cfg(upgrades)]
    fn only_replace_upgrades_a_service_in_a_test() {
        let old = start_blocking(declared(), greet("old")).unwrap();
        let refused = old.upgrader().upgrade_blocking().unwrap_err().to_string();
        assert!(refused.contains("Running::replace"), "{refused}");
        old.stop();
    }

    #[test]
    fn a_service_that_has_ended_answers() {
        let refused = if cfg!(upgrades) { UpgradeError::Terminating } else { UpgradeError::Unsupported };
        in_time(move || {
            let stopped = start_blocking(declared(), greet("hello")).unwrap();
            let upgrader = stopped.upgrader();
            stopped.stop();
            assert_eq!(upgrader.upgrade_blocking(), Err(refused.clone()));
            let status = upgrader.status_blocking();
            assert_eq!((status.phase, status.listeners.len()), (Phase::Ended, 0));

            let returned = start_blocking(declared(), |start| {
                let listener: TcpListener = start.listener("greet")?;
                Ok(move || drop(listener.accept()))
            })
            .unwrap();
            drop(TcpStream::connect(returned.address("greet").unwrap()).unwrap());
            returned.shared.verdict.wait_blocking();
            let replaced = returned.replace_blocking(declared(), greet("new"));
            assert_eq!(replaced.map(|_| ()), Err(refused));
        });
    }

    /// The drop ends the service as SIGKILL ends a process. A thread that waits for its upgrade gets an error.
    #[test]
    #[cfg(upgrades)]
    fn a_service_that_is_dropped_ends_the_wait_for_its_upgrade() {
        let (inside, is_inside) = mpsc::channel();
        let (_test_lives, end_of_test) = mpsc::channel::<()>();
        let old = Arc::new(start_blocking(declared().upgrade_timeout("1h"), greet("old")).unwrap());
        let upgrading = old.clone();
        let upgrade = thread::spawn(move || {
            upgrading.replace_blocking(declared(), move |start| {
                let _greet: TcpListener = start.listener("greet")?;
                Ok(move || {
                    inside.send(()).unwrap();
                    match end_of_test.recv() {
                        Ok(()) | Err(_) => {}
                    }
                })
            })
        });
        is_inside.recv_timeout(DEADLINE).unwrap();
        kill(&old.shared);
        let outcome = in_time(move || upgrade.join().unwrap().map(|_| ()));
        assert_eq!(outcome, Err(UpgradeError::Terminating));
    }

    #[test]
    #[cfg(upgrades)]
    fn a_successor_whose_preparation_panics_leaves_the_old_one_serving() {
        in_time(|| {
            let old = start_blocking(declared(), greet("old")).unwrap();
            let panicking =
                old.replace_blocking(declared(), |_| -> Result<Body, Failure> { panic!("no configuration") });
            let reason = panicking.map(|_| ()).unwrap_err().to_string();
            let expected = "the successor could not start: its preparation panicked: no configuration";
            assert_eq!(reason, expected);
            assert_eq!(ask(old.address("greet").unwrap()).unwrap(), "old");
            old.stop();
        });
    }

    /// Such a body sends no note to the engine, so without a verdict the engine would run on.
    #[test]
    #[cfg(feature = "tokio")]
    fn a_service_whose_body_panics_as_it_is_dropped_ends() {
        struct Fragile;
        impl Future for Fragile {
            type Output = ();

            fn poll(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Self::Output> {
                std::task::Poll::Ready(())
            }
        }
        impl Drop for Fragile {
            fn drop(&mut self) {
                panic!("it breaks");
            }
        }

        in_time(|| {
            let (sender, receiver) = mpsc::channel();
            let panic = std::panic::catch_unwind(|| {
                start(declared(), move |start| {
                    let greet: crate::net::TcpListener = start.listener("greet")?;
                    sender.send(greet.local_addr().unwrap()).unwrap();
                    Ok(Fragile)
                })
            });
            assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"it breaks"));
            let address = receiver.recv().unwrap();
            while TcpStream::connect(address).is_ok() {
                thread::yield_now();
            }
        });
    }

    /// Starts a service whose declared listener is no parameter of the body. `take` takes it by `Listeners`.
    fn declared_and_left(
        take: impl FnOnce(&crate::Listeners) -> Result<TcpListener, StartError> + Send + 'static,
    ) -> Result<Running<()>, StartError> {
        start_blocking(declared(), |start| {
            let (listeners, ready): (crate::Listeners, crate::Ready) = (start.handle()?, start.handle()?);
            Ok(move || {
                let listener = take(&listeners);
                ready.notify();
                // The start fails if the listener is not taken.
                let Ok(listener) = listener else { return };
                for stream in listener.incoming() {
                    stream.unwrap().write_all(b"hello").unwrap();
                }
            })
        })
    }

    #[test]
    fn a_declared_listener_is_taken_at_run_time() {
        type Take = fn(&crate::Listeners) -> Result<TcpListener, StartError>;
        let ways: [Take; 3] = [
            |listeners| listeners.declared("greet"),
            |listeners| listeners.bind("greet", "tcp://127.0.0.1:0"),
            |listeners| Ok(listeners.take("greet", "tcp://127.0.0.1:0")?.expect("it is declared")),
        ];
        for take in ways {
            in_time(move || {
                let service = declared_and_left(take).unwrap();
                assert_eq!(ask(service.address("greet").unwrap()).unwrap(), "hello");
                service.stop();
            });
        }
    }

    #[test]
    fn a_declared_listener_that_nobody_takes_at_run_time_fails_the_start() {
        in_time(|| {
            let not_taken = declared_and_left(|listeners| listeners.declared("other"));
            assert!(matches!(not_taken, Err(StartError::NotReady(_))), "{not_taken:?}");
        });
    }
}
