//! What the engine's thread and the body share.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::address::{Address, Place};
use crate::base::error::{StartError, UpgradeError};
use crate::base::limits::no_thread;
use crate::base::report::{Who, panic_message, printable};
use crate::base::returned::BodyEnd;
use crate::base::status::Status;
use crate::base::sync::primitives::{AtomicBool, AtomicUsize};
use crate::base::sync::{Latch, Pulse};
use crate::base::unadopted::Unadopted;
#[cfg(upgrades)]
use crate::between::gate_control::ControlSocket;
use crate::between::gate_control::GateControl;
use crate::outside::sockets::{self, BoundSocket};
#[cfg(upgrades)]
use crate::outside::systemd::Manager;
use crate::sys::fd::OwnedFd;
use crate::sys::wake::Wake;

/// What the start and the body say to the engine.
pub(crate) enum Note {
    /// The control socket is bound.
    #[cfg(upgrades)]
    Control { held: Box<BoundSocket>, control: Arc<dyn ControlSocket> },
    /// The start is through: the body runs next.
    Prepared(Box<Prepared>),
    /// The start fails before the body runs.
    StartFailed { reason: String },
    /// `Ready::notify`.
    Ready,
    /// `Ready` was dropped without it.
    ReadyDropped,
    /// The body returned or panicked.
    BodyReturned(BodyEnd),
    /// `Upgrader::upgrade`.
    Upgrade(Arc<Reply>),
    /// `Upgrader::stop`.
    Stop,
    /// The same at the control socket.
    #[cfg(upgrades)]
    StopService,
    /// The runtime of the body runs: the answer to a [`Pulse`].
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "there is no runtime"))]
    Alive,
    /// `Upgrader::status`.
    Status(Arc<Latch<Status>>),
    /// A listener that is declared and open, or one of `Listeners`, whose place in the predecessor's offer is `adopted`.
    Listener {
        /// `None` for one that is declared, which the engine has.
        held: Option<Box<BoundSocket>>,
        gates: Vec<Arc<dyn GateControl>>,
        adopted: Option<usize>,
    },
}

/// What the start has made, for the engine.
pub(crate) struct Prepared {
    /// The gates of the managed listeners that the body has taken.
    pub(crate) gates: Vec<Arc<dyn GateControl>>,
    /// Whether the body says itself when it is ready.
    pub(crate) manual_ready: bool,
    pub(crate) inherited: Inheritance,
}

/// What a start has got of the predecessor and of the service manager.
#[derive(Default)]
#[cfg(upgrades)]
pub(crate) struct Inheritance {
    /// Which of the sockets that the predecessor offered were adopted.
    pub(crate) adopted: Vec<usize>,
    pub(crate) manager: Option<Manager>,
    /// The names and addresses of the listeners that the predecessor has offered, and may have had stored.
    pub(crate) stored: Vec<(String, String)>,
    /// What the start had to do without.
    pub(crate) warnings: Vec<String>,
}

/// A start gets nothing where a process cannot be upgraded.
#[cfg(not(upgrades))]
#[derive(Default)]
pub(crate) struct Inheritance;

/// How an upgrade ended, for those who wait for it.
pub(crate) type Reply = Latch<Result<Upgraded, UpgradeError>>;

/// A successor that serves and has passed its probation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upgraded {
    /// The generation of the successor.
    pub generation: u64,
    /// Its process ID.
    pub pid: u32,
    /// From the request to the successor serving, without the probation.
    pub elapsed: Duration,
    /// What the service has lost by the upgrade, in words: a listener or a pid file that the successor does not declare, a name
    /// that has changed.
    pub warnings: Vec<String>,
}

/// How a process is to end, as the engine decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Success,
    /// The start failed, or the service is down. A body that returns then has done so because its listeners have ended.
    Failure,
    /// The start failed, because the body had ended before it was ready: its status is that of the process.
    OfBody,
}

/// Starts a thread whose work is yet to be made, and that the returned function gives it. Dropped, that ends the thread.
///
/// What cannot be started for want of a thread therefore still has all that it needs to say so.
pub(crate) fn start_thread<W: Send + 'static>(
    builder: thread::Builder,
    run: fn(W),
) -> Result<impl FnOnce(W), StartError> {
    let (give, take) = mpsc::channel();
    let work = move || {
        if let Ok(work) = take.recv() {
            run(work);
        }
    };
    builder.spawn(work).map_err(no_thread).map_err(StartError::system("start a thread"))?;
    Ok(move |work| give.send(work).expect("the thread waits for it"))
}

/// What a body that takes `Listeners` may still take or adopt, until it is ready.
#[derive(Default)]
pub(crate) struct Pool {
    /// What was declared and nobody has taken.
    pub(crate) declared: Vec<BoundSocket>,
    /// What came with this process and is not declared.
    pub(crate) unadopted: VecDeque<Unadopted>,
    /// The names and the addresses that are in use.
    pub(crate) used: Vec<(String, Address)>,
}

/// What is posted for the engine, until it has ended.
enum Inbox {
    Open(Vec<Note>),
    Closed(Arc<Last>),
}

/// What is answered in the place of an engine that has ended.
struct Last {
    refusal: UpgradeError,
    status: Status,
}

impl Last {
    /// Without the lock of the inbox: what it says may come to a subscriber that asks something as well.
    fn answer(&self, note: Note, shared: &Shared) {
        match note {
            Note::Upgrade(reply) => reply.set(Err(self.refusal.clone())),
            Note::Status(reply) => reply.set(self.status.clone()),
            Note::Listener { held, gates, .. } => {
                sockets::forget(held.map(|held| *held).as_slice(), shared.who());
                retire(&gates);
            }
            #[cfg(upgrades)]
            Note::Control { held, control } => {
                sockets::forget(&[*held], shared.who());
                control.end();
            }
            // A body that runs all the same is not to wait at them for ever.
            Note::Prepared(prepared) => retire(&prepared.gates),
            // Nobody waits for what becomes of these.
            _ => {}
        }
    }
}

/// Closes the listeners of a body that the engine never had.
fn retire(gates: &[Arc<dyn GateControl>]) {
    gates.iter().for_each(|gate| _ = gate.retire(Instant::now()));
}

pub(crate) struct Shared {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// When this process, or this service of a test, began.
    pub(crate) began: Instant,
    wake: Wake,
    inbox: Mutex<Inbox>,
    /// How many threads bind a socket at a path that the engine does not know yet.
    binding: Mutex<usize>,
    bound: Condvar,
    /// How many streams and guards are open.
    counted: AtomicUsize,
    /// `None` once the service is ready, or if its body does not take `Listeners`.
    pool: Mutex<Option<Pool>>,
    /// What the next successor gets by name.
    passed_on: Mutex<BTreeMap<String, Arc<OwnedFd>>>,
    draining: AtomicBool,
    /// The body is written to notice a drain and to return: a drain waits for it.
    waits_for_body: AtomicBool,
    /// How many of the `Shutdown`s that the body was given are left.
    given: AtomicUsize,
    /// `http::serve` ran: a body that may wait for its end is waited for.
    serves_http: AtomicBool,
    /// When it was polled last, the body waited at a managed listener that is retired, which is for ever.
    body_is_at_end: AtomicBool,
    /// A predecessor or a successor lives, which has the same sockets.
    #[cfg(upgrades)]
    shares_sockets: AtomicBool,
    /// A successor serves. It can become false again, when the successor dies on probation.
    handed_over: AtomicBool,
    pub(crate) shutdown: Latch<()>,
    pub(crate) predecessor_gone: Latch<()>,
    pub(crate) had_predecessor: bool,
    /// Set to true when this service begins to serve, and to false if it ends without.
    pub(crate) serving: Latch<bool>,
    pub(crate) verdict: Latch<Verdict>,
    /// The thread of the body has let go of it, and of its runtime: what the process does from now on is its own affair.
    pub(crate) left: Latch<()>,
    /// Asked by the engine, answered by the runtime of the body.
    #[cfg_attr(
        not(any(upgrades, feature = "tokio")),
        expect(dead_code, reason = "there is neither of the two")
    )]
    pub(crate) pulse: Pulse,
    pub(crate) drain_timeout: Duration,
}

impl Shared {
    pub(crate) fn new(generation: u64, had_predecessor: bool, drain_timeout: Duration) -> io::Result<Self> {
        Ok(Self {
            generation,
            pid: std::process::id(),
            began: Instant::now(),
            wake: Wake::new()?,
            inbox: Mutex::new(Inbox::Open(Vec::new())),
            binding: Mutex::new(0),
            bound: Condvar::new(),
            counted: AtomicUsize::new(0),
            pool: Mutex::new(None),
            passed_on: Mutex::new(BTreeMap::new()),
            draining: AtomicBool::new(false),
            waits_for_body: AtomicBool::new(false),
            given: AtomicUsize::new(0),
            serves_http: AtomicBool::new(false),
            body_is_at_end: AtomicBool::new(false),
            #[cfg(upgrades)]
            shares_sockets: AtomicBool::new(had_predecessor),
            handed_over: AtomicBool::new(false),
            shutdown: Latch::new(),
            predecessor_gone: Latch::new(),
            had_predecessor,
            serving: Latch::new(),
            verdict: Latch::new(),
            left: Latch::new(),
            pulse: Pulse::new(),
            drain_timeout,
        })
    }

    /// Which process events of it are about.
    pub(crate) fn who(&self) -> Who {
        Who { generation: self.generation, pid: self.pid }
    }

    /// Makes the engine look.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }

    /// What the engine waits for.
    pub(crate) fn waker(&self) -> &Wake {
        &self.wake
    }

    pub(crate) fn post(&self, note: Note) {
        self.leave(note);
        self.wake();
    }

    /// The same for what the engine has the time to read when it next wakes.
    pub(crate) fn leave(&self, note: Note) {
        let last = match &mut *self.inbox() {
            Inbox::Open(notes) => return notes.push(note),
            Inbox::Closed(last) => last.clone(),
        };
        last.answer(note, self);
    }

    /// The part of a start for which the engine runs already: a stop ends it at any moment, and a failure is the engine's to
    /// tell and to clean up after.
    ///
    /// # Errors
    ///
    /// Those of `prepare`, once the engine has ended.
    pub(crate) fn preparing<P>(
        &self,
        prepare: impl FnOnce() -> Result<P, StartError>,
    ) -> Result<P, StartError> {
        match catch_unwind(AssertUnwindSafe(prepare)) {
            Ok(prepared) => prepared.inspect_err(|error| self.fail_start(&error.to_string())),
            Err(panic) => {
                self.fail_start(&format!("its preparation panicked: {}", panic_message(&*panic)));
                resume_unwind(panic)
            }
        }
    }

    /// Tells the engine that the start fails, and waits until it has told the predecessor and removed what there is to remove.
    pub(crate) fn fail_start(&self, reason: &str) {
        self.post(Note::StartFailed { reason: printable(reason) });
        self.verdict.wait_blocking();
        self.left.set(());
    }

    /// Marks that this thread binds a socket at a path, until its note is in the inbox: the engine ends no process in
    /// between, which would leave the path behind.
    pub(crate) fn binding(&self, address: &Address) -> Option<Binding<'_>> {
        matches!(address.place(), Place::Path(_)).then(|| {
            *self.count_of_binding() += 1;
            Binding { shared: self }
        })
    }

    /// Waits until no thread binds a socket at a path, for this long at most. With the guard none begins to.
    pub(crate) fn no_binding(&self, time: Duration) -> MutexGuard<'_, usize> {
        let waited = self.bound.wait_timeout_while(self.count_of_binding(), time, |count| *count > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn count_of_binding(&self) -> MutexGuard<'_, usize> {
        self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_notes(&self) -> Vec<Note> {
        match &mut *self.inbox() {
            Inbox::Open(notes) => std::mem::take(notes),
            Inbox::Closed(_) => Vec::new(),
        }
    }

    /// The engine has ended. Whoever has asked since it looked last, or asks from now on, hears why there is no upgrade, and
    /// how all stood at the end.
    pub(crate) fn close(&self, refusal: UpgradeError, status: Status) {
        // First, for what is bound is posted with the lock of the pool held.
        let pool = self.pool().take();
        drop(pool);
        let last = Arc::new(Last { refusal, status });
        let inbox = std::mem::replace(&mut *self.inbox(), Inbox::Closed(last.clone()));
        if let Inbox::Open(notes) = inbox {
            notes.into_iter().for_each(|note| last.answer(note, self));
        }
    }

    /// From now on nothing is bound, taken or adopted; what was a moment ago has been posted by then. Returns what was offered
    /// and is not wanted.
    ///
    /// # Errors
    ///
    /// A declared listener that nobody has taken.
    pub(crate) fn close_pool(&self) -> Result<VecDeque<Unadopted>, StartError> {
        let pool = self.pool().take().unwrap_or_default();
        pool.declared.first().map_or(Ok(()), |held| Err(StartError::not_taken(&held.name)))?;
        Ok(pool.unadopted)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, Option<Pool>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn passed_on(&self) -> MutexGuard<'_, BTreeMap<String, Arc<OwnedFd>>> {
        self.passed_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(self: &Arc<Self>) -> Counted {
        self.counted.fetch_add(1, Ordering::AcqRel);
        Counted { shared: self.clone() }
    }

    pub(crate) fn counted(&self) -> usize {
        // No load, which may be of what was long ago: see `Counted::drop`.
        self.counted.fetch_add(0, Ordering::AcqRel)
    }

    pub(crate) fn give_shutdown(&self) {
        self.given.fetch_add(1, Ordering::AcqRel);
    }

    /// A `Shutdown` that the body was given is dropped.
    pub(crate) fn drop_shutdown(&self) {
        // In one order with `draining`: either the engine sees that it is dropped, or it is woken.
        self.given.fetch_sub(1, Ordering::SeqCst);
        if self.draining.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Whether the body may be about to await its `Shutdown`: it has one and has not awaited it, and does not wait at a retired listener.
    pub(crate) fn is_body_undecided(&self) -> bool {
        self.given.load(Ordering::SeqCst) > 0
            && !self.waits_for_body()
            && !self.body_is_at_end.load(Ordering::Acquire)
    }

    /// From now on a drain waits for the body to return.
    pub(crate) fn wait_for_body(&self) {
        self.waits_for_body.store(true, Ordering::Release);
    }

    /// From now on a drain waits for the body to return, unless the body waits where nothing comes.
    #[cfg(feature = "http")]
    pub(crate) fn note_http(&self) {
        self.serves_http.store(true, Ordering::Release);
    }

    /// Says after each poll of the body whether it waits at a managed listener that is retired.
    pub(crate) fn set_body_at_end(&self, yes: bool) {
        // The engine may have seen before that nothing is open any more.
        if self.body_is_at_end.swap(yes, Ordering::AcqRel) != yes {
            self.wake();
        }
    }

    /// Whether a drain waits for the body to return.
    pub(crate) fn waits_for_body(&self) -> bool {
        self.waits_for_body.load(Ordering::Acquire)
            || self.serves_http.load(Ordering::Acquire) && !self.body_is_at_end.load(Ordering::Acquire)
    }

    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.handed_over.store(true, Ordering::Release);
        self.shutdown.set(());
    }

    #[cfg(upgrades)]
    pub(crate) fn set_shares_sockets(&self, yes: bool) {
        self.shares_sockets.store(yes, Ordering::SeqCst);
    }

    #[cfg(upgrades)]
    pub(crate) fn shares_sockets(&self) -> bool {
        self.shares_sockets.load(Ordering::Acquire)
    }

    #[cfg(upgrades)]
    pub(crate) fn set_handed_over(&self, yes: bool) {
        self.handed_over.store(yes, Ordering::Release);
    }

    /// Whether somebody else serves by now, or nobody will: no new request belongs here.
    #[cfg(feature = "http")]
    pub(crate) fn handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("generation", &self.generation)
            .field("pid", &self.pid)
            .field("counted", &self.counted())
            .finish_non_exhaustive()
    }
}

/// A socket is being bound at a path, until this is dropped.
pub(crate) struct Binding<'a> {
    shared: &'a Shared,
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        *self.shared.count_of_binding() -= 1;
        self.shared.bound.notify_all();
    }
}

/// One thing that a drain waits for, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    shared: Arc<Shared>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        // The engine raises the flag and then reads the count, by a read-modify-write as this one. Of the two the later one
        // synchronises with the earlier one: either the engine sees this count, or the flag is seen here.
        if self.shared.counted.fetch_sub(1, Ordering::AcqRel) == 1
            && self.shared.draining.load(Ordering::Acquire)
        {
            self.shared.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::status::Phase;

    /// What was posted after the engine looked last, and what is posted when nobody looks any more.
    #[test]
    fn an_inbox_that_is_closed_answers() {
        let shared = Shared::new(1, false, Duration::ZERO).unwrap();
        let ask = || {
            let (reply, status) = (Arc::new(Reply::new()), Arc::new(Latch::new()));
            shared.post(Note::Upgrade(reply.clone()));
            shared.post(Note::Status(status.clone()));
            (reply, status)
        };
        let before = ask();
        let last = Status::new(1, shared.pid, Phase::Ended);
        shared.close(UpgradeError::Terminating, last.clone());
        for (reply, status) in [before, ask()] {
            assert_eq!(reply.get(), Some(&Err(UpgradeError::Terminating)));
            assert_eq!(status.get(), Some(&last));
        }
        assert!(shared.take_notes().is_empty());
    }
}
