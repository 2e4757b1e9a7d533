//! What the service manager is told, and when.

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
    /// Tells the manager what it does not know yet of this process, if it is the one that tells.
    pub(in crate::engine) fn tell_manager(&mut self) {
        let known = self.state.known();
        let Some(told) = self.neighbours.manager.as_mut().filter(|told| told.known != known) else { return };
        let before = mem::replace(&mut told.known, known);
        let now = Instant::now();
        // With whom to follow the predecessor has said that this one is ready and lives. What this one says at once may
        // come before that, and be refused.
        let is_said =
            known == Known::Ready && before == Known::Nothing && self.neighbours.predecessor.is_some();
        let limit = told.manager.watchdog.filter(|_| told.serves());
        told.next_sign = limit.map(|limit| if is_said { now + limit / 2 } else { now });
        told.next_extension = matches!(known, Known::Reloading | Known::Stopping).then_some(now);
        let generation = self.shared.generation;
        match known {
            Known::Starting | Known::Nothing => {}
            Known::Ready if is_said => {}
            // Whoever waits for the end of a reload waits no longer for a manager that may not listen.
            Known::Ready if told.next_try.is_some() && before != Known::Reloading => {}
            Known::Ready => {
                told.tell_ready(generation);
                self.store();
            }
            Known::Reloading => {
                // One that goes back to serving is in the same upgrade.
                if before == Known::Ready {
                    told.failure = None;
                }
                let status = format!("generation {generation} serves, and is being upgraded");
                told.manager.tell_reloading(&status);
            }
            Known::Stopping => {
                let open = self.shared.counted();
                told.manager.tell(format!("STOPPING=1\nSTATUS=stopping; {open} connections are open"));
            }
        }
        self.tell_manager_in_time(now);
    }

    /// Why the upgrade has failed, and that it is over: before whoever waits for the outcome hears it, which may be the
    /// command that the manager waits for.
    pub(super) fn tell_manager_of_failure(&mut self, reason: &str) {
        if let Some(told) = &mut self.neighbours.manager {
            told.failure = Some(reason.to_owned());
        }
        self.tell_manager();
    }

    /// An upgrade was refused: to a manager that waits for one it has begun and failed.
    pub(super) fn tell_manager_of_refusal(&mut self, reason: &str) {
        let known = self.state.known();
        if let Some(told) = self
            .neighbours
            .manager
            .as_mut()
            .filter(|told| (told.known, known) == (Known::Ready, Known::Ready))
        {
            told.manager.tell_reloading("an upgrade is refused");
            told.known = Known::Reloading;
            self.tell_manager_of_failure(reason);
        }
    }

    /// What is due by now: a sign of life, and that it takes longer.
    pub(in crate::engine) fn tell_manager_in_time(&mut self, now: Instant) {
        let Some(told) = &mut self.neighbours.manager else { return };
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if let Some(limit) = told.manager.watchdog.filter(|_| is_due(&mut told.next_sign)) {
            told.next_sign = Some(now + limit / 2);
            // The runtime of the body gives it, if there is one: a body that blocks it gives none.
            if self.body.returned || !self.shared.pulse.ask() {
                told.manager.tell("WATCHDOG=1".to_owned());
            }
        }
        if is_due(&mut told.next_extension) {
            told.next_extension = Some(now + EXTEND_EVERY);
            told.manager.tell(format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
        }
        if let Some((_, delay)) = told.next_try.take_if(|(at, _)| *at <= now) {
            let delay = 4 * delay;
            told.next_try = (delay < LAST_TRY).then_some((now + delay, delay));
            if told.known == Known::Ready {
                told.tell_ready(self.shared.generation);
                told.stored = false;
                self.store();
            }
        }
    }

    /// The runtime of the body has answered.
    pub(in crate::engine) fn hear_pulse(&mut self) {
        self.answer_ping();
        if let Some(told) = self.neighbours.manager.as_mut().filter(|told| told.next_sign.is_some()) {
            told.manager.tell("WATCHDOG=1".to_owned());
        }
    }

    /// Has the manager keep the listeners for whoever it starts after a crash, once no predecessor can serve again with
    /// those that are kept so far. What a socket unit has passed it keeps anyway.
    pub(super) fn store(&mut self) {
        if self.neighbours.predecessor.is_some() {
            return;
        }
        let held =
            self.listeners.sockets.iter().take(self.sockets_of_body().len()).filter(|held| !held.activated);
        let is_due = |told: &&mut ManagerLink| told.serves() && told.manager.store > 0 && !told.stored;
        let Some(told) = self.neighbours.manager.as_mut().filter(is_due) else { return };
        told.stored = true;
        // What is served no longer, or under another name: the manager keeps it under this one, and would for good.
        let is_kept = |(name, address): &(String, String)| {
            held.clone().any(|held| held.name == *name && held.address.identity() == *address)
        };
        for (former, _) in told.offered.drain(..).filter(|former| !is_kept(former)) {
            told.manager.forget(&former);
        }
        let room = told.manager.store;
        for held in held.clone().take(room) {
            let is_datagram = matches!(held.address.kind(), Kind::Udp | Kind::UnixDatagram);
            told.manager.store(&held.name, held.fd.clone(), is_datagram);
        }
        if held.clone().nth(room).is_some() {
            let count = held.count();
            complain!(
                self.shared,
                WARN,
                "the service manager keeps {room} of the {count} listeners; FileDescriptorStoreMax= is for all"
            );
        }
    }

    /// Has the manager follow the successor. It takes that of this process alone, which it follows so far, and so what the
    /// successor is to say is said here.
    pub(super) fn announce(&mut self) -> Option<Event> {
        let (told, successor) = (self.neighbours.manager.as_mut()?, self.neighbours.successor.as_ref()?);
        let (pid, generation) = (successor.pid(), successor.generation);
        tell!(self.shared, DEBUG, successor = pid, "the service manager is told to follow the successor");
        let sign = if told.manager.watchdog.is_some() { "\nWATCHDOG=1" } else { "" };
        told.manager.tell(format!("MAINPID={pid}\nREADY=1\nSTATUS=generation {generation} serves{sign}"));
        // Without descriptors for a barrier it is not waited for.
        told.manager.ask_whether_heard().is_err().then_some(Event::Announced)
    }

    pub(in crate::engine) fn manager_has_heard(&mut self) -> bool {
        self.neighbours.manager.as_mut().is_some_and(|told| told.manager.has_heard())
    }
}
