//! What Go's tableflip offers, with this crate: each test names its counterpart in Go.
//!
//! | Go | here | tests |
//! |---|---|---|
//! | `New(Options{...})`, `Ready()` | `Service`, automatic or `Ready::notify` | `life`, `os` |
//! | `Exit()`, `Stop()`, `Upgrade()` | `Shutdown`, `Upgrader` | `life`, `os` |
//! | `HasParent()`, `WaitForParent()` | `Upgrader` | `life` |
//! | `Listen`, `ListenWithCallback`, `Listener`, `AddListener`, the packet twins | `Listeners` | `listeners` |
//! | `AddConn`, `Conn`, `AddFile`, `File`, `Files` | `Upgrader::pass_on`, `Inherited` | `passed_on` |
//! | package `testing` | `tableflip::testing` | all but `os` |
//! | `ErrNotSupported` | `UpgradeError::Unsupported` | `runtime/tests/portable.rs` |
//! | | the ways of taking a listener | `ways` |
//!
//! The tests of Go's `child.go`, `parent.go` and `process.go` look at one end of the handover with the other faked; what
//! they are about shows here in whole services, and in `os` in real processes.

#[path = "../plain/mod.rs"]
mod plain;

mod life;
mod listeners;
mod os;
mod passed_on;
mod ways;

use std::sync::mpsc;

use processes::DEADLINE;
use tableflip::{Failure, Inherited, Listeners, Ready, Service, Shutdown, Start, Upgrader};

/// A service without listeners, whose timeouts no test waits for.
fn declared() -> Service {
    Service::new().probation("0s").upgrade_timeout("1h").drain_timeout("1h")
}

/// What a body is given.
struct Kit {
    listeners: Listeners,
    inherited: Inherited,
    upgrader: Upgrader,
    shutdown: Shutdown,
}

/// A body that initialises, says that it is ready, and keeps what it has made until it is told to finish.
///
/// What goes wrong in it is a panic, which fails the start; the test reads it there.
fn body<T: 'static>(
    initialise: impl FnOnce(&mut Kit) -> T + Send + 'static,
) -> impl FnOnce(&mut Start) -> Result<Box<dyn FnOnce() -> T + Send>, Failure> + Send + 'static {
    move |start| {
        let ready: Ready = start.handle()?;
        let mut kit = Kit {
            listeners: start.handle()?,
            inherited: start.handle()?,
            upgrader: start.handle()?,
            shutdown: start.handle()?,
        };
        Ok(Box::new(move || {
            let made = initialise(&mut kit);
            ready.notify();
            kit.shutdown.wait();
            made
        }))
    }
}

/// A place where a thread waits for the test.
struct Gate {
    open: mpsc::Sender<()>,
    arrived: mpsc::Receiver<()>,
}

/// A gate, and what passes it: it tells the test that it is there and waits until the gate is opened or gone.
fn gate() -> (Gate, impl FnOnce() + Send + 'static) {
    let (open, opened) = mpsc::channel();
    let (arrive, arrived) = mpsc::channel();
    let pass = move || {
        arrive.send(()).expect("the test waits");
        // An error is a gate that is gone, with its test.
        match opened.recv() {
            Ok(()) | Err(_) => {}
        }
    };
    (Gate { open, arrived }, pass)
}

impl Gate {
    fn wait_until_somebody_is_there(&self) {
        self.arrived.recv_timeout(DEADLINE).expect("somebody comes to the gate");
    }

    fn open(self) {
        self.open.send(()).expect("somebody waits at the gate");
    }
}
