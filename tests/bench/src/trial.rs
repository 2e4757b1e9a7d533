//! A release that answers 500 to everything, against a probe and a verification; and reverts under load.

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tableflip::net::TcpListener;
use tableflip::status::Phase;
use tableflip::{Service as Tableflip, Shutdown, Upgrader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock;
use crate::options::Options;
use crate::process::{PATIENCE, Service, VERIFY};
use crate::report::{Row, SUMMARY, Section, Target, progress};
use crate::service::{ANY_PORT, announce};
use crate::stats::milliseconds;
use crate::{Result, flavor::DEFAULT};

/// How many requests a second the clients send together, over a connection each.
const RATE: u64 = 2000;
const CLIENTS: u64 = 4;
/// The longest answer of the service.
const MAX_ANSWER: usize = 256;
/// Longer than any verification takes.
const PROBATION: Duration = Duration::from_secs(60);

/// How the old process finds out that the release is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Probe,
    Verify,
    /// It does not: the release is good, and the service reverts it.
    Revert,
}

impl Guard {
    const ALL: [Self; 3] = [Self::Probe, Self::Verify, Self::Revert];

    fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Verify => "verify",
            Self::Revert => "revert",
        }
    }
}

/// The service. Its first process serves on, whatever becomes of its successors, and upgrades for each line that it reads.
pub(crate) fn service(guard: &str, stamps: &str) -> Result<ExitCode> {
    let guard = Guard::ALL.into_iter().find(|it| it.name() == guard).ok_or("no such guard")?;
    let service = Tableflip::new()
        .flavor(tableflip::Flavor::from(DEFAULT.parse::<crate::flavor::Flavor>()?))
        .listen("http", ANY_PORT)
        .probation(PROBATION);
    let service = match guard {
        Guard::Probe => service.probe("GET /"),
        Guard::Verify => {
            let program = std::env::current_exe()?;
            service.verify(format!("exec '{}' {VERIFY} '{stamps}'", program.display()))
        }
        Guard::Revert => service,
    };
    Ok(service.run(move |start| {
        let (upgrader, shutdown): (Upgrader, Shutdown) = (start.handle()?, start.handle()?);
        let listener: TcpListener = start.listener("http")?;
        if !upgrader.has_predecessor() {
            let (upgrader, held) = (upgrader.clone(), shutdown.guard());
            thread::spawn(move || {
                let _held = held;
                for _line in io::stdin().lock().lines().map_while(std::result::Result::ok) {
                    println!("{}", try_a_release(&upgrader, guard));
                }
                upgrader.stop();
            });
        }
        Ok(serve(listener, upgrader, guard))
    }))
}

async fn serve(listener: TcpListener, upgrader: Upgrader, guard: Guard) -> io::Result<()> {
    announce(listener.local_addr()?, &upgrader);
    let is_bad = guard != Guard::Revert && upgrader.has_predecessor();
    let status = if is_bad { "500 Internal Server Error" } else { "200 OK" };
    loop {
        let (mut stream, _) = listener.accept().await?;
        let accepted = clock::now().as_nanos();
        tokio::spawn(async move {
            let mut request = [0; MAX_ANSWER];
            let _length = stream.read(&mut request).await?;
            let body = accepted.to_string();
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            stream.write_all((head + &body).as_bytes()).await
        });
    }
}

/// Upgrades, and returns once this process serves again and its successor is gone. The answer is the time of the revert, or the
/// reason of the failure.
fn try_a_release(upgrader: &Upgrader, guard: Guard) -> String {
    let outcome = thread::scope(|scope| {
        let upgrade = scope.spawn(|| upgrader.upgrade_blocking());
        if guard == Guard::Revert {
            while upgrader.status_blocking().phase != Phase::Standby && !upgrade.is_finished() {}
            return match upgrader.revert_blocking() {
                Ok(reverted) => reverted.elapsed.as_nanos().to_string(),
                Err(error) => format!("no revert: {error}"),
            };
        }
        match upgrade.join() {
            Ok(Ok(_)) => "upgraded".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "panicked".to_owned(),
        }
    });
    while upgrader.status_blocking().successor.is_some() {}
    outcome
}

/// One run of the verification: asks the service once, and fails if the answer is no 200. It leaves the times of its begin and end.
pub(crate) fn verify(stamps: &Path, began: Duration) -> Result<ExitCode> {
    let address = std::env::var("TABLEFLIP_ADDRESS_HTTP")?.parse()?;
    let answer = ask(address)?;
    fs::write(stamps, format!("{} {}", began.as_nanos(), clock::now().as_nanos()))?;
    println!("it answers {}", if answer.is_good { 200 } else { 500 });
    Ok(ExitCode::from(u8::from(!answer.is_good)))
}

struct Answer {
    is_good: bool,
    /// When the service accepted the connection.
    accepted: Duration,
}

fn ask(address: SocketAddr) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split("\r\n\r\n").nth(1).ok_or("the answer is cut")?;
    let accepted = Duration::from_nanos(body.parse()?);
    Ok(Answer { is_good: answer.starts_with("HTTP/1.1 200 "), accepted })
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    answered: usize,
    lost: Vec<String>,
    /// When the first bad answer was accepted, and when the last one arrived.
    bad: usize,
    first_bad: Option<Duration>,
    last_bad: Option<Duration>,
}

/// Clients that ask at [`RATE`] until they are told to end.
struct Load<'a> {
    over: &'a AtomicBool,
    seen: &'a Mutex<Seen>,
}

impl Load<'_> {
    fn run(&self, address: SocketAddr, number: u64) {
        let pause = Duration::from_nanos(1_000_000_000 * CLIENTS / RATE);
        let mut next = Instant::now() + pause * number as u32 / CLIENTS as u32;
        while !self.over.load(Ordering::Relaxed) {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next += pause;
            let answer = ask(address);
            let now = clock::now();
            let Ok(mut seen) = self.seen.lock() else { return };
            match answer {
                Ok(Answer { is_good: true, .. }) => seen.answered += 1,
                Ok(Answer { accepted, .. }) => {
                    seen.bad += 1;
                    seen.first_bad = Some(seen.first_bad.map_or(accepted, |first| first.min(accepted)));
                    seen.last_bad = Some(now);
                }
                Err(error) => seen.lost.push(error.to_string()),
            }
        }
    }
}

/// What a series of upgrades to a release has cost.
#[derive(Default)]
struct Series {
    answered: usize,
    bad: usize,
    lost: usize,
    /// Of each upgrade, where it applies.
    begins: Vec<Duration>,
    ends: Vec<Duration>,
    reverts: Vec<Duration>,
}

fn measure_guard(guard: Guard, upgrades: usize) -> Result<Series> {
    let directory = tempfile::tempdir()?;
    let stamps: PathBuf = directory.path().join("stamps");
    let mut service = Service::start(&["trial", guard.name(), &stamps.to_string_lossy()])?;
    let address = service.address();
    let mut series = Series::default();
    let (over, seen) = (AtomicBool::new(false), Mutex::new(Seen::default()));
    thread::scope(|scope| -> Result<()> {
        for number in 0..CLIENTS {
            let load = Load { over: &over, seen: &seen };
            scope.spawn(move || load.run(address, number));
        }
        let measured = (1..=upgrades).try_for_each(|upgrade| -> Result<()> {
            progress(guard.name(), upgrade, upgrades);
            service.tell("upgrade")?;
            let outcome = service.hear()?;
            let mut seen = seen.lock().map_err(|_| "a client panicked")?;
            series.add(guard, &outcome, std::mem::take(&mut *seen), &stamps)
        });
        over.store(true, Ordering::Relaxed);
        measured
    })?;
    Ok(series)
}

impl Series {
    fn add(&mut self, guard: Guard, outcome: &str, seen: Seen, stamps: &Path) -> Result<()> {
        self.answered += seen.answered;
        self.bad += seen.bad;
        self.lost += seen.lost.len();
        if let Some(lost) = seen.lost.first() {
            eprintln!("bench: a request was lost: {lost}");
        }
        let has_worked = match guard {
            Guard::Probe => outcome.contains("failed the probe"),
            Guard::Verify => {
                outcome.contains("failed the verification") && outcome.contains("it answers 500")
            }
            Guard::Revert => true,
        };
        if !has_worked {
            return Err(format!("an upgrade ended otherwise: {outcome}").into());
        }
        match guard {
            Guard::Probe => {}
            Guard::Revert => self.reverts.push(Duration::from_nanos(outcome.parse().map_err(|_| outcome)?)),
            Guard::Verify => {
                let stamps = fs::read_to_string(stamps)?;
                let (began, ended) = stamps.split_once(' ').ok_or("no stamps")?;
                let stamp =
                    |text: &str| Ok::<_, std::num::ParseIntError>(Duration::from_nanos(text.parse()?));
                let (began, ended) = (stamp(began)?, stamp(ended)?);
                // The first answer comes after ACTIVE, so this is a bit less than the time since then.
                if let Some(first) = seen.first_bad {
                    self.begins.push(began.saturating_sub(first));
                }
                self.ends.push(seen.last_bad.map_or(Duration::ZERO, |last| last.saturating_sub(ended)));
            }
        }
        Ok(())
    }

    fn longest(of: &[Duration]) -> f64 {
        of.iter().max().map_or(0.0, |longest| longest.as_secs_f64() * 1e3)
    }
}

pub(crate) fn measure(options: &Options) -> Result<Section> {
    let upgrades = options.upgrades;
    let probe = measure_guard(Guard::Probe, upgrades)?;
    let verify = measure_guard(Guard::Verify, upgrades)?;
    let revert = measure_guard(Guard::Revert, upgrades)?;

    let none = |what: &str, count: usize| {
        let target = Target { text: "0".to_owned(), met: count == 0 };
        Row::count(what, count).with_target(target)
    };
    let timed = |what: &str, times: &[Duration], limit: f64| {
        let summary = milliseconds(times.iter().copied());
        let what = format!("{what}; at most {:.1} ms", Series::longest(times));
        Row::milliseconds(what, summary).with_target(Target::below_milliseconds(limit, summary.median))
    };
    Ok(Section {
        title: "A release that answers 500, and reverts",
        about: format!(
            "A service under {RATE} requests a second, each over a connection of its own. For each row of `probe` and `verify` it was \
             upgraded {upgrades} times to a release that answers 500 to everything; for each row of `revert`, {upgrades} times to a good \
             one, which was reverted once it served.",
        ),
        headings: SUMMARY,
        rows: vec![
            none("probe: bad answers", probe.bad),
            none("probe: lost requests", probe.lost),
            Row::count("probe: good answers", probe.answered),
            timed("verify: first bad accept to the begin of the first run", &verify.begins, 5.0),
            timed("verify: end of the run to the last bad answer", &verify.ends, 50.0),
            Row::count("verify: bad answers", verify.bad),
            none("verify: lost requests", verify.lost),
            none("revert: lost requests", revert.lost),
            Row::count("revert: answers", revert.answered),
            timed("revert: request to the moment the old process serves", &revert.reverts, 50.0),
        ],
    })
}
