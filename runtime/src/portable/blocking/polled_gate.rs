//! A gate for threads: a change of it ends their wait for the socket.
//!
//! std cannot wait for a socket and for a change at once. So a waiting thread looks at its socket every 1 to 16 ms: the first
//! connection after a pause waits that long at most.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use event_listener::{Listener, listener};

use crate::between::gate::{Gate, GateState};
use crate::between::managed::gated;
use crate::between::params::ListenerSocket;

/// The pause between two looks at a socket: the first, and the longest that doubling makes of it.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

pub(super) struct PolledGate<T> {
    pub(super) gate: Arc<Gate<T>>,
}

impl<T: Send + Sync + 'static> PolledGate<T> {
    #[expect(clippy::unnecessary_wraps, reason = "its twin makes a descriptor")]
    pub(super) fn new(socket: ListenerSocket<'_>, io: Arc<T>) -> io::Result<Arc<Self>> {
        // Its calls end at a drain, so that the body can return: the process waits for the body.
        socket.shared().wait_for_body();
        Ok(Arc::new(Self { gate: gated(socket, io) }))
    }

    /// No connection comes from anywhere but the socket.
    pub(super) fn accept_through<R>(
        &self,
        _injected: impl FnMut() -> Option<R>,
        attempt: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<Option<R>> {
        self.read_through(attempt)
    }

    /// Does `attempt` on the socket as soon as it does not block while the gate is open; `None` once it is retired.
    pub(super) fn read_through<R>(
        &self,
        mut attempt: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<Option<R>> {
        self.gate.ask();
        let mut pause = PAUSE;
        loop {
            // Registered before the look at the gate, so that no change is missed in between.
            listener!(self.gate.changed() => changed);
            match self.gate.state() {
                GateState::Open(io) => match self.gate.pass(|_| attempt(&io)) {
                    Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                        // A stop ends the pause early.
                        changed.wait_timeout(pause);
                        pause = LONGEST_PAUSE.min(pause * 2);
                    }
                    Some(result) => return result.map(Some),
                    // It was closed in between.
                    None => {}
                },
                GateState::Closed => changed.wait(),
                GateState::Retired => return Ok(None),
            }
        }
    }
}

/// Waits before the next attempt to send a datagram.
#[expect(clippy::unnecessary_wraps, reason = "its twin waits by a system call")]
pub(super) fn wait_until_writable<T>(_socket: &T) -> io::Result<()> {
    thread::sleep(PAUSE);
    Ok(())
}
