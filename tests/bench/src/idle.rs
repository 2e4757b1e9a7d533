//! The drain of a process with many idle connections of HTTP/1.1: each of them moves to the successor, on the same socket.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{self, ExitCode};
use std::time::Duration;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::service::service_fn;
use processes::Signal;
use tableflip::net::TcpListener;
use tableflip::{Shutdown, Upgrader};

use crate::flavor::DEFAULT;
use crate::options::Options;
use crate::process::{PATIENCE, Service};
use crate::report::{Row, SUMMARY, Section, progress};
use crate::service::{ANY_PORT, announce};
use crate::stats::{milliseconds, summarize};
use crate::{Result, clock};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Of the body of an answer: the process ID, with zeros before it.
const DIGITS: usize = 10;

/// The service. A successor says its process ID, and a word when its predecessor has ended. A process whose drain begins says when.
pub(crate) fn service(flavor: &str) -> Result<ExitCode> {
    Ok(crate::service::service(flavor.parse()?).listen("http", ANY_PORT).run(|start| {
        let (upgrader, shutdown): (Upgrader, Shutdown) = (start.handle()?, start.handle()?);
        let listener: TcpListener = start.listener("http")?;
        Ok(async move {
            announce(listener.local_addr()?, &upgrader);
            if upgrader.has_predecessor() {
                println!("{}", process::id());
                tokio::spawn(async move {
                    upgrader.predecessor_gone().await;
                    println!("alone");
                });
            }
            let body = Bytes::from(format!("{:0DIGITS$}", process::id()));
            let answer = move |_| {
                let answer = Response::new(Full::new(body.clone()));
                async { Ok::<_, Infallible>(answer) }
            };
            // The process does not end before its body has said this.
            let drain = async {
                shutdown.await;
                println!("{}", clock::now().as_nanos());
            };
            tokio::join!(tableflip::http::serve(listener, service_fn(answer)), drain).0
        })
    }))
}

/// A client with one connection.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// The process that answers.
    fn ask(&mut self) -> Result<u32> {
        self.0.write_all(REQUEST)?;
        let (mut answer, mut length) = ([0; 512], 0);
        loop {
            let read = self.0.read(&mut answer[length..])?;
            if read == 0 {
                return Err("the connection was closed".into());
            }
            length += read;
            let text = std::str::from_utf8(&answer[..length])?;
            match text.split_once("\r\n\r\n") {
                Some((_, body)) if body.len() == DIGITS => return Ok(body.parse()?),
                _ => {}
            }
        }
    }
}

/// A service and its idle connections, which are the same in all rounds.
struct Side {
    service: Service,
    clients: Vec<Client>,
    drains: Vec<Duration>,
}

impl Side {
    fn start(connections: usize) -> Result<Self> {
        let service = Service::start(&["idle", DEFAULT])?;
        // Before it is ready an upgrade is refused.
        Client::connect(service.address())?.ask()?;
        let clients = (0..connections).map(|_| Client::connect(service.address())).collect::<Result<_>>()?;
        let mut side = Self { service, clients, drains: Vec::new() };
        side.ask(side.service.process().pid())?;
        // The first one finds cold caches.
        side.round()?;
        side.drains.clear();
        Ok(side)
    }

    /// Each connection is answered by this process.
    fn ask(&mut self, pid: u32) -> Result<()> {
        for client in &mut self.clients {
            let answered = client.ask()?;
            if answered != pid {
                return Err(format!("process {answered} answers in place of {pid}").into());
            }
        }
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        self.service.process().signal(Signal::HUP)?;
        let successor = self.service.hear()?.parse()?;
        let begun = Duration::from_nanos(self.service.hear()?.parse()?);
        self.service.follow(successor)?;
        self.drains.push(clock::now().saturating_sub(begun));
        let word = self.service.hear()?;
        if word != "alone" {
            return Err(format!("the successor says `{word}`").into());
        }
        self.ask(successor)
    }
}

pub(crate) fn measure(options: &Options) -> Result<Section> {
    let counts = [0, options.connections.div_ceil(10), options.connections];
    let mut sides = counts.into_iter().map(Side::start).collect::<Result<Vec<_>>>()?;
    for round in 1..=options.rounds {
        progress("round", round, options.rounds);
        for side in &mut sides {
            side.round()?;
        }
    }
    let mut rows = Vec::new();
    for side in &sides {
        let count = side.clients.len();
        rows.push(Row::milliseconds(
            format!("{count} connections"),
            milliseconds(side.drains.iter().copied()),
        ));
        if count > 0 {
            let beyond = side
                .drains
                .iter()
                .zip(&sides[0].drains)
                .map(|(drain, none)| (drain.as_secs_f64() - none.as_secs_f64()) * 1e6 / count as f64);
            rows.push(Row::microseconds("… for each, beyond none", summarize(beyond)));
        }
    }
    Ok(Section {
        title: "Drain with idle connections",
        about: format!(
            "From the beginning of the drain, as the body learns of it, to the end of the old process, in ms; {} rounds. The \
             connections are those of keep-alive clients in a process of its own, and stay the same in all rounds. After each \
             round the new process answers a request on each of them.",
            options.rounds
        ),
        headings: SUMMARY,
        rows,
    })
}
