//! Open connections move to the successor: each is served by exactly one process, and its client notices nothing.
#![cfg(all(feature = "tokio", target_os = "linux", not(tableflip_portable)))]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream as Client;
use std::time::Duration;

use tableflip::net::{Offer, Resumed, TcpListener, TcpStream};
use tableflip::testing::{self, Running};
use tableflip::{Service, Session, Shutdown, Start, StartError};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

/// What a generation does with the connections of the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Takes {
    Each,
    /// It never looks.
    Nothing,
    /// It looks at the state and drops the offer.
    Refuses,
    /// It says that it takes them, and never looks.
    Hangs,
    /// It takes those of another version of the state.
    OtherKind,
}

/// The service: the n-th line of a connection is answered with the generation, n, and the line.
struct Lines {
    listener: TcpListener,
    resumed: Option<Resumed<TcpStream>>,
    shutdown: Shutdown,
    generation: u64,
    takes: Takes,
    /// The state is as long as this at least.
    padding: usize,
}

impl Lines {
    fn new(start: &mut Start, takes: Takes, padding: usize) -> Result<Self, StartError> {
        let listener: TcpListener = start.listener("lines")?;
        let resumed = match takes {
            Takes::Nothing => None,
            Takes::OtherKind => Some(listener.resumed(["lines/2"])),
            _ => Some(listener.resumed(["lines/1"])),
        };
        let upgrader: tableflip::Upgrader = start.handle()?;
        let generation = upgrader.generation();
        Ok(Self { listener, resumed, shutdown: start.handle()?, generation, takes, padding })
    }

    async fn run(mut self) -> io::Result<()> {
        let mut resumed = self.resumed.take();
        loop {
            let offer = async {
                match &mut resumed {
                    Some(resumed) if self.takes != Takes::Hangs => resumed.next().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                accepted = self.listener.accept() => {
                    tokio::spawn(self.serve(accepted?.0, 0));
                }
                offer = offer => self.take(offer).await,
                () = &mut self.shutdown => return Ok(()),
            }
        }
    }

    async fn take(&self, offer: Offer<TcpStream>) {
        if self.takes == Takes::Refuses {
            return;
        }
        assert_eq!(offer.kind(), "lines/1");
        let count = u64::from_le_bytes(*offer.state().first_chunk().expect("a count"));
        assert!(offer.state().len() >= self.padding);
        if let Ok(stream) = offer.take().await {
            tokio::spawn(self.serve(stream, count));
        }
    }

    fn serve(&self, stream: TcpStream, mut count: u64) -> impl Future<Output = io::Result<()>> + use<> {
        let (mut shutdown, generation, padding) = (self.shutdown.clone(), self.generation, self.padding);
        async move {
            let mut stream = tokio::io::BufReader::new(stream);
            let mut line = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    () = &mut shutdown => break,
                    read = stream.read_until(b'\n', &mut line) => if read? == 0 { return Ok(()) },
                }
                count += 1;
                let answer = [format!("{generation} {count} ").as_bytes(), &line].concat();
                line.clear();
                stream.get_mut().write_all(&answer).await?;
            }
            let mut state = count.to_le_bytes().to_vec();
            state.resize(padding.max(8), 0);
            let unread = [&line[..], stream.buffer()].concat();
            let session = Session::new("lines/1").state(state).unread(unread.clone());
            match stream.into_inner().hand_over(session).await {
                Ok(()) => Ok(()),
                Err(mut stream) => {
                    // What was unread comes out of the stream again.
                    let mut again = vec![0; unread.len()];
                    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut again).await?;
                    assert_eq!(again, unread);
                    stream.write_all(format!("{generation} bye\n").as_bytes()).await
                }
            }
        }
    }
}

fn declared() -> Service {
    Service::new().listen("lines", "tcp://127.0.0.1:0").probation("0s").drain_timeout("20s")
}

fn start(takes: Takes) -> Running<io::Result<()>> {
    testing::start(declared(), move |start| Ok(Lines::new(start, takes, 0)?.run())).expect("it starts")
}

fn replace(old: &Running<io::Result<()>>, takes: Takes, padding: usize) -> Running<io::Result<()>> {
    old.replace(declared(), move |start| Ok(Lines::new(start, takes, padding)?.run()))
        .expect("it is replaced")
}

struct Connection(BufReader<Client>);

impl Connection {
    fn to(service: &Running<io::Result<()>>) -> Self {
        let client = Client::connect(service.address("lines").unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(BufReader::new(client))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    #[track_caller]
    fn ask(&mut self, text: &str, answer: &str) {
        self.send(&format!("{text}\n"));
        assert_eq!(self.next(), format!("{answer} {text}\n"));
    }
}

#[test]
fn a_connection_goes_on_in_each_successor() {
    let mut service = start(Takes::Each);
    let mut clients: Vec<_> = (0..300).map(|_| Connection::to(&service)).collect();
    clients.iter_mut().for_each(|client| client.ask("hello", "1 1"));
    for generation in 2..6 {
        // Half a line is read, and travels.
        clients.iter_mut().for_each(|client| client.send("ha"));
        let new = replace(&service, Takes::Each, 0);
        // Each connection has moved: the old one ends by itself.
        service.wait().unwrap().unwrap();
        service = new;
        for client in &mut clients {
            client.send("lf\n");
            assert_eq!(client.next(), format!("{generation} {} half\n", 2 * generation - 2));
            client.ask("more", &format!("{generation} {}", 2 * generation - 1));
        }
    }
    // A final stop drains.
    let stopped = std::thread::spawn(|| service.stop());
    clients.iter_mut().for_each(|client| assert_eq!(client.next(), "5 bye\n"));
    clients.iter_mut().for_each(|client| assert_eq!(client.next(), ""));
    stopped.join().unwrap().unwrap().unwrap();
}

#[test]
fn what_the_successor_does_not_take_stays_and_says_goodbye() {
    for takes in [Takes::Nothing, Takes::Refuses, Takes::Hangs, Takes::OtherKind] {
        let old = start(Takes::Each);
        let mut clients: Vec<_> = (0..70).map(|_| Connection::to(&old)).collect();
        clients.iter_mut().for_each(|client| client.ask("hello", "1 1"));
        clients.iter_mut().for_each(|client| client.send("half"));
        let new = replace(&old, takes, 0);
        for client in &mut clients {
            assert_eq!(client.next(), "1 bye\n", "{takes:?}");
            assert_eq!(client.0.read(&mut [0]).unwrap(), 0, "{takes:?}");
        }
        old.wait().unwrap().unwrap();
        Connection::to(&new).ask("hello", "2 1");
    }
}

/// Longer than a packet, and longer than anything travels.
#[test]
fn a_long_state_travels_in_a_file_of_memory() {
    for (padding, answer) in [(40_000, "2 2 again\n"), (3_000_000, "2 2 again\n"), (65 << 20, "1 bye\n")] {
        let old = testing::start(declared(), move |start| Ok(Lines::new(start, Takes::Each, padding)?.run()));
        let old = old.unwrap();
        let mut clients: Vec<_> = (0..3).map(|_| Connection::to(&old)).collect();
        clients.iter_mut().for_each(|client| client.ask("hello", "1 1"));
        let _new = replace(&old, Takes::Each, padding);
        old.wait().unwrap().unwrap();
        for client in &mut clients {
            // What is sent to a connection that has said goodbye is lost with it.
            let _may_be_closed = client.0.get_mut().write_all(b"again\n");
            assert_eq!(client.next(), answer, "{padding}");
        }
    }
}
