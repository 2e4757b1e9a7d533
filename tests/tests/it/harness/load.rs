//! Clients without end that count what they lose.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::DEADLINE;

/// Clients that come one after the other, on several threads, until it is ended.
pub(crate) struct Load {
    over: &'static AtomicBool,
    clients: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    pub(crate) fn start(address: &str) -> Self {
        let over: &AtomicBool = Box::leak(Box::default());
        let clients = (0..4).map(|_| {
            let address = address.to_owned();
            thread::spawn(move || {
                let (mut answered, mut lost) = (0, Vec::new());
                while !over.load(Ordering::Relaxed) {
                    match ask(&address) {
                        Ok(_) => answered += 1,
                        Err(error) => lost.push(error.to_string()),
                    }
                }
                (answered, lost)
            })
        });
        Self { over, clients: clients.collect() }
    }

    /// How many were answered; none was lost.
    pub(crate) fn end(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        let results = self.clients.into_iter().map(|client| client.join().expect("it does not panic"));
        let results: Vec<_> = results.collect();
        let lost: Vec<_> = results.iter().flat_map(|(_, lost)| lost).collect();
        assert!(lost.is_empty(), "{lost:?}");
        results.iter().map(|(answered, _)| answered).sum()
    }
}

/// What one client of a connection of its own is answered.
pub(crate) fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"who\n")?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}
