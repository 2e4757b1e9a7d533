//! Clients: each makes one connection after the other, and counts the answers and the losses.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::service::ASK;

/// How long a client waits for an answer: after that no process serves its connection.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many errors a tally keeps.
const MAX_ERRORS: usize = 5;

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// How many connections each process has answered.
    pub(crate) answered: HashMap<i32, u64>,
    /// Who answered last.
    pub(crate) last: Option<i32>,
    /// How many were not answered in full, and what came of the first of them.
    pub(crate) lost: u64,
    pub(crate) errors: Vec<String>,
    /// Of those, how many were refused.
    pub(crate) refused: u64,
    /// The longest that an answer took.
    pub(crate) worst: Duration,
}

impl Tally {
    pub(crate) fn answered_by(&self, process: i32) -> u64 {
        self.answered.get(&process).copied().unwrap_or(0)
    }

    pub(crate) fn answers(&self) -> u64 {
        self.answered.values().sum()
    }
}

pub(crate) struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    pause: Arc<AtomicBool>,
    clients: Vec<Client>,
}

struct Client {
    thread: JoinHandle<()>,
    /// How many connections it has begun.
    begun: Arc<AtomicU64>,
    /// It has seen that it is to pause.
    pauses: Arc<AtomicBool>,
}

impl Load {
    /// So many clients, each of which makes a connection every `pace`, or whenever the last one is over if that is later.
    pub(crate) fn start(address: SocketAddr, clients: usize, pace: Duration) -> Self {
        let tally = Arc::<Mutex<Tally>>::default();
        let [stop, pause] = [(); 2].map(|()| Arc::<AtomicBool>::default());
        let client = |_| {
            let (tally, stop, pause) = (tally.clone(), stop.clone(), pause.clone());
            let begun = Arc::<AtomicU64>::default();
            let pauses = Arc::<AtomicBool>::default();
            let (count, is_pausing) = (begun.clone(), pauses.clone());
            let thread = thread::spawn(move || {
                let mut due = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    is_pausing.store(pause.load(Ordering::Relaxed), Ordering::Relaxed);
                    if is_pausing.load(Ordering::Relaxed) {
                        thread::sleep(pace);
                        continue;
                    }
                    let began = Instant::now();
                    count.fetch_add(1, Ordering::Relaxed);
                    let result = ask(address);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.worst = tally.worst.max(began.elapsed());
                    match result {
                        Ok(pid) => {
                            *tally.answered.entry(pid).or_default() += 1;
                            tally.last = Some(pid);
                        }
                        Err(error) => {
                            tally.refused += u64::from(error.kind() == io::ErrorKind::ConnectionRefused);
                            tally.lost += 1;
                            if tally.errors.len() < MAX_ERRORS {
                                tally.errors.push(error.to_string());
                            }
                        }
                    }
                    drop(tally);
                    due = (due + pace).max(began);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            });
            Client { thread, begun, pauses }
        };
        let clients = (0..clients).map(client).collect();
        Self { tally, stop, pause, clients }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The longest that an answer took since the last call.
    pub(crate) fn take_worst(&self) -> Duration {
        std::mem::take(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner).worst)
    }

    /// How many connections each client has begun.
    pub(crate) fn begun(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.begun.load(Ordering::Relaxed)).collect()
    }

    /// Has the clients make no connection for a while, or go on.
    pub(crate) fn pause(&self, pause: bool) {
        self.pause.store(pause, Ordering::Relaxed);
    }

    /// Whether none has a connection.
    pub(crate) fn is_paused(&self) -> bool {
        self.clients.iter().all(|client| client.pauses.load(Ordering::Relaxed))
    }

    /// Says that no further connection is to be made. Those that are open are finished.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.clients.iter().all(|client| client.thread.is_finished())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
        for client in self.clients.drain(..) {
            client.thread.join().expect("a client takes down what happens to it");
        }
    }
}

/// Makes a connection; returns who has answered it.
fn ask(address: SocketAddr) -> io::Result<i32> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&[ASK])?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let pid = answer.strip_suffix('\n').and_then(|answer| answer.split_once(' ')?.1.parse().ok());
    pid.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, format!("half an answer: {answer:?}")))
}
