//! The hello world of each framework with tableflip, over the same without.
//!
//! Both are this binary, each a process of its own, and are driven by the same client in turn: A B B A.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::options::Options;
use crate::process::{Apart, Service};
use crate::report::{Row, SUMMARY, Section, Target, progress};
use crate::stats::summarize;
use crate::{Result, clock};

/// The frameworks, and what the ratio of requests a second is to reach.
const FRAMEWORKS: [(&str, Option<f64>); 5] =
    [("axum", Some(0.98)), ("hyper", None), ("poem", None), ("actix-web", None), ("tonic", None)];
/// Kept connections, each with one request at a time.
const CONNECTIONS: usize = 32;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The message `name: "World"` of the example, uncompressed.
const CALL: &[u8] = b"\0\0\0\0\x07\x0a\x05World";

/// A connection of the client.
enum Client {
    Http1 {
        stream: TcpStream,
        /// Of an answer; all are of one size.
        size: usize,
    },
    Grpc(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn open(address: SocketAddr, framework: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if framework == "tonic" {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            // What it ends by, the sender of a request learns.
            tokio::spawn(async { connection.await.unwrap_or_default() });
            return Ok(Self::Grpc(sender));
        }
        stream.write_all(REQUEST).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"Hello, World!") {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err("the connection ended".into());
            }
        }
        Ok(Self::Http1 { stream, size: answer.len() })
    }

    async fn ask(&mut self) -> Result<()> {
        match self {
            Self::Http1 { stream, size } => {
                stream.write_all(REQUEST).await?;
                let mut answer = [0; 1024];
                stream.read_exact(&mut answer[..*size]).await?;
            }
            Self::Grpc(sender) => {
                let request = Request::post("http://localhost/greeter.Greeter/SayHello");
                let request = request.header(CONTENT_TYPE, "application/grpc").header("te", "trailers");
                sender.ready().await?;
                let answer = sender.send_request(request.body(Full::from(CALL))?).await?;
                let status = answer.status();
                let body = answer.into_body().collect().await?.to_bytes();
                if status != StatusCode::OK || !body.ends_with(b"Hello, World!") {
                    return Err(format!("the answer is {status}, {body:?}").into());
                }
            }
        }
        Ok(())
    }
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
    fn start(apart: &Apart, kind: &str, framework: &str) -> Result<Self> {
        let service = apart.start(&[kind, framework])?;
        Ok(Self { service, elapsed: Duration::ZERO, used: Duration::ZERO, latencies: Vec::new() })
    }

    fn load(&mut self, runtime: &Runtime, framework: &str, slice: Duration) -> Result<()> {
        let (pid, address) = (self.service.process().pid(), self.service.address());
        runtime.block_on(async {
            let mut opened = Vec::new();
            for _ in 0..CONNECTIONS {
                opened.push(Client::open(address, framework).await?);
            }
            let (begun, used) = (Instant::now(), clock::processor_time(pid)?);
            let mut clients = JoinSet::new();
            for client in opened {
                clients.spawn(async move {
                    ask_again(client, begun + slice).await.map_err(|error| error.to_string())
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

async fn ask_again(mut client: Client, until: Instant) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut begun = Instant::now();
    while begun < until {
        client.ask().await?;
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
    let mut rows = Vec::new();
    for (framework, target) in FRAMEWORKS {
        let (mut plain_rate, mut rate, mut plain_p99, mut p99) = (vec![], vec![], vec![], vec![]);
        let (mut plain_cost, mut cost) = (vec![], vec![]);
        for round in 1..=rounds {
            progress(framework, round, rounds);
            let mut plain = Server::start(&apart, "plain-hello", framework)?;
            let mut managed = Server::start(&apart, "managed-hello", framework)?;
            for server in [&mut plain, &mut managed] {
                server.load(&runtime, framework, options.slice / 4)?;
                (server.elapsed, server.used, server.latencies) = Default::default();
            }
            // The other way round in every second round.
            let (first, second) =
                if round % 2 == 0 { (&mut plain, &mut managed) } else { (&mut managed, &mut plain) };
            first.load(&runtime, framework, options.slice)?;
            second.load(&runtime, framework, options.slice)?;
            second.load(&runtime, framework, options.slice)?;
            first.load(&runtime, framework, options.slice)?;
            plain_rate.push(plain.rate());
            rate.push(managed.rate() / plain.rate());
            plain_cost.push(plain.cost());
            cost.push(managed.cost() / plain.cost());
            let of_plain = plain.p99();
            plain_p99.push(of_plain);
            p99.push(managed.p99() / of_plain);
        }
        let rate = summarize(rate);
        rows.push(Row::per_second(format!("{framework}, requests"), summarize(plain_rate)));
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
            "The hello world of each framework as its own pages have it, and as the example here does, driven in turn \
             (A B B A) by one client thread over loopback, which has a processor of its own where there are two, on {CONNECTIONS} kept connections, HTTP/1.1 and for tonic HTTP/2; \
             {rounds} rounds of four slices of {} ms, each with new processes.",
            options.slice.as_millis()
        ),
        headings: SUMMARY,
        rows,
    })
}
