//! B15: the log names a listener that is taken as a raw type.
#![cfg(upgrades)]

use std::fmt::{Debug, Write};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use tableflip::address::Kind;
use tableflip::blocking::TcpListener;
use tableflip::{
    FromListener, ListenerSocket, Listeners, Ready, Service, Shutdown, Start, StartError, testing,
};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// The lines about raw types.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").expect("a string has room");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        if line.0.contains("raw type") {
            assert_eq!(*event.metadata().level(), Level::INFO);
            LINES.lock().unwrap().push(line.0);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A type of another crate: its constant says nothing of what it wraps.
struct Wrapped<T>(T);

impl<T: FromListener> FromListener for Wrapped<T> {
    const KINDS: &'static [Kind] = T::KINDS;

    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
        T::from_listener(socket).map(Self)
    }
}

/// The names in the lines of a service that takes `a`, `b` and `c`.
fn named(take: impl FnOnce(&mut Start) -> Result<(), StartError> + Send + 'static) -> Vec<String> {
    let listen = |service: Service, name| service.listen(name, "tcp://127.0.0.1:0");
    let service = ["a", "b", "c"].into_iter().fold(Service::new(), listen);
    let service = testing::start_blocking(service, |start| {
        let (ready, shutdown): (Ready, Shutdown) = (start.handle()?, start.handle()?);
        take(start)?;
        Ok(move || {
            ready.notify();
            shutdown.wait();
        })
    });
    service.unwrap().stop();
    let lines = std::mem::take(&mut *LINES.lock().unwrap());
    lines.into_iter().map(|line| line.split('`').nth(1).expect("a name").to_owned()).collect()
}

#[test]
fn b15_the_log_names_the_first_listener_that_is_raw_once() {
    tracing::subscriber::set_global_default(Log).unwrap();
    let managed = |start: &mut Start| {
        start.listener::<TcpListener>("a")?;
        // The wrapper registers the gate of the type that it wraps.
        start.listener::<Wrapped<TcpListener>>("b")?;
        start.listener::<TcpListener>("c").map(drop)
    };
    assert_eq!(named(managed), [""; 0]);
    let raw = |start: &mut Start| {
        start.listener::<TcpListener>("a")?;
        start.listener::<std::net::TcpListener>("b")?;
        start.listener::<OwnedFd>("c").map(drop)
    };
    assert_eq!(named(raw), ["b"]);
    let wrapped = |start: &mut Start| {
        start.listener::<Wrapped<OwnedFd>>("a")?;
        start.listener::<TcpListener>("b")?;
        start.listener::<TcpListener>("c").map(drop)
    };
    assert_eq!(named(wrapped), ["a"]);
    let at_run_time = |start: &mut Start| {
        let listeners: Listeners = start.handle()?;
        listeners.declared::<TcpListener>("a")?;
        listeners.declared::<std::net::TcpListener>("b")?;
        listeners.bind::<OwnedFd>("d", "tcp://127.0.0.1:0")?;
        listeners.declared::<TcpListener>("c").map(drop)
    };
    assert_eq!(named(at_run_time), ["b"]);
}
