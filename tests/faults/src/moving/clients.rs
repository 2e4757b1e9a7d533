//! The clients of connections that move. Each has one connection, and takes down what happens to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::service::LINES;
use crate::service::lines::{GOODBYE, LONG};

/// How long a client waits for an answer. After that no process serves its connection.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a client looks whether the next stage has begun.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How many lines a client sends at the begin of a stage.
const LINES_OF_STAGE: usize = 3;
/// The stage of the end.
const LAST: usize = usize::MAX;

/// What a client does in a stage.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    /// Nothing.
    Idle,
    /// Half of a line is under way.
    Half,
    /// One line after the other.
    Busy,
    /// Several lines at once, one time after the other.
    Pipelined,
    /// Nothing, and the state of its connection is long.
    Long,
}

pub(super) const MANNERS: [Manner; 8] = [
    Manner::Idle,
    Manner::Half,
    Manner::Busy,
    Manner::Pipelined,
    Manner::Long,
    Manner::Idle,
    Manner::Half,
    Manner::Busy,
];

/// What a client has seen.
#[derive(Debug)]
pub(crate) struct Story {
    /// The port of the client.
    pub(crate) port: u16,
    /// Who has answered, in order.
    pub(crate) answered: Vec<i32>,
    /// The last stage of which it has every answer.
    pub(crate) stage: usize,
    pub(crate) end: End,
}

#[derive(Debug)]
pub(crate) enum End {
    /// This process said goodbye when it was told to stop at the end of the scene.
    Stopped(i32),
    /// This process said goodbye before.
    Goodbye(i32),
    /// The connection was closed without a goodbye.
    Cut,
    /// What no client may see.
    Wrong(String),
}

pub(crate) struct Clients {
    stage: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Story>>,
    ports: Vec<u16>,
    /// The stage that each has done, `LAST` if its connection is over.
    done: Vec<Arc<AtomicUsize>>,
}

impl Clients {
    /// Connects each, and begins.
    pub(crate) fn start(address: SocketAddr, manners: &[Manner]) -> Self {
        let stage = Arc::<AtomicUsize>::default();
        let mut done = Vec::new();
        let (mut threads, mut ports) = (Vec::new(), Vec::new());
        for manner in manners.iter().copied() {
            let mark = Arc::<AtomicUsize>::default();
            done.push(mark.clone());
            let stage = stage.clone();
            let mut client = Client::connect(address).expect("the service listens");
            ports.push(client.port);
            threads.push(thread::spawn(move || {
                let end = client.play(manner, &stage, &mark);
                let stage = mark.swap(LAST, Ordering::AcqRel);
                Story { stage, port: client.port, answered: client.answered, end }
            }));
        }
        let clients = Self { stage, threads, ports, done };
        clients.begin(1);
        clients
    }

    /// Begins a stage: each client sends some lines.
    pub(crate) fn begin(&self, stage: usize) {
        self.stage.store(stage, Ordering::Release);
    }

    /// From now on each waits for the end of its connection.
    pub(crate) fn finish(&self) {
        self.begin(LAST);
    }

    /// Whether each has the answers of this stage, or its connection is over.
    pub(crate) fn have_done(&self, stage: usize) -> bool {
        self.done.iter().all(|done| done.load(Ordering::Acquire) >= stage)
    }

    pub(crate) fn are_over(&self) -> bool {
        self.have_done(LAST)
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.done.iter().filter(|done| done.load(Ordering::Acquire) < LAST).count()
    }

    /// The ports of the clients.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().copied()
    }

    pub(crate) fn stories(self) -> Vec<Story> {
        let story =
            |thread: JoinHandle<Story>| thread.join().expect("a client takes down what happens to it");
        self.threads.into_iter().map(story).collect()
    }
}

struct Client {
    stream: BufReader<TcpStream>,
    port: u16,
    /// How many answers it has.
    count: u64,
    answered: Vec<i32>,
}

impl Client {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[LINES])?;
        let port = stream.local_addr()?.port();
        Ok(Self { stream: BufReader::new(stream), port, count: 0, answered: Vec::new() })
    }

    /// Plays each stage, to the end of the connection.
    fn play(&mut self, manner: Manner, stage: &AtomicUsize, done: &AtomicUsize) -> End {
        let begins = |after| {
            let now = stage.load(Ordering::Acquire);
            (now > after).then_some(now)
        };
        let mut now = 0;
        loop {
            let next = match self.wait(manner, || begins(now)) {
                Ok(next) => next,
                Err(end) => return end,
            };
            now = next;
            if now == LAST {
                return self.wait_for_goodbye();
            }
            let text = if matches!(manner, Manner::Long) { LONG } else { "line" };
            for number in 0..LINES_OF_STAGE {
                if let Err(end) = self.exchange(&format!("{text} {now}.{number}")) {
                    return end;
                }
            }
            done.store(now, Ordering::Release);
        }
    }

    /// Behaves in its manner until the next stage begins.
    fn wait(&mut self, manner: Manner, begins: impl Fn() -> Option<usize>) -> Result<usize, End> {
        if matches!(manner, Manner::Half) {
            self.send("ha");
        }
        let next = loop {
            if let Some(next) = begins() {
                break next;
            }
            match manner {
                Manner::Idle | Manner::Half | Manner::Long => {}
                Manner::Busy => self.exchange("busy")?,
                Manner::Pipelined => {
                    self.send("one\ntwo\nthree\n");
                    ["one", "two", "three"].iter().try_for_each(|text| self.answer(text))?;
                }
            }
            thread::sleep(LOOK_EVERY);
        };
        if matches!(manner, Manner::Half) {
            self.send("lf\n");
            self.answer("half")?;
        }
        Ok(next)
    }

    fn exchange(&mut self, text: &str) -> Result<(), End> {
        self.send(&format!("{text}\n"));
        self.answer(text)
    }

    fn send(&mut self, text: &str) {
        match self.stream.get_mut().write_all(text.as_bytes()) {
            // A connection that was closed says why to whoever reads it.
            Ok(()) | Err(_) => {}
        }
    }

    fn answer(&mut self, text: &str) -> Result<(), End> {
        let (process, rest) = self.line()?;
        if rest == GOODBYE {
            return Err(self.end().map_or_else(|end| end, |()| End::Goodbye(process)));
        }
        self.count += 1;
        if rest != format!("{} {text}", self.count) {
            return Err(End::Wrong(format!("`{rest}` of {process} for line {} `{text}`", self.count)));
        }
        if self.answered.last() != Some(&process) {
            self.answered.push(process);
        }
        Ok(())
    }

    fn wait_for_goodbye(&mut self) -> End {
        let (process, rest) = match self.line() {
            Ok(line) => line,
            Err(end) => return end,
        };
        if rest != GOODBYE {
            return End::Wrong(format!("`{rest}` of {process} though nothing was asked"));
        }
        self.end().map_or_else(|end| end, |()| End::Stopped(process))
    }

    /// The next line: who says it, and what.
    fn line(&mut self) -> Result<(i32, String), End> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Err(error) if is_timeout(&error) => {
                let (port, count) = (self.port, self.count);
                return Err(End::Wrong(format!(
                    "no answer on port {port} within {PATIENCE:?}, after {count} of {:?}",
                    self.answered
                )));
            }
            Ok(0) | Err(_) => return Err(End::Cut),
            Ok(_) => {}
        }
        let parsed = line.strip_suffix('\n').and_then(|line| {
            let (process, rest) = line.split_once(' ')?;
            Some((process.parse().ok()?, rest.to_owned()))
        });
        parsed.ok_or_else(|| End::Wrong(format!("half a line: {line:?}")))
    }

    /// The end of the connection is next.
    fn end(&mut self) -> Result<(), End> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if is_timeout(&error) => {
                Err(End::Wrong("the connection goes on after a goodbye".to_owned()))
            }
            // A line that crossed the goodbye resets the connection.
            Ok(_) | Err(_) if rest.is_empty() => Ok(()),
            Ok(_) | Err(_) => {
                let rest = String::from_utf8_lossy(&rest);
                Err(End::Wrong(format!("after a goodbye comes {rest:?}")))
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
