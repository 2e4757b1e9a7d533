//! The state that the engine thread and the body share.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
#[cfg(upgrades)]
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::address::{Address, Place};
use crate::base::error::{StartError, UpgradeError, chain};
use crate::base::limits::no_thread;
use crate::base::report::{Who, panic_message, printable};
use crate::base::status::Status;
use crate::base::sync::primitives::{AtomicBool, AtomicUsize};
use crate::base::sync::{Latch, Pulse};
use crate::base::unadopted::Unadopted;
use crate::between::body_flags::BodyFlags;
use crate::between::inbox::Inbox;
use crate::between::note::Note;
use crate::between::passed_on::PassedOn;
use crate::between::pool::Pool;
use crate::moving::Moving;
use crate::sys::wake::Wake;

/// How the process is to end. The engine decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Success,
    /// The start failed, or the service is down. The exit code is 1, also if the body returns: its listeners have ended.
    Failure,
    /// The start failed because the body ended before it was ready. The exit code is that of the body.
    OfBody,
}

/// Starts a thread before its work exists. The returned function gives the thread its work; dropping the function ends the
/// thread.
///
/// If the thread cannot be started, the caller still owns the parts of the work that report the error.
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
    Ok(move |work| give.send(work).expect("the thread waits for its work"))
}

pub(crate) struct Shared {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// When this process, or this service of a test, began.
    pub(crate) began: Instant,
    wake: Wake,
    inbox: Inbox,
    /// The number of threads that bind a socket at a path and have not posted it to the engine yet.
    binding: Mutex<usize>,
    /// Notified when `binding` falls.
    bound: Condvar,
    /// The number of open streams and guards.
    counted: AtomicUsize,
    /// `None` once the service is ready, or if its body does not take `Listeners`.
    pool: Mutex<Option<Pool>>,
    /// The descriptors that the next successor gets by name.
    pub(crate) passed_on: PassedOn,
    /// The open connections that move from one generation to the next.
    pub(crate) moving: Moving,
    draining: AtomicBool,
    body: BodyFlags,
    /// The log has had the line about a listener that is taken as a raw type.
    raw_type_told: AtomicBool,
    /// A predecessor or a successor lives and has the same sockets.
    #[cfg(upgrades)]
    shares_sockets: AtomicBool,
    /// A successor serves. It becomes false again if the successor dies on probation.
    handed_over: AtomicBool,
    pub(crate) shutdown: Latch<()>,
    /// Readable from the beginning of the drain on, for threads that poll.
    #[cfg(upgrades)]
    drain_wake: OnceLock<Wake>,
    pub(crate) predecessor_gone: Latch<()>,
    pub(crate) had_predecessor: bool,
    /// True once this service serves; false if it ends before that.
    pub(crate) serving: Latch<bool>,
    pub(crate) verdict: Latch<Verdict>,
    /// The body's thread has dropped the body and its runtime. The engine no longer limits what the process does next.
    pub(crate) left: Latch<()>,
    /// The engine asks, and the runtime of the body answers.
    #[cfg_attr(
        not(any(upgrades, feature = "tokio")),
        expect(dead_code, reason = "there is neither of the two")
    )]
    pub(crate) pulse: Pulse,
    pub(crate) drain_timeout: Duration,
}

impl Shared {
    pub(crate) fn new(generation: u64, had_predecessor: bool, drain_timeout: Duration) -> io::Result<Self> {
        let pid = std::process::id();
        Ok(Self {
            generation,
            pid,
            began: Instant::now(),
            wake: Wake::new()?,
            inbox: Inbox::new(Who { generation, pid }),
            binding: Mutex::new(0),
            bound: Condvar::new(),
            counted: AtomicUsize::new(0),
            pool: Mutex::new(None),
            passed_on: PassedOn::default(),
            moving: Moving::default(),
            draining: AtomicBool::new(false),
            body: BodyFlags::new(),
            raw_type_told: AtomicBool::new(false),
            #[cfg(upgrades)]
            shares_sockets: AtomicBool::new(had_predecessor),
            handed_over: AtomicBool::new(false),
            shutdown: Latch::new(),
            #[cfg(upgrades)]
            drain_wake: OnceLock::new(),
            predecessor_gone: Latch::new(),
            had_predecessor,
            serving: Latch::new(),
            verdict: Latch::new(),
            left: Latch::new(),
            pulse: Pulse::new(),
            drain_timeout,
        })
    }

    /// The process in every event.
    pub(crate) fn who(&self) -> Who {
        Who { generation: self.generation, pid: self.pid }
    }

    /// Wakes the engine.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }

    /// The engine waits on this.
    pub(crate) fn waker(&self) -> &Wake {
        &self.wake
    }

    pub(crate) fn post(&self, note: Note) {
        self.leave(note);
        self.wake();
    }

    /// Like [`post`](Self::post), but the engine reads the note only when something else wakes it.
    pub(crate) fn leave(&self, note: Note) {
        self.inbox.put(note);
    }

    pub(crate) fn take_notes(&self) -> Vec<Note> {
        self.inbox.take()
    }

    /// Runs the part of a start during which the engine runs already. A stop ends this part at any moment. The engine
    /// reports a failure and cleans up.
    ///
    /// # Errors
    ///
    /// Those of `prepare`, after the engine has ended.
    pub(crate) fn preparing<P>(
        &self,
        prepare: impl FnOnce() -> Result<P, StartError>,
    ) -> Result<P, StartError> {
        match catch_unwind(AssertUnwindSafe(prepare)) {
            Ok(prepared) => prepared.inspect_err(|error| self.fail_start(&chain(error))),
            Err(panic) => {
                self.fail_start(&format!("its preparation panicked: {}", panic_message(&*panic)));
                resume_unwind(panic)
            }
        }
    }

    /// Reports to the engine that the start fails. Waits until the engine has informed the predecessor and removed the paths
    /// of this process.
    pub(crate) fn fail_start(&self, reason: &str) {
        self.post(Note::StartFailed { reason: printable(reason) });
        self.verdict.wait_blocking();
        self.left.set(());
    }

    /// Marks that this thread binds a socket at a path. Drop the mark after the note about the socket is in the inbox. The
    /// engine does not end the process in between, because that would leave the path behind.
    pub(crate) fn binding(&self, address: &Address) -> Option<Binding<'_>> {
        matches!(address.place(), Place::Path(_)).then(|| {
            *self.count_of_binding() += 1;
            Binding { shared: self }
        })
    }

    /// Waits, for at most `time`, until no thread binds a socket at a path. While the guard lives no thread begins to.
    pub(crate) fn no_binding(&self, time: Duration) -> MutexGuard<'_, usize> {
        let waited = self.bound.wait_timeout_while(self.count_of_binding(), time, |count| *count > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn count_of_binding(&self) -> MutexGuard<'_, usize> {
        self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine has ended. From now on the inbox refuses an upgrade with `refusal`, and answers `status` to a request
    /// for the status.
    pub(crate) fn close(&self, refusal: UpgradeError, status: Status) {
        // The pool before the inbox: `Listeners` posts a bound socket while it locks the pool.
        let pool = self.pool().take();
        drop(pool);
        self.inbox.close(refusal, status);
    }

    /// Closes the pool: from now on `Listeners` takes, adopts and binds nothing. The note about every earlier listener is in
    /// the inbox. Returns the sockets that no listener has adopted.
    ///
    /// # Errors
    ///
    /// The body has not taken a declared listener.
    pub(crate) fn close_pool(&self) -> Result<VecDeque<Unadopted>, StartError> {
        let pool = self.pool().take().unwrap_or_default();
        pool.declared.first().map_or(Ok(()), |socket| Err(StartError::not_taken(&socket.name)))?;
        Ok(pool.unadopted)
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, Option<Pool>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(self: &Arc<Self>) -> Counted {
        self.count_for(None)
    }

    /// Counts a stream of this listener.
    pub(crate) fn count_stream(self: &Arc<Self>, listener: &Arc<str>) -> Counted {
        self.count_for(Some(listener.clone()))
    }

    fn count_for(self: &Arc<Self>, listener: Option<Arc<str>>) -> Counted {
        self.counted.fetch_add(1, Ordering::AcqRel);
        Counted { shared: self.clone(), listener }
    }

    pub(crate) fn counted(&self) -> usize {
        // A read-modify-write, because a load may return an old value: see `Counted::drop`.
        self.counted.fetch_add(0, Ordering::AcqRel)
    }

    /// The number of streams and guards that the end of this process cuts: those that are open, without the streams that the successor
    /// has by now or gets from the link.
    pub(crate) fn aborted(&self) -> u64 {
        let mut open = self.counted();
        loop {
            let going = self.moving.giving.going();
            // A stream that the successor has leaves both counts, one after the other.
            let before = std::mem::replace(&mut open, self.counted());
            if open == before {
                return u64::try_from(open).unwrap_or(u64::MAX).saturating_sub(going);
            }
        }
    }

    pub(crate) fn give_shutdown(&self) {
        self.body.add_shutdown();
    }

    /// The body has dropped a `Shutdown` that it was given.
    pub(crate) fn drop_shutdown(&self) {
        // Both accesses are SeqCst, in one order with `start_draining`: either the engine sees the drop, or this wakes it.
        self.body.remove_shutdown();
        if self.draining.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Whether this is the first call: the first listener that is taken as a raw type.
    pub(crate) fn is_first_raw_type(&self) -> bool {
        !self.raw_type_told.swap(true, Ordering::Relaxed)
    }

    /// The thread of `main` begins the body. Returns false if the engine ends without it.
    pub(crate) fn begin_body(&self) -> bool {
        self.body.begin()
    }

    /// The engine ends without the body, which never begins from now on. Returns false if the body has begun.
    pub(crate) fn forbid_body(&self) -> bool {
        self.body.forbid()
    }

    /// Whether the body may be about to await its `Shutdown`. It then has one, has not awaited it, and does not wait at a
    /// retired listener.
    pub(crate) fn is_body_undecided(&self) -> bool {
        self.body.is_undecided()
    }

    /// From now on a drain waits for the body to return.
    pub(crate) fn wait_for_body(&self) {
        self.body.set_notices_drain();
    }

    /// From now on a drain waits for the body to return, unless the body waits at a retired listener.
    #[cfg(feature = "http")]
    pub(crate) fn set_serves_http(&self) {
        self.body.set_serves_http();
    }

    /// Notes after each poll of the body whether it waits at a retired managed listener.
    pub(crate) fn set_body_at_end(&self, is_at_end: bool) {
        // Nothing else may wake the engine: it may have seen before that no stream and no guard is open.
        if self.body.set_at_end(is_at_end) {
            self.wake();
        }
    }

    /// Whether a drain waits for the body to return.
    pub(crate) fn waits_for_body(&self) -> bool {
        self.body.holds_drain()
    }

    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.handed_over.store(true, Ordering::Release);
        self.shutdown.set(());
        #[cfg(upgrades)]
        if let Some(wake) = self.drain_wake.get() {
            wake.wake();
        }
    }

    /// What is readable from the beginning of the drain on.
    #[cfg(upgrades)]
    pub(crate) fn drain_wake(&self) -> io::Result<&Wake> {
        if self.drain_wake.get().is_none() {
            let _another_thread_may_have_set_it = self.drain_wake.set(Wake::new()?);
        }
        let wake = self.drain_wake.get().expect("it is set");
        // The drain may have begun before it was set.
        if self.shutdown.get().is_some() {
            wake.wake();
        }
        Ok(wake)
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

    /// Whether a successor serves, or the service drains. New requests do not belong to this process then.
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

/// The mark of a thread that binds a socket at a path, until it is dropped.
pub(crate) struct Binding<'a> {
    shared: &'a Shared,
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        *self.shared.count_of_binding() -= 1;
        self.shared.bound.notify_all();
    }
}

/// One stream or guard. A drain waits until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    shared: Arc<Shared>,
    /// The listener of a stream.
    listener: Option<Arc<str>>,
}

impl Counted {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The name of the listener of a stream.
    pub(crate) fn listener(&self) -> &str {
        self.listener.as_deref().unwrap_or_default()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // The engine raises the flag and then reads the count by a read-modify-write, as this is one. The later of the two
        // synchronises with the earlier one: either the engine sees this count, or this thread sees the flag.
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
    use crate::base::status::{Phase, Requester};
    use crate::between::note::{Order, UpgradeReply};

    /// Notes that the engine has not taken before its end, and notes after its end.
    #[test]
    fn an_inbox_that_is_closed_answers() {
        let shared = Shared::new(1, false, Duration::ZERO).unwrap();
        let ask = || {
            let (reply, status) = (Arc::new(UpgradeReply::new()), Arc::new(Latch::new()));
            shared.post(Note::Upgrade { reply: reply.clone(), order: Order::by(Requester::Body) });
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
