//! The examples and the hello worlds of the frameworks, with tableflip and without it.
//!
//! Both are this binary, each a process of its own, and are driven by the same client in turn: A B B A.

mod client;

use std::path::Path;
use std::time::{Duration, Instant};

use load::Certificate;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::options::Options;
use crate::process::{Apart, Service};
use crate::report::{Row, SUMMARY, Section, Target, progress};
use crate::stats::summarize;
use crate::{Result, clock};

use client::{Client, Opener};

/// What is compared, and what the ratio of the rates is to reach.
#[derive(Clone, Copy, Debug)]
struct Comparison {
    framework: &'static str,
    /// What is counted.
    unit: &'static str,
    /// Whether all that one client counts are on one connection. Else each is a connection, with a request.
    is_kept: bool,
    target: Option<f64>,
}

impl Comparison {
    const fn kept(framework: &'static str, unit: &'static str) -> Self {
        Self { framework, unit, is_kept: true, target: None }
    }

    const fn fresh(framework: &'static str, unit: &'static str) -> Self {
        Self { framework, unit, is_kept: false, target: None }
    }
}

const COMPARISONS: [Comparison; 12] = [
    Comparison { target: Some(0.98), ..Comparison::kept("axum", "requests") },
    Comparison::kept("hyper", "requests"),
    Comparison::kept("poem", "requests"),
    Comparison::kept("actix-web", "requests"),
    Comparison::kept("tonic", "calls"),
    Comparison::kept("tls", "requests"),
    Comparison::fresh("tls", "handshakes"),
    Comparison::kept("websocket", "messages"),
    Comparison::kept("redis", "PINGs"),
    Comparison::kept("threads", "lines"),
    Comparison::fresh("threads", "connections"),
    Comparison::kept("dns", "queries"),
];
/// Clients, each with one request at a time.
const CLIENTS: usize = 32;

/// What drives a server.
struct Load<'r> {
    runtime: &'r Runtime,
    comparison: Comparison,
    tls: TlsConnector,
}

struct Server {
    service: Service,
    elapsed: Duration,
    /// Processor time.
    used: Duration,
    /// How long each request took.
    latencies: Vec<Duration>,
}

impl Server {
    /// In the directory is its certificate.
    fn start(apart: &Apart, kind: &str, framework: &str, directory: &Path) -> Result<Self> {
        let directory = directory.to_str().ok_or("a temporary directory that is not UTF-8")?;
        let service = apart.start(&[kind, framework, directory])?;
        Ok(Self { service, elapsed: Duration::ZERO, used: Duration::ZERO, latencies: Vec::new() })
    }

    fn load(&mut self, client: &Load<'_>, slice: Duration) -> Result<()> {
        let pid = self.service.process().pid();
        let Comparison { framework, is_kept, .. } = client.comparison;
        let opener = Opener { framework, address: self.service.address(), tls: client.tls.clone() };
        client.runtime.block_on(async {
            let mut kept = Vec::new();
            for _ in 0..CLIENTS {
                kept.push(if is_kept { Some(opener.open().await?) } else { None });
            }
            let (begun, used) = (Instant::now(), clock::processor_time(pid)?);
            let mut clients = JoinSet::new();
            for kept in kept {
                let opener = opener.clone();
                clients.spawn(async move {
                    ask_again(opener, kept, begun + slice).await.map_err(|error| error.to_string())
                });
            }
            while let Some(latencies) = clients.join_next().await {
                self.latencies.extend(latencies??);
            }
            self.elapsed += begun.elapsed();
            self.used += clock::processor_time(pid)?.saturating_sub(used);
            Ok(())
        })
    }

    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of processor time for one.
    fn cost(&self) -> f64 {
        self.used.as_secs_f64() * 1e6 / self.latencies.len() as f64
    }

    /// In milliseconds.
    fn p99(&mut self) -> f64 {
        self.latencies.sort_unstable();
        let at = self.latencies.len() * 99 / 100;
        self.latencies.get(at).copied().unwrap_or_default().as_secs_f64() * 1e3
    }
}

async fn ask_again(opener: Opener, mut kept: Option<Client>, until: Instant) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut begun = Instant::now();
    while begun < until {
        match &mut kept {
            Some(client) => client.ask().await?,
            None => drop(opener.open().await?),
        }
        let ended = Instant::now();
        latencies.push(ended - begun);
        begun = ended;
    }
    Ok(latencies)
}

pub(crate) fn measure(options: &Options) -> Result<Section> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rounds = options.rounds;
    let apart = Apart::new()?;
    let directory = tempfile::tempdir()?;
    // Where the example looks for them.
    let made = Certificate::make(&directory.path().join("cert"))?;
    std::fs::rename(made.key, directory.path().join("key.pem"))?;
    let tls = client::trusting(&made.certificate)?;
    let mut rows = Vec::new();
    for comparison in COMPARISONS {
        let Comparison { framework, unit, target, .. } = comparison;
        let client = Load { runtime: &runtime, comparison, tls: tls.clone() };
        let (mut plain_rate, mut rate, mut plain_p99, mut p99) = (vec![], vec![], vec![], vec![]);
        let (mut plain_cost, mut cost) = (vec![], vec![]);
        for round in 1..=rounds {
            progress(&format!("{framework}, {unit}"), round, rounds);
            let mut plain = Server::start(&apart, "plain-hello", framework, directory.path())?;
            let mut managed = Server::start(&apart, "managed-hello", framework, directory.path())?;
            for server in [&mut plain, &mut managed] {
                server.load(&client, options.slice / 4)?;
                (server.elapsed, server.used, server.latencies) = Default::default();
            }
            // The other way round in every second round.
            let (first, second) =
                if round % 2 == 0 { (&mut plain, &mut managed) } else { (&mut managed, &mut plain) };
            first.load(&client, options.slice)?;
            second.load(&client, options.slice)?;
            second.load(&client, options.slice)?;
            first.load(&client, options.slice)?;
            plain_rate.push(plain.rate());
            rate.push(managed.rate() / plain.rate());
            plain_cost.push(plain.cost());
            cost.push(managed.cost() / plain.cost());
            let of_plain = plain.p99();
            plain_p99.push(of_plain);
            p99.push(managed.p99() / of_plain);
        }
        let rate = summarize(rate);
        rows.push(Row::per_second(format!("{framework}, {unit}"), summarize(plain_rate)));
        let ratio = Row::ratio("… with tableflip, over that", rate);
        rows.push(match target {
            Some(target) => ratio.with_target(Target::at_least(target, rate.median)),
            None => ratio,
        });
        rows.push(Row::microseconds("… processor time of the service for one", summarize(plain_cost)));
        rows.push(Row::ratio("… with tableflip, over that", summarize(cost)));
        rows.push(Row::milliseconds("… 99 of 100 are answered within", summarize(plain_p99)));
        rows.push(Row::ratio("… with tableflip, over that", summarize(p99)));
    }
    Ok(Section {
        title: "Frameworks",
        about: format!(
            "The examples, or the hello world of the framework where it has one, and the same as the framework's own pages have it, driven \
             in turn (A B B A) by one client thread over loopback, which has a processor of its own where there are two; {CLIENTS} clients, \
             each on a kept connection, HTTP/1.1 and for tonic HTTP/2, but for the handshakes and connections, each of which is a \
             new connection with a request; {rounds} rounds of four slices of {} ms, each with new processes.",
            options.slice.as_millis()
        ),
        headings: SUMMARY,
        rows,
    })
}
