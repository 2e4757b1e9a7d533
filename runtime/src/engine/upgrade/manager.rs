//! The messages to the service manager, and their time.

use std::mem;
use std::time::{Duration, Instant};

use crate::base::address::Kind;
use crate::base::report::{complain, tell};
use crate::engine::core::Engine;
use crate::engine::neighbours::{LAST_TRY, ManagerLink};
use crate::lifecycle::{Event, Known};

/// How much more time a manager is asked for at once while an upgrade or a drain goes on, and how often.
const EXTENSION: Duration = Duration::from_secs(15);
const EXTEND_EVERY: Duration = Duration::from_secs(5);

impl Engine {
    /// Tells the manager a new state of this process, if this is the process that tells it.
    pub(in crate::engine) fn tell_manager(&mut self) {
        let known = self.state.known();
        let Some(link) = self.neighbours.manager.as_mut().filter(|link| link.known != known) else { return };
        let before = mem::replace(&mut link.known, known);
        let now = Instant::now();
        // The predecessor's MAINPID message already carried READY=1 and WATCHDOG=1 for this process. A message of this process may
        // overtake it, and be refused.
        let is_said =
            known == Known::Ready && before == Known::Nothing && self.neighbours.predecessor.is_some();
        let limit = link.manager.watchdog.filter(|_| link.serves());
        link.next_sign = limit.map(|limit| if is_said { now + limit / 2 } else { now });
        link.next_extension = matches!(known, Known::Reloading | Known::Stopping).then_some(now);
        let generation = self.shared.generation;
        match known {
            Known::Starting | Known::Nothing => {}
            Known::Ready if is_said => {}
            // The manager may not listen yet, and no reload waits for its end: `next_try` says it.
            Known::Ready if link.next_try.is_some() && before != Known::Reloading => {}
            Known::Ready => {
                link.tell_ready(generation);
                self.store();
            }
            Known::Reloading => {
                // A process that goes back to serving is in the same upgrade.
                if before == Known::Ready {
                    link.failure = None;
                }
                let status = format!("generation {generation} serves, and is being upgraded");
                link.manager.tell_reloading(&status);
            }
            Known::Stopping => {
                let open = self.shared.counted();
                link.manager.tell(format!("STOPPING=1\nSTATUS=stopping; {open} connections are open"));
            }
        }
        self.tell_manager_in_time(now);
    }

    /// Tells why the upgrade has failed, and that it is over. This comes before the outcome is reported to a client, which may be the
    /// command that the manager waits for.
    pub(super) fn tell_manager_of_failure(&mut self, reason: &str) {
        if let Some(link) = &mut self.neighbours.manager {
            link.failure = Some(reason.to_owned());
        }
        self.tell_manager();
    }

    /// Tells of a refused upgrade as of one that has begun and failed: a manager may wait for both.
    pub(super) fn tell_manager_of_refusal(&mut self, reason: &str) {
        let known = self.state.known();
        if let Some(link) = self
            .neighbours
            .manager
            .as_mut()
            .filter(|link| (link.known, known) == (Known::Ready, Known::Ready))
        {
            link.manager.tell_reloading("an upgrade is refused");
            link.known = Known::Reloading;
            self.tell_manager_of_failure(reason);
        }
    }

    /// Sends what is due by now: a sign of life, a request for more time, READY=1 once more.
    pub(in crate::engine) fn tell_manager_in_time(&mut self, now: Instant) {
        let Some(link) = &mut self.neighbours.manager else { return };
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if let Some(limit) = link.manager.watchdog.filter(|_| is_due(&mut link.next_sign)) {
            link.next_sign = Some(now + limit / 2);
            // The runtime of the body gives the sign, if there is one. A body that blocks its runtime gives none.
            if self.body.returned || !self.shared.pulse.ask() {
                link.manager.tell("WATCHDOG=1".to_owned());
            }
        }
        if is_due(&mut link.next_extension) {
            link.next_extension = Some(now + EXTEND_EVERY);
            link.manager.tell(format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
        }
        if let Some((_, delay)) = link.next_try.take_if(|(at, _)| *at <= now) {
            let delay = 4 * delay;
            link.next_try = (delay < LAST_TRY).then_some((now + delay, delay));
            if link.known == Known::Ready {
                link.tell_ready(self.shared.generation);
                link.stored = false;
                self.store();
            }
        }
    }

    /// The runtime of the body has given a sign of life.
    pub(in crate::engine) fn hear_pulse(&mut self) {
        self.answer_ping();
        if let Some(link) = self.neighbours.manager.as_mut().filter(|link| link.next_sign.is_some()) {
            link.manager.tell("WATCHDOG=1".to_owned());
        }
    }

    /// Has the manager store the listeners for the process that it starts after a crash. This waits until no predecessor can serve
    /// again with the listeners that are stored. The manager keeps the sockets of a socket unit anyway.
    pub(super) fn store(&mut self) {
        if self.neighbours.predecessor.is_some() {
            return;
        }
        let sockets = self
            .listeners
            .sockets
            .iter()
            .take(self.sockets_of_body().len())
            .filter(|socket| !socket.activated);
        let is_due = |link: &&mut ManagerLink| link.serves() && link.manager.store > 0 && !link.stored;
        let Some(link) = self.neighbours.manager.as_mut().filter(is_due) else { return };
        link.stored = true;
        // Listeners that are not served any more, or under another name: the manager would store them for good.
        let is_kept = |(name, address): &(String, String)| {
            sockets.clone().any(|socket| socket.name == *name && socket.address.identity() == *address)
        };
        for (former, _) in link.offered.drain(..).filter(|former| !is_kept(former)) {
            link.manager.forget(&former);
        }
        let room = link.manager.store;
        for socket in sockets.clone().take(room) {
            let is_datagram = matches!(socket.address.kind(), Kind::Udp | Kind::UnixDatagram);
            link.manager.store(&socket.name, socket.fd.clone(), is_datagram);
        }
        if sockets.clone().nth(room).is_some() {
            let count = sockets.count();
            complain!(
                self.shared,
                WARN,
                "the service manager keeps {room} of the {count} listeners; FileDescriptorStoreMax= is for all"
            );
        }
    }

    /// Has the manager follow the successor. The manager takes this message only of the process that it follows, which is this one. So
    /// the message also carries READY=1 of the successor.
    pub(super) fn announce(&mut self) -> Option<Event> {
        let (link, successor) = (self.neighbours.manager.as_mut()?, self.neighbours.successor.as_ref()?);
        let (pid, generation) = (successor.pid(), successor.generation);
        tell!(self.shared, DEBUG, successor = pid, "the service manager is told to follow the successor");
        let sign = if link.manager.watchdog.is_some() { "\nWATCHDOG=1" } else { "" };
        link.manager.tell(format!("MAINPID={pid}\nREADY=1\nSTATUS=generation {generation} serves{sign}"));
        // Without a descriptor for the barrier there is nothing to wait for.
        link.manager.ask_whether_heard().is_err().then_some(Event::Announced)
    }

    pub(in crate::engine) fn manager_has_heard(&mut self) -> bool {
        self.neighbours.manager.as_mut().is_some_and(|link| link.manager.has_heard())
    }
}
