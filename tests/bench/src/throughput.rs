//! Managed listeners and streams, over those of tokio.
//!
//! Both echo servers are this binary, each a process of its own, and are driven by the same client in turn: A B B A,
//! so that a machine that grows slower or faster during a round favours neither.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::flavor::Flavor;
use crate::options::Options;
use crate::process::{Apart, Service};
use crate::report::{Row, SUMMARY, Section, Target, progress};
use crate::stats::summarize;
use crate::{Result, clock};

const TARGET: f64 = 0.98;

/// What the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Connect, one byte there and back, close.
    Connections,
    /// A small message there and back, on open connections.
    Requests,
    /// A large one.
    Bulk,
}

impl Load {
    const ALL: [Self; 3] = [Self::Connections, Self::Requests, Self::Bulk];

    fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Bulk => "256 KiB",
        }
    }

    /// How many are under way at once: enough for the server never to wait for work.
    fn clients(self) -> usize {
        match self {
            Self::Connections | Self::Requests => 32,
            Self::Bulk => 4,
        }
    }

    /// Bytes of a message.
    fn size(self) -> usize {
        match self {
            Self::Connections => 1,
            Self::Requests => 64,
            Self::Bulk => 256 * 1024,
        }
    }
}

/// One server, and what it has done in a round.
struct Server {
    service: Service,
    done: u64,
    elapsed: Duration,
    /// Processor time.
    used: Duration,
}

impl Server {
    fn start(apart: &Apart, kind: &str, flavor: &str) -> Result<Self> {
        let service = apart.start(&[kind, flavor])?;
        Ok(Self { service, done: 0, elapsed: Duration::ZERO, used: Duration::ZERO })
    }

    /// Loads it for one slice.
    fn load(&mut self, runtime: &Runtime, load: Load, slice: Duration) -> Result<()> {
        let (pid, address) = (self.service.process().pid(), self.service.address());
        runtime.block_on(async {
            let mut streams = Vec::new();
            if load != Load::Connections {
                for _ in 0..load.clients() {
                    streams.push(open(address, load).await?);
                }
            }
            let (begun, used) = (Instant::now(), clock::processor_time(pid)?);
            let until = begun + slice;
            let mut clients = JoinSet::new();
            if load == Load::Connections {
                for _ in 0..load.clients() {
                    clients.spawn(connect_again(address, load, until));
                }
            }
            for stream in streams {
                clients.spawn(ask_again(stream, load, until));
            }
            while let Some(done) = clients.join_next().await {
                self.done += done??;
            }
            self.elapsed += begun.elapsed();
            self.used += clock::processor_time(pid)?.saturating_sub(used);
            Ok(())
        })
    }

    fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of processor time for one.
    fn cost(&self) -> f64 {
        self.used.as_secs_f64() * 1e6 / self.done as f64
    }
}

async fn open(address: SocketAddr, load: Load) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // A reset leaves no TIME_WAIT behind, of which a second of this would fill the table.
    stream.set_zero_linger()?;
    ask(&mut stream, &vec![7; load.size()], &mut vec![0; load.size()]).await?;
    Ok(stream)
}

/// Sends a message, and reads as much; at once, because a large one does not fit into the sockets.
async fn ask(stream: &mut TcpStream, message: &[u8], answer: &mut [u8]) -> std::io::Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::try_join!(write.write_all(message), read.read_exact(answer)).map(drop)
}

async fn connect_again(address: SocketAddr, load: Load, until: Instant) -> std::io::Result<u64> {
    let mut done = 0;
    while Instant::now() < until {
        drop(open(address, load).await?);
        done += 1;
    }
    Ok(done)
}

async fn ask_again(mut stream: TcpStream, load: Load, until: Instant) -> std::io::Result<u64> {
    let (message, mut answer) = (vec![7; load.size()], vec![0; load.size()]);
    let mut done = 0;
    while Instant::now() < until {
        ask(&mut stream, &message, &mut answer).await?;
        done += 1;
    }
    Ok(done)
}

/// What one load has come to, round by round.
#[derive(Default)]
struct Series {
    plain_rate: Vec<f64>,
    rate: Vec<f64>,
    plain_cost: Vec<f64>,
    cost: Vec<f64>,
}

impl Series {
    fn add(&mut self, plain: &Server, managed: &Server) {
        self.plain_rate.push(plain.rate());
        self.rate.push(managed.rate() / plain.rate());
        self.plain_cost.push(plain.cost());
        self.cost.push(managed.cost() / plain.cost());
    }
}

pub(crate) fn measure(options: &Options) -> Result<Section> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let apart = Apart::new()?;
    let rounds = options.rounds;
    let mut rows = Vec::new();
    for flavor in Flavor::ALL.map(Flavor::name) {
        let mut all = Load::ALL.map(|load| (load, Series::default()));
        for round in 1..=rounds {
            progress(flavor, round, rounds);
            for (load, series) in &mut all {
                // New processes each time: where one has put its memory is not what is measured.
                let mut plain = Server::start(&apart, "plain", flavor)?;
                let mut managed = Server::start(&apart, "managed", flavor)?;
                for server in [&mut plain, &mut managed] {
                    server.load(&runtime, *load, options.slice / 4)?;
                    (server.done, server.elapsed, server.used) = (0, Duration::ZERO, Duration::ZERO);
                }
                // The other way round in every second round.
                let (first, second) =
                    if round % 2 == 0 { (&mut plain, &mut managed) } else { (&mut managed, &mut plain) };
                first.load(&runtime, *load, options.slice)?;
                second.load(&runtime, *load, options.slice)?;
                second.load(&runtime, *load, options.slice)?;
                first.load(&runtime, *load, options.slice)?;
                series.add(&plain, &managed);
            }
        }
        for (load, series) in all {
            let name = load.name();
            let rate = summarize(series.rate);
            rows.push(Row::per_second(format!("{name}, {flavor}, tokio"), summarize(series.plain_rate)));
            rows.push(
                Row::ratio("… managed over tokio", rate).with_target(Target::at_least(TARGET, rate.median)),
            );
            rows.push(Row::microseconds(
                "… processor time of the server, tokio",
                summarize(series.plain_cost),
            ));
            rows.push(Row::ratio("… of that, managed over tokio", summarize(series.cost)));
        }
    }
    Ok(Section {
        title: "Throughput",
        about: format!(
            "Two echo servers, one on tokio alone and one with managed listeners and streams, driven in turn \
             (A B B A) by one client thread over loopback, which has a processor of its own where there are two; {rounds} rounds of four slices of {} ms, each with new \
             processes. A connection is opened, sends a byte, reads it back and is closed; a request is 64 bytes \
             there and back on one of 32 open connections; the large messages go on four. Processor time is that \
             of the server for one of them, and a ratio above 1 is dearer.",
            options.slice.as_millis()
        ),
        headings: SUMMARY,
        rows,
    })
}
