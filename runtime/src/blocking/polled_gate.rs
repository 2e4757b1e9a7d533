//! A gate for threads: a change of it ends their wait for the socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use event_listener::{Listener, listener};
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::between::gate::{Gate, GateState};
use crate::between::gate_control::GateControl;
use crate::between::params::ListenerSocket;
use crate::sys::poll;

/// A gate whose changes also wake a thread that polls.
pub(super) struct PolledGate<T> {
    pub(super) gate: Gate<T>,
    /// Readable while the gate is not open.
    shut: EventFd,
}

impl<T: AsFd + Send + Sync + 'static> PolledGate<T> {
    pub(super) fn new(socket: ListenerSocket<'_>, io: Arc<T>) -> io::Result<Arc<Self>> {
        let gate = Gate::new(socket.name().to_owned(), socket.shared().clone(), io);
        // A new gate is closed.
        let shut = EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Its calls end at a drain, so that the body can return: the process waits for the body.
        gate.shared().wait_for_body();
        let gate = Arc::new(Self { gate, shut });
        socket.register(gate.clone());
        Ok(gate)
    }

    /// Does `attempt` on the descriptor as soon as it is readable while the gate is open; `None` once it is retired.
    pub(super) fn read_through<R>(&self, attempt: impl FnMut(&T) -> io::Result<R>) -> io::Result<Option<R>> {
        self.accept_through(|| None, attempt)
    }

    /// As [`read_through`](Self::read_through). A connection that `injected` takes from the gate goes first, also while the
    /// gate is closed.
    pub(super) fn accept_through<R>(
        &self,
        mut injected: impl FnMut() -> Option<R>,
        mut attempt: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<Option<R>> {
        self.gate.ask();
        loop {
            if let Some(injected) = injected() {
                return Ok(Some(injected));
            }
            match self.gate.pass(|socket| self.gate.attempt(socket, &mut attempt)) {
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Some(result) => return result.map(Some),
                None => {}
            }
            // Registered before the look at the gate, so that no change is missed in between.
            listener!(self.gate.changed() => changed);
            if self.gate.has_injected() {
                continue;
            }
            match self.gate.state() {
                GateState::Open(io) => {
                    let mut fds =
                        [io.as_fd(), self.shut.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                    poll::until(&mut fds, None)?;
                }
                GateState::Closed => changed.wait(),
                GateState::Retired => return Ok(None),
            }
        }
    }

    fn set_shut(&self, shut: bool) {
        // An eventfd that is already full or empty is as it should be.
        match if shut { self.shut.write(1).map(drop) } else { self.shut.read().map(drop) } {
            Ok(()) | Err(_) => {}
        }
    }
}

/// Waits until the socket takes a datagram. Other processes share the open file description, so it never blocks by itself.
pub(super) fn wait_until_writable(socket: &impl AsFd) -> io::Result<()> {
    poll::until(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], None)
}

impl<T: AsFd + Send + Sync + 'static> GateControl for PolledGate<T> {
    fn name(&self) -> &str {
        self.gate.name()
    }

    fn open(&self) {
        self.set_shut(false);
        self.gate.open();
    }

    fn close(&self, deadline: Instant) -> bool {
        self.set_shut(true);
        let closed = self.gate.close(deadline);
        // A gate that could not be closed is open: its threads wait for connections.
        if !closed {
            self.set_shut(false);
        }
        closed
    }

    fn settle(&self, deadline: Instant) -> bool {
        self.gate.settle(deadline)
    }

    fn retire(&self, deadline: Instant) -> bool {
        self.set_shut(true);
        self.gate.retire(deadline)
    }

    fn asked(&self) -> bool {
        self.gate.asked()
    }

    fn taken(&self) -> u64 {
        self.gate.taken()
    }

    fn inject(&self, connection: OwnedFd) {
        self.gate.inject(connection);
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::between::gate::tests::{by_then, closes, goes_on};
    use crate::between::shared::Shared;

    /// They only peek at the one datagram, so the queue is never empty. If another process has the socket, each thread waits for its
    /// turn inside.
    #[test]
    fn it_closes_to_threads_that_never_find_the_queue_empty() {
        for accompanied in [false, true] {
            let shared = Arc::new(Shared::new(1, accompanied, Duration::ZERO).unwrap());
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(&[0], socket.local_addr().unwrap()).unwrap();
            let gate = Gate::new("dns".to_owned(), shared, Arc::new(socket));
            let gate =
                PolledGate { gate, shut: EventFd::from_value_and_flags(1, EfdFlags::EFD_NONBLOCK).unwrap() };
            let ended = AtomicBool::new(false);
            let take = |socket: &UdpSocket| match ended.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::TimedOut.into()),
                false => socket.peek(&mut [0]),
            };
            thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            loop {
                                match gate.read_through(take) {
                                    Ok(Some(_)) => {}
                                    end => return end.map(drop),
                                }
                            }
                        })
                    })
                    .collect();
                let failed = (0..10).find(|_| !closes(&gate));
                gate.open();
                let goes_on = failed.is_none() && goes_on(&gate);
                gate.retire(by_then());
                let is_retired = gate.gate.io().is_none();
                // Ends the threads that have not seen the retirement.
                ended.store(true, Ordering::Relaxed);
                gate.gate.changed().notify(usize::MAX);
                let retired = threads.into_iter().map(|thread| thread.join().unwrap()).filter(Result::is_ok);
                assert_eq!(failed, None, "accompanied: {accompanied}");
                assert!(goes_on && is_retired, "accompanied: {accompanied}");
                assert_eq!(retired.count(), 8, "accompanied: {accompanied}");
            });
        }
    }

    /// A thread that is asleep in an accept keeps the gate open. All others wait for a connection, and not for a change.
    #[test]
    fn one_that_could_not_be_closed_is_not_shut() {
        let shared = Arc::new(Shared::new(1, false, Duration::ZERO).unwrap());
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let gate = Gate::new("dns".to_owned(), shared, socket);
        let gate =
            PolledGate { gate, shut: EventFd::from_value_and_flags(1, EfdFlags::EFD_NONBLOCK).unwrap() };
        gate.open();
        let is_shut = || PollFd::new(gate.shut.as_fd(), PollFlags::POLLIN);
        let is_shut = || nix::poll::poll(&mut [is_shut()], nix::poll::PollTimeout::ZERO).unwrap() == 1;
        let closed =
            gate.gate.pass(|_| thread::scope(|scope| scope.spawn(|| gate.close(Instant::now())).join()));
        assert!(!closed.unwrap().unwrap());
        assert!(!is_shut());
        assert!(gate.close(Instant::now()));
        assert!(is_shut());
    }
}
