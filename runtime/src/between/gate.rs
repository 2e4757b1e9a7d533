//! The gate between a managed listener and its body. The engine thread opens, closes and retires it, whatever the body's
//! runtime does.

#[cfg(upgrades)]
use std::collections::VecDeque;
use std::io;
#[cfg(upgrades)]
use std::os::fd::AsFd;
#[cfg(any(upgrades, feature = "tokio"))]
use std::sync::Mutex;
#[cfg(feature = "tokio")]
use std::sync::Weak;
#[cfg(upgrades)]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use event_listener::Event;
#[cfg(upgrades)]
use nix::errno::Errno;
#[cfg(upgrades)]
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockAddr;
#[cfg(upgrades)]
use socket2::SockRef;

use crate::base::address::Address;
use crate::base::report::{RateLimit, complain};
#[cfg(upgrades)]
use crate::base::sync::lock;
use crate::base::sync::primitives::{AtomicBool, RwLock, RwLockReadGuard, RwLockWriteGuard, now, sleep};
use crate::between::gate_control::GateControl;
use crate::between::shared::{Counted, Shared};
use crate::outside::sockets;
use crate::sys::fd::{BorrowedFd, OwnedFd};

/// The body's descriptor of a listener, of type `T`, behind a gate.
///
/// A thread is *inside* while it accepts. It then holds the lock for reading, for one system call that does not block. A
/// close takes the lock for writing, so it returns only once no thread is inside. Threads that always find a connection in
/// the queue could delay the close for ever. So the gate turns new threads away while the engine waits.
pub(crate) struct Gate<T> {
    name: Arc<str>,
    shared: Arc<Shared>,
    inner: RwLock<Inner<T>>,
    /// The engine waits for the lock, or has it. For every other thread the gate is closed.
    closing: AtomicBool,
    /// Set when the gate was retired while a thread was still inside. From then on `closing` is never cleared.
    retired: AtomicBool,
    /// Notified after every change of the gate.
    changed: Event,
    /// The body has asked for a connection.
    asked: AtomicBool,
    /// The number of connections or datagrams that the body has taken.
    #[cfg(upgrades)]
    taken: AtomicU64,
    /// Lets one thread at a time take from the socket while another process may clear O_NONBLOCK on it.
    #[cfg(upgrades)]
    turn: Mutex<()>,
    /// The connections that the engine gives to the body, although the gate may be closed.
    #[cfg(upgrades)]
    injected: Mutex<VecDeque<OwnedFd>>,
    /// Whether there may be such a connection. An accept then looks without the lock.
    #[cfg(upgrades)]
    has_injected: AtomicBool,
    cannot_accept: RateLimit,
    /// What waits between two polls.
    #[cfg(feature = "tokio")]
    waiting: Mutex<Vec<Weak<dyn Waiting>>>,
}

/// A wait between two polls, which may have the descriptor of the gate meanwhile. Its task may not poll it again.
#[cfg(feature = "tokio")]
pub(crate) trait Waiting: Send + Sync {
    /// Drops what waits, and wakes the task.
    fn end(&self);
}

struct Inner<T> {
    open: bool,
    /// `None` once the gate is retired.
    io: Option<Arc<T>>,
}

/// The first pause between two attempts to get the lock. Each next pause is twice as long, up to `LONGEST_PAUSE`.
const PAUSE: Duration = Duration::from_micros(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
/// The least time that `retire` waits for the threads inside, also if another gate has used up the time to the deadline.
const LAST_WAIT: Duration = Duration::from_millis(10);

/// The pause after an accept that failed because the system is short of descriptors or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// The error of a call on a listener that this process has given up for good.
pub(crate) fn given_up() -> io::Error {
    let how =
        if cfg!(upgrades) { "the listener has been handed over" } else { "the listener has been closed" };
    io::Error::new(io::ErrorKind::NotConnected, how)
}

/// The state of a gate for the body.
pub(crate) enum GateState<T> {
    Open(Arc<T>),
    Closed,
    Retired,
}

impl<T: Send + Sync> Gate<T> {
    /// A new gate is closed.
    pub(crate) fn new(name: String, shared: Arc<Shared>, io: Arc<T>) -> Self {
        let inner = RwLock::new(Inner { open: false, io: Some(io) });
        Self {
            name: name.into(),
            shared,
            inner,
            closing: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            changed: Event::new(),
            asked: AtomicBool::new(false),
            #[cfg(upgrades)]
            taken: AtomicU64::new(0),
            #[cfg(upgrades)]
            turn: Mutex::new(()),
            #[cfg(upgrades)]
            injected: Mutex::default(),
            #[cfg(upgrades)]
            has_injected: AtomicBool::new(false),
            cannot_accept: RateLimit::default(),
            #[cfg(feature = "tokio")]
            waiting: Mutex::default(),
        }
    }

    /// Ends a wait when the gate is retired. Call it before the wait begins.
    #[cfg(feature = "tokio")]
    pub(crate) fn add_waiting(&self, wait: Weak<dyn Waiting>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|wait| wait.strong_count() > 0);
        waiting.push(wait);
    }

    /// A wait that nothing polls again would keep the listening socket open through the drain, and clients in its queue.
    #[cfg(feature = "tokio")]
    fn end_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.iter().filter_map(Weak::upgrade).for_each(|wait| wait.end());
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The name of the listener.
    pub(crate) fn listener(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts a stream of this listener.
    pub(crate) fn count(&self) -> Counted {
        self.shared.count_stream(&self.name)
    }

    pub(crate) fn changed(&self) -> &Event {
        &self.changed
    }

    /// Notes that the body asks for a connection. The first request may make the service ready.
    pub(crate) fn ask(&self) {
        if !self.asked.load(Ordering::Relaxed) && !self.asked.swap(true, Ordering::AcqRel) {
            self.shared.wake();
        }
    }

    /// Whether the engine has given a connection that the body has not accepted yet. Register for changes before this.
    #[cfg(upgrades)]
    pub(crate) fn has_injected(&self) -> bool {
        self.has_injected.load(Ordering::Acquire)
    }

    /// Takes a connection that the engine has given, with the address of its peer, and counts it.
    #[cfg(upgrades)]
    pub(crate) fn take_injected(&self, nonblocking: bool) -> Option<(OwnedFd, SockAddr, Counted)> {
        while self.has_injected() {
            let mut injected = lock(&self.injected);
            let connection = injected.pop_front();
            self.has_injected.store(!injected.is_empty(), Ordering::Release);
            drop(injected);
            let Some(connection) = connection else { continue };
            let socket = SockRef::from(&connection);
            // A connection that its peer has given up has no address, and nothing to serve.
            if let (Ok(()), Ok(peer)) = (socket.set_nonblocking(nonblocking), socket.peer_addr()) {
                return Some((connection, peer, self.count()));
            }
        }
        None
    }

    /// Only an upgrade gives connections to the body.
    #[cfg(not(upgrades))]
    #[expect(clippy::unused_self, reason = "its twin takes what the engine has given")]
    pub(crate) fn take_injected(&self, _nonblocking: bool) -> Option<(OwnedFd, SockAddr, Counted)> {
        None
    }

    pub(crate) fn state(&self) -> GateState<T> {
        if self.closing.load(Ordering::Acquire) {
            let retired = self.retired.load(Ordering::Acquire);
            return if retired { GateState::Retired } else { GateState::Closed };
        }
        let inner = self.read();
        match &inner.io {
            Some(io) if inner.open => GateState::Open(io.clone()),
            Some(_) => GateState::Closed,
            None => GateState::Retired,
        }
    }

    /// The body's descriptor, whether the gate is open or closed.
    pub(crate) fn io(&self) -> Option<Arc<T>> {
        self.read().io.clone()
    }

    /// Puts another descriptor of the same socket in the place of `io`, if the gate still has `io`. While a thread is inside
    /// this does nothing: the caller tries again at its next accept.
    #[cfg(all(upgrades, feature = "tokio"))]
    pub(crate) fn replace(&self, io: &Arc<T>, fresh: Arc<T>) {
        let replaced = match self.inner.try_write() {
            Ok(mut inner) => {
                inner.io.as_mut().filter(|it| Arc::ptr_eq(it, io)).map(|it| std::mem::replace(it, fresh))
            }
            Err(_) => None,
        };
        // Outside the lock: the drop may deregister the descriptor from epoll and close it.
        drop(replaced);
    }

    /// The pause before the next accept, after one that failed. The connection stays in the queue meanwhile.
    ///
    /// Two errors do not reach the body, because a body that uses `?` would end the service for what another process does.
    /// A shortage passes. A TCP listener that another process has shut down listens again. Any other error is returned.
    pub(crate) fn recover(
        &self,
        listener: Option<BorrowedFd<'_>>,
        address: &Address,
        error: io::Error,
    ) -> io::Result<Duration> {
        if let Some(listener) = listener {
            if sockets::listen_if_shut_down(listener, address, &error)? {
                complain!(
                    self.shared,
                    "listener `{}`: another process had shut it down, shutdown(2); it listens again",
                    self.name
                );
                return Ok(Duration::ZERO);
            }
        }
        self.out_of_resources(error)
    }

    /// The pause after an accept that failed because of a shortage. Logs the shortage. Any other error is returned.
    pub(crate) fn out_of_resources(&self, error: io::Error) -> io::Result<Duration> {
        if !sockets::is_shortage(&error) {
            return Err(error);
        }
        self.complain(&error);
        Ok(SHORTAGE_PAUSE)
    }

    /// Logs an error of accept after which the caller tries again.
    pub(crate) fn complain(&self, error: &io::Error) {
        if self.cannot_accept.is_due() {
            complain!(self.shared, "listener `{}`: cannot accept for now: {error}", self.name);
        }
    }

    /// Runs `f` on the descriptor if the gate is open, and keeps the gate open meanwhile. `f` must not block.
    pub(crate) fn pass<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        // A thread that sees this late gets in once more. The lock closes the gate; this flag only keeps the lock free.
        if self.closing.load(Ordering::Acquire) {
            return None;
        }
        let inner = self.read();
        inner.io.as_ref().filter(|_| inner.open).map(|io| f(io))
    }

    /// Calls `attempt` to take a connection or a datagram from `socket`, again after each EINTR. Call it in
    /// [`pass`](Self::pass).
    ///
    /// O_NONBLOCK belongs to the open file description. Another process that shares the description may clear the flag at
    /// any moment, and accept4(2) has no flag for a single call that does not block. A thread asleep in accept4 would delay the
    /// close of the gate, and take one connection after the successor serves (M16).
    ///
    /// So while such a process lives, a thread first asks poll(2), and attempts only what poll has announced. One thread at
    /// a time does this, so that no other thread takes the connection in between. A process that is alone saves the call of
    /// poll.
    #[cfg(upgrades)]
    pub(crate) fn attempt<S: AsFd, R>(
        &self,
        socket: &S,
        mut attempt: impl FnMut(&S) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            let lock = || self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = self.shared.shares_sockets().then(lock);
            if turn.is_some() {
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                match poll(&mut fds, PollTimeout::ZERO) {
                    Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                    Ok(_) => {}
                    Err(Errno::EINTR) => continue,
                    Err(errno) => return Err(errno.into()),
                }
            }
            match attempt(socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(taken) => {
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    return Ok(taken);
                }
            }
        }
    }

    // A panic under the lock leaves no half-done change, so a poisoned lock is usable.
    fn read(&self) -> RwLockReadGuard<'_, Inner<T>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<T>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock for writing. The gate turns other threads away until [`admit_again`](Self::admit_again). Returns `None`
    /// if a thread is still inside at the deadline.
    ///
    /// std has no lock whose writer waits until a deadline. The wait is short: each thread inside makes one system call that
    /// does not block. While another process shares the socket the threads make it one after the other.
    fn write_by(&self, deadline: Instant) -> Option<RwLockWriteGuard<'_, Inner<T>>> {
        self.closing.store(true, Ordering::Release);
        let mut pause = PAUSE;
        loop {
            match self.inner.try_write() {
                Ok(inner) => return Some(inner),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return None;
            }
            sleep(pause.min(left));
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Ends what [`write_by`](Self::write_by) began. Wakes the threads and tasks that were turned away, or that wait for a
    /// change of the gate.
    fn admit_again(&self) {
        let retired = self.retired.load(Ordering::Acquire);
        self.closing.store(retired, Ordering::Release);
        self.changed.notify(usize::MAX);
    }
}

impl<T: Send + Sync> GateControl for Gate<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&self) {
        // If a thread sleeps inside, the close has failed and the gate is still open. A wait for the lock would not end.
        if !self.read().open {
            self.write().open = true;
        }
        self.changed.notify(usize::MAX);
    }

    fn close(&self, deadline: Instant) -> bool {
        let closed = self.write_by(deadline).map(|mut inner| inner.open = false).is_some();
        self.admit_again();
        closed
    }

    #[cfg(upgrades)]
    fn settle(&self, deadline: Instant) -> bool {
        let settled = self.write_by(deadline).is_some();
        self.admit_again();
        settled
    }

    fn retire(&self, deadline: Instant) -> bool {
        let deadline = deadline.max(now() + LAST_WAIT);
        let io = self.write_by(deadline).map(|mut inner| {
            inner.open = false;
            inner.io.take()
        });
        let is_empty = io.is_some();
        if !is_empty {
            self.retired.store(true, Ordering::Release);
            complain!(
                self.shared,
                "listener `{}`: a thread is stuck in an accept of it, and may take one connection more",
                self.name
            );
        }
        // Outside the lock: the drop may deregister the descriptor from epoll and close it.
        drop(io);
        #[cfg(upgrades)]
        {
            lock(&self.injected).clear();
            self.has_injected.store(false, Ordering::Release);
        }
        self.admit_again();
        #[cfg(feature = "tokio")]
        self.end_waiting();
        is_empty
    }

    fn asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    #[cfg(upgrades)]
    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    #[cfg(upgrades)]
    fn inject(&self, connection: OwnedFd) {
        let mut injected = lock(&self.injected);
        injected.push_back(connection);
        self.has_injected.store(true, Ordering::Release);
        drop(injected);
        self.changed.notify(usize::MAX);
    }
}

#[cfg(all(test, upgrades))]
pub(crate) mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Whether the body takes a thousand more through the gate, in good time.
    pub(crate) fn goes_on(gate: &impl GateControl) -> bool {
        let enough = gate.taken() + 1000;
        let deadline = Instant::now() + Duration::from_secs(20);
        while gate.taken() < enough && Instant::now() < deadline {
            thread::yield_now();
        }
        gate.taken() >= enough
    }

    /// Whether the engine can settle and close the gate while the body takes more all the time.
    pub(crate) fn closes(gate: &impl GateControl) -> bool {
        gate.open();
        goes_on(gate) && gate.settle(by_then()) && goes_on(gate) && gate.close(by_then())
    }

    /// The deadline that the engine would set.
    pub(crate) fn by_then() -> Instant {
        Instant::now() + Duration::from_secs(2)
    }

    fn gate(shares_sockets: bool) -> Gate<UnixDatagram> {
        let shared = Arc::new(Shared::new(1, shares_sockets, Duration::ZERO).unwrap());
        Gate::new("echo".to_owned(), shared, Arc::new(UnixDatagram::unbound().unwrap()))
    }

    #[test]
    fn one_whose_thread_is_asleep_is_given_up_at_the_deadline_and_opens_at_once() {
        let gate = gate(false);
        gate.open();
        let (inside, is_inside) = mpsc::channel();
        thread::scope(|scope| {
            // A failed assertion drops it, which wakes the thread as well.
            let (wake, woken) = mpsc::channel();
            let gate = &gate;
            scope.spawn(move || {
                gate.pass(|_| {
                    inside.send(()).unwrap();
                    woken.recv().unwrap();
                })
            });
            is_inside.recv().unwrap();
            let soon = || Instant::now() + Duration::from_millis(20);
            assert!(!gate.settle(soon()));
            assert!(!gate.close(soon()));
            gate.open();
            assert!(matches!(gate.state(), GateState::Open(_)), "the gate is as it was");
            // Other threads still pass.
            assert!(gate.pass(|_| ()).is_some());
            gate.retire(soon());
            gate.open();
            // No other thread passes.
            assert!(matches!(gate.state(), GateState::Retired));
            assert!(gate.pass(|_| ()).is_none());
            wake.send(()).unwrap();
        });
        assert!(gate.settle(Instant::now()));
        assert!(gate.close(Instant::now()));
        // The gate stays retired once the thread is awake.
        assert!(matches!(gate.state(), GateState::Retired));
    }

    /// Whether the engine was woken since its last look.
    fn is_woken(gate: &Gate<UnixDatagram>) -> bool {
        let waker = gate.shared().waker();
        let woken =
            poll(&mut [PollFd::new(waker.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1;
        waker.clear();
        woken
    }

    #[test]
    fn it_stands_as_the_engine_has_put_it() {
        let gate = gate(false);
        assert_eq!((gate.name(), gate.asked(), gate.taken()), ("echo", false, 0));
        // Only the first request may make the service ready.
        gate.ask();
        assert!(gate.asked() && is_woken(&gate));
        gate.ask();
        assert!(gate.asked() && !is_woken(&gate));
        assert!(matches!(gate.state(), GateState::Closed));
        assert_eq!(gate.pass(|_| 7), None);
        gate.open();
        assert!(gate.settle(by_then()));
        assert!(matches!(gate.state(), GateState::Open(_)));
        assert_eq!(gate.pass(|_| 7), Some(7));
        assert!(gate.close(by_then()));
        assert!(matches!(gate.state(), GateState::Closed));
        assert_eq!(gate.pass(|_| 7), None);
        assert!(gate.io().is_some());
        gate.retire(by_then());
        assert!(matches!(gate.state(), GateState::Retired));
        assert!(gate.io().is_none());
    }

    #[test]
    fn what_is_interrupted_is_attempted_again_and_what_is_taken_is_counted() {
        for shares_sockets in [false, true] {
            let gate = gate(shares_sockets);
            let (socket, other) = UnixDatagram::pair().unwrap();
            other.send(&[0]).unwrap();
            let mut interruptions = 3;
            let taken = gate.attempt(&socket, |_| match interruptions {
                0 => Ok("taken"),
                _ => {
                    interruptions -= 1;
                    Err(io::ErrorKind::Interrupted.into())
                }
            });
            assert_eq!((taken.unwrap(), gate.taken()), ("taken", 1));
            let mut attempts = 0;
            let aborted = gate.attempt(&socket, |_| -> io::Result<()> {
                attempts += 1;
                Err(io::ErrorKind::ConnectionAborted.into())
            });
            assert_eq!((aborted.unwrap_err().kind(), attempts), (io::ErrorKind::ConnectionAborted, 1));
            assert_eq!(gate.taken(), 1);
        }
    }

    /// The sockets block, as if another process had cleared O_NONBLOCK. An attempt on an empty queue sleeps until the
    /// receive times out, and fails this test.
    #[test]
    fn nothing_is_attempted_that_is_not_there_while_another_process_lives() {
        const DATAGRAMS: usize = 2000;
        let gate = gate(true);
        let (socket, other) = UnixDatagram::pair().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(gate.attempt(&socket, take).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut taken = 0;
                        loop {
                            match gate.attempt(&socket, take) {
                                Ok(0) => taken += 1,
                                Ok(_) => return taken,
                                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                            }
                        }
                    })
                })
                .collect();
            for _ in 0..DATAGRAMS {
                other.send(&[0]).unwrap();
            }
            takers.iter().for_each(|_| _ = other.send(&[1]).unwrap());
            let taken: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
            assert_eq!(taken, DATAGRAMS);
        });
    }

    fn take(socket: &UnixDatagram) -> io::Result<u8> {
        let mut byte = [0];
        let received = socket.recv(&mut byte);
        assert!(received.is_ok(), "the thread was asleep");
        received.map(|_| byte[0])
    }
}
