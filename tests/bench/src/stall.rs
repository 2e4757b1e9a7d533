//! How long a thread stands still while another thread of its process starts a process.
//!
//! The thread reads the clock without pause, and writes to pages: to those of the heap, which a fork turns into
//! copies, and to fresh ones, for which it needs the lock of the address space that a fork holds. The largest gap
//! between two readings is the stall. On a machine that does other work as well a thread is also preempted, so the
//! gaps in which the kernel counted no preemption are told apart, getrusage(2).

use std::fmt;
use std::io::{self, copy, sink};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use tableflip::Upgrader;

use crate::Result;
use crate::options::Options;
use crate::process::{self, Service};
use crate::report::{Row, SUMMARY, Section, Target, progress};
use crate::stats::{Summary, milliseconds, summarize};

const PAGE: usize = 4096;
/// Room for one fresh page per [`STRIDE`] readings over some hundred milliseconds.
const FRESH: usize = 256 << 20;
/// After how many readings a fresh page is touched: about every ten microseconds.
const STRIDE: usize = 64;
/// A gap that is worth a look at the count of preemptions.
const NOTABLE: Duration = Duration::from_micros(5);

/// How a process is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By an upgrade, up to the end of its probation.
    Upgrade,
    /// By fork(2) and exec, as `std::process::Command` does it with a `pre_exec`.
    Fork,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Fork => "fork",
        }
    }
}

impl FromStr for How {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let all = [Self::Upgrade, Self::Fork];
        all.into_iter().find(|how| how.name() == text).ok_or_else(|| format!("no such way to start: {text}"))
    }
}

/// The largest gaps of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stall {
    pub(crate) any: Duration,
    /// Of those in which the thread was not preempted.
    pub(crate) unpreempted: Duration,
    pub(crate) window: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.any.as_nanos(), self.unpreempted.as_nanos(), self.window.as_nanos())
    }
}

impl FromStr for Stall {
    type Err = Box<dyn std::error::Error>;

    fn from_str(line: &str) -> Result<Self> {
        let durations = line.split(' ').map(|nanos| nanos.parse().map(Duration::from_nanos));
        match durations.collect::<std::result::Result<Vec<_>, _>>()?[..] {
            [any, unpreempted, window] => Ok(Self { any, unpreempted, window }),
            _ => Err(format!("not a stall: `{line}`").into()),
        }
    }
}

/// The memory that the watched thread writes to.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Every page of it has been touched.
    heap: Vec<u8>,
    /// None of it has.
    fresh: Vec<u8>,
}

impl Watch {
    pub(crate) fn new(mebibytes: usize) -> Self {
        Self { heap: vec![1; (mebibytes << 20).max(PAGE)], fresh: vec![0; FRESH] }
    }

    /// The stall of a thread while a process is started, that of a quiet time just as long after it, and the
    /// successor, if it was one that was started.
    pub(crate) fn during(&mut self, how: How, upgrader: &Upgrader) -> Result<(Stall, Stall, Option<u32>)> {
        let mut fresh = self.fresh.chunks_exact_mut(PAGE);
        let (stall, successor) = watch(&mut self.heap, &mut fresh, || match how {
            How::Upgrade => Ok(Some(upgrader.upgrade_blocking()?.pid)),
            How::Fork => fork_and_exec().map(|()| None),
        })?;
        let (quiet, ()) = watch(&mut self.heap, &mut fresh, || {
            thread::sleep(stall.window);
            Ok(())
        })?;
        Ok((stall, quiet, successor))
    }
}

#[allow(unsafe_code)]
fn fork_and_exec() -> Result<()> {
    let mut command = process::this_program()?;
    command.arg(process::EMPTY).stdout(Stdio::null());
    // SAFETY: the closure does nothing.
    unsafe { command.pre_exec(|| Ok(())) };
    let mut child = command.spawn()?;
    child.wait()?;
    Ok(())
}

/// Watches a thread while `work` is done by this one.
fn watch<'a, T>(
    heap: &mut [u8],
    fresh: &mut (impl Iterator<Item = &'a mut [u8]> + Send),
    work: impl FnOnce() -> Result<T>,
) -> Result<(Stall, T)> {
    let stop = AtomicBool::new(false);
    let (running, runs) = mpsc::channel();
    thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut place = 0;
            // The first round brings in what the loop itself needs.
            gaps(heap, &mut place, fresh, |readings| readings < 1000)?;
            match running.send(()) {
                Ok(()) | Err(_) => {}
            }
            gaps(heap, &mut place, fresh, |_| !stop.load(Ordering::Relaxed))
        });
        // Without an answer the thread has ended, and says why below.
        match runs.recv() {
            Ok(()) | Err(_) => {}
        }
        let begun = Instant::now();
        let worked = work();
        let window = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        let stall = watched.join().map_err(|_| "the watched thread panicked")??;
        Ok((Stall { window, ..stall }, worked?))
    })
}

/// Reads the clock and writes to memory while `go_on` says so.
fn gaps<'a>(
    heap: &mut [u8],
    place: &mut usize,
    fresh: &mut impl Iterator<Item = &'a mut [u8]>,
    go_on: impl Fn(usize) -> bool,
) -> io::Result<Stall> {
    let mut stall = Stall::default();
    let mut preemptions = preemptions()?;
    let mut last = Instant::now();
    let mut readings = 0;
    while go_on(readings) {
        readings += 1;
        // A step that is prime to any size of heap, and so large that no prefetcher foresees it.
        *place = (*place + 1_000_003 * PAGE) % heap.len();
        heap[*place] = heap[*place].wrapping_add(1);
        if readings % STRIDE == 0
            && let Some(page) = fresh.next()
        {
            page[0] = 1;
        }
        let now = Instant::now();
        let gap = now - last;
        last = now;
        if gap > NOTABLE {
            let before = std::mem::replace(&mut preemptions, self::preemptions()?);
            stall.any = stall.any.max(gap);
            if preemptions == before {
                stall.unpreempted = stall.unpreempted.max(gap);
            }
            last = Instant::now();
        }
    }
    Ok(stall)
}

/// How often the kernel has taken the processor from this thread.
fn preemptions() -> io::Result<i64> {
    Ok(getrusage(UsageWho::RUSAGE_THREAD)?.involuntary_context_switches())
}

/// The stalls of one kind of process, round by round.
#[derive(Default)]
struct Series {
    stalls: Vec<Stall>,
    quiet: Vec<Stall>,
}

impl Series {
    fn add(&mut self, gibibytes: usize, how: How) -> Result<()> {
        let mut service = Service::start(&["stall", &(gibibytes << 10).to_string(), how.name()])?;
        // An upgrade is refused before the service is ready: it is, once it has closed this connection.
        copy(&mut TcpStream::connect(service.address())?, &mut sink())?;
        service.tell("begin")?;
        self.stalls.push(service.hear()?.parse()?);
        self.quiet.push(service.hear()?.parse()?);
        if how == How::Upgrade {
            let successor = service.hear()?.parse()?;
            service.follow(successor)?;
        }
        Ok(())
    }

    fn stalls_of(&self, of: fn(&Stall) -> Duration) -> Summary {
        milliseconds(self.stalls.iter().map(of))
    }

    fn quiet_time(&self) -> Summary {
        milliseconds(self.quiet.iter().map(|stall| stall.unpreempted))
    }

    fn rows(&self, what: &str) -> Vec<Row> {
        vec![
            Row::milliseconds(what, self.stalls_of(|stall| stall.unpreempted)),
            Row::milliseconds("… preempted or not", self.stalls_of(|stall| stall.any)),
            Row::milliseconds("… in a quiet time as long", self.quiet_time()),
            Row::milliseconds("… the time that was watched", self.stalls_of(|stall| stall.window)),
        ]
    }
}

pub(crate) fn measure(options: &Options) -> Result<Section> {
    let gibibytes = options.heap_gib;
    // Each one builds a heap.
    let rounds = options.rounds.div_ceil(3);
    let (mut empty, mut full, mut forked) = (Series::default(), Series::default(), Series::default());
    for round in 1..=rounds {
        progress("round", round, rounds);
        empty.add(0, How::Upgrade)?;
        full.add(gibibytes, How::Upgrade)?;
        forked.add(gibibytes, How::Fork)?;
    }

    let beyond = |series: &Series| {
        let millis = |stall: &Stall| stall.unpreempted.as_secs_f64() * 1e3;
        summarize(series.stalls.iter().zip(&empty.stalls).map(|(stall, empty)| millis(stall) - millis(empty)))
    };
    // What a quiet thread shows is not the doing of an upgrade.
    let noise = empty.stalls_of(|stall| stall.unpreempted).high.max(full.quiet_time().high);
    let met = full.stalls_of(|stall| stall.unpreempted).median <= noise;
    let target = Target { text: "in the noise of an empty heap".to_owned(), met };
    let mut rows = empty.rows("upgrade, empty heap");
    rows.extend(full.rows(&format!("upgrade, {gibibytes} GiB touched")));
    rows.push(Row::milliseconds("… beyond an empty heap", beyond(&full)).with_target(target));
    rows.extend(forked.rows(&format!("fork and exec, {gibibytes} GiB touched")));
    rows.push(Row::milliseconds("… beyond an empty heap", beyond(&forked)));
    Ok(Section {
        title: "Stall of another thread",
        about: format!(
            "The largest time, in ms, in which a thread that reads the clock and writes to its heap and to fresh pages \
             made no step, and was not preempted, while its process was upgraded; {rounds} rounds, each with new \
             processes. Transparent huge pages: {}.",
            crate::machine::huge_pages()
        ),
        headings: SUMMARY,
        rows,
    })
}
