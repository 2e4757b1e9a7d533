//! A service, its clients, and upgrades under load: the library of the tests of the examples. The demo takes its clients of other
//! protocols than HTTP/1.1 from here.
//!
//! ```ignore
//! let mut service = load::Service::of(env!("CARGO_BIN_EXE_axum-hello")).listen("http", "tcp://127.0.0.1:0").start();
//! let http = load::Http::new(service.address("http"), load::Version::Http1);
//! load::across_upgrades(&mut service, || http.clone());    // panics if a request is lost
//! ```
//!
//! Each of [`CLIENTS`] keeps its connection while the service lets it, half of them ask [`RATE`] times a second together,
//! and the others wait for longer than a second between two requests. An upgrade begins when the connections of all of them are
//! open. `LOAD_UPGRADES=100` is the long run.
//!
//! * `service.rs`: the service, its control socket, its certificate. `proxy.rs`: nginx or another proxy in front of it.
//! * `http.rs`, `lines.rs`, `dns.rs`, `websocket.rs`: a client for each protocol. `loss.rs`: how it lost a request.
//! * `program.rs`: a client that is a program, such as wrk or dig.

mod dns;
mod http;
mod lines;
mod loss;
mod program;
mod proxy;
mod service;
mod websocket;

use std::env;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::interval_at;

pub use dns::Dns;
pub use http::{Http, Version};
pub use lines::Lines;
pub use processes::{DEADLINE, find, wait_until};
pub use program::{Program, have};
pub use proxy::Proxy;
pub use service::{Certificate, Command, Control, Service};
pub use websocket::WebSocket;

/// Requests a second.
pub const RATE: u32 = 2000;
/// Clients, each with a connection of its own.
pub const CLIENTS: u32 = 64;
/// How long every second one of them waits from request to request.
const IDLE: Duration = Duration::from_millis(1100);
/// How long the load runs before the first upgrade and after the last one.
const STEADY: Duration = Duration::from_millis(500);

/// How many upgrades a run has: `LOAD_UPGRADES`, or 3.
pub fn upgrades() -> u32 {
    match env::var("LOAD_UPGRADES") {
        Ok(number) => number.parse().expect("LOAD_UPGRADES is a number"),
        Err(_) => 3,
    }
}

/// A client that sends one request at a time.
pub trait Client: Send + 'static {
    /// One request, up to its whole answer. The error is how it was lost; an answer that is none is `InvalidData`.
    fn ask(&mut self) -> impl Future<Output = io::Result<()>> + Send;

    /// How many connections it has asked for so far, as far as it knows.
    fn connections(&self) -> u32;
}

/// What became of the requests of one run.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    /// Requests of the busy clients that were asked later than by the next one's time, because the one before had not been
    /// answered; and the others of theirs.
    late: AtomicU64,
    in_time: AtomicU64,
    lost: Mutex<Vec<String>>,
    over: AtomicBool,
}

/// What one run has come to.
#[derive(Debug)]
pub struct Run {
    /// Of the service.
    pub upgrades: u32,
    /// The fewest connections that were open as one of them began, where the service counts them.
    pub open: Option<u64>,
    /// Requests that were answered.
    pub answered: u64,
    /// How each of the others was lost.
    pub lost: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upgrades, open, answered, lost, elapsed } = self;
        let rate = *answered as f64 / elapsed.as_secs_f64();
        write!(f, "{upgrades} upgrades, ")?;
        if let Some(open) = open {
            write!(f, "each with at least {open} connections open, ")?;
        }
        write!(f, "{answered} requests, {rate:.0} a second, {} lost", lost.len())
    }
}

/// Upgrades a service [`upgrades`] times while clients are at work, says what became of them, and panics if one of their
/// requests was lost. Each upgrade finds the connections of all clients open, idle or not.
pub fn across_upgrades<C: Client>(service: &mut Service, make: impl Fn() -> C) -> Run {
    run(service, make, |service| Some(service.wait_for_connections(CLIENTS.into())))
}

/// The whole test of a service with a listener `http`: clients of this version lose no request, and the service stops at once when
/// nothing is open.
pub fn http_across_upgrades(mut service: Service, version: Version) {
    let http = Http::new(service.address("http"), version);
    across_upgrades(&mut service, || http.clone());
    service.stop();
}

/// The same of a service that does not count what its clients have open: they send datagrams, or have a connection to a proxy, or
/// its listener is a raw one.
pub fn across_uncounted_upgrades<C: Client>(service: &mut Service, make: impl Fn() -> C) -> Run {
    run(service, make, |_| None)
}

/// `wait` is for the connections before an upgrade, and says how many they are.
fn run<C: Client>(
    service: &mut Service,
    make: impl Fn() -> C,
    wait: impl Fn(&Service) -> Option<u64>,
) -> Run {
    let runtime = runtime();
    let tally = Arc::new(Tally::default());
    let begun = Instant::now();
    let busy = CLIENTS / 2;
    let mut clients = runtime.block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let every = if number < busy { Duration::from_secs(1) * busy / RATE } else { IDLE };
            clients.spawn(ask_again(make(), number < busy, every, every * number / CLIENTS, tally.clone()));
        }
        clients
    });
    std::thread::sleep(STEADY);
    let upgrades = upgrades();
    let begin = |service: &mut Service| {
        let open = wait(service);
        service.upgrade();
        open
    };
    let open = (0..upgrades).filter_map(|_| begin(service)).min();
    std::thread::sleep(STEADY);
    let elapsed = begun.elapsed();
    tally.over.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        while let Some(ended) = clients.join_next().await {
            ended.expect("no client panics");
        }
    });
    let lost = std::mem::take(&mut *tally.lost.lock().expect("no client panics"));
    let run = Run { upgrades, open, answered: tally.answered.load(Ordering::Relaxed), lost, elapsed };
    println!("{}: {run}", service.name());
    assert!(run.lost.is_empty(), "{run}:\n{}\n{}", run.lost.join("\n"), service.log());
    // A machine that is slow, or has other tests to run, may answer less than was meant to be asked. It is under load all the same
    // where the clients are late: each asks again as soon as it is answered.
    if run.answered < u64::from(RATE) * elapsed.as_millis() as u64 / 2000 {
        let late = tally.late.load(Ordering::Relaxed);
        assert!(
            late > tally.in_time.load(Ordering::Relaxed) && run.answered > u64::from(2 * CLIENTS),
            "hardly anything was asked: {run}"
        );
        println!(
            "{}: less than half of {RATE} a second, and {late} of them late: as fast as it goes here",
            service.name()
        );
    }
    run
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Runs a client.
pub fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(async { tokio::time::timeout(DEADLINE, future).await.expect("it ends in time") })
}

async fn ask_again(client: impl Client, is_busy: bool, every: Duration, after: Duration, tally: Arc<Tally>) {
    let mut client = client;
    let mut ticks = interval_at(tokio::time::Instant::now() + after, every);
    // A client whose connection was closed asks again at once: an idle client has a connection.
    let times = if is_busy { 1 } else { 2 };
    ask(&mut client, times, &tally).await;
    while !tally.over.load(Ordering::Relaxed) {
        let due = ticks.tick().await;
        if is_busy {
            let count = if due.elapsed() > every { &tally.late } else { &tally.in_time };
            count.fetch_add(1, Ordering::Relaxed);
        }
        ask(&mut client, times, &tally).await;
    }
}

async fn ask(client: &mut impl Client, times: u32, tally: &Tally) {
    for _ in 0..times {
        let asked = tokio::time::timeout(DEADLINE, client.ask());
        match asked.await.unwrap_or_else(|late| Err(late.into())) {
            Ok(()) => _ = tally.answered.fetch_add(1, Ordering::Relaxed),
            Err(loss) => tally.lost.lock().expect("no client panics").push(loss.to_string()),
        }
    }
}
