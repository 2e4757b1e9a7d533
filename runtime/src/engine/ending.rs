//! The end of a process: what it removes, and what it says of a start that fails or of a drain that takes too long.

use crate::base::limits::MAX_PEERS;
use crate::base::report::{complain, tell};
use crate::base::status::LastDrain;
use crate::between::shared::Verdict;
use crate::engine::core::{Engine, HASTE};
use crate::engine::data::Preparation;
use crate::engine::upgrade::REFUSAL_AT_END;
use crate::lifecycle::{End, StartFailure};
use crate::outside::sockets;
use crate::sys::signals::{self, Signal};

impl Engine {
    /// Ends the engine: removes the files of this process, tells its neighbours, and sets the verdict.
    pub(super) fn end(&mut self, end: End) {
        self.bury_successor();
        if let End::NotStarted(_) = end {
            self.listeners
                .sockets
                .iter()
                .filter(|socket| socket.created)
                .for_each(|socket| socket.remove(self.shared.who()));
        } else if matches!(end, End::Final | End::RescueFailed) {
            self.listeners.sockets.iter().for_each(|socket| socket.remove(self.shared.who()));
        }
        if let Some(pidfile) = &self.pidfile {
            pidfile.unstage();
            let ours: Vec<u32> = self.neighbours.dead.iter().copied().chain([self.shared.pid]).collect();
            if let Err(error) = pidfile.remove_if_names(&ours) {
                complain!(self.shared, "cannot remove the pid file {}: {error}", pidfile.path().display());
            }
        }
        self.account_for_drain();
        // Not before: a process that hears of the end may make the pid file its own, between the look at the file and its removal.
        if end != End::AtOnce {
            self.say_that_it_is_over();
        }
        self.refuse_waiting();
        self.verdict = Some(match end {
            End::Final | End::Replaced | End::NotStarted(None) => Verdict::Success,
            End::NotStarted(Some(failure)) => {
                let reason = self.start_failure(failure);
                // The thread of `main` says what fails there.
                if self.body.preparation != Preparation::Failed {
                    complain!(self.shared, "cannot start: {reason}");
                }
                if failure == StartFailure::BodyReturned { Verdict::OfBody } else { Verdict::Failure }
            }
            End::RescueFailed => {
                complain!(self.shared, "the service is down: no attempt to start it again worked");
                Verdict::Failure
            }
            // Only a process gets the second signal that this takes.
            End::AtOnce => {
                complain!(self.shared, "told to stop a second time; ending at once");
                self.end_control();
                signals::die_of(self.requests.stopping.unwrap_or(Signal::SIGTERM));
            }
        });
        self.tell_moves();
        tell!(self.shared, INFO, phase = "ended", "exiting");
        self.end_control();
    }

    /// Counts what this end cuts, and tells the neighbours. The count is as late as possible: a connection that is served to its
    /// end after the deadline of the drain is not cut.
    fn account_for_drain(&mut self) {
        // A process that has never served has taken no connection.
        if self.serving_since.is_none() {
            return;
        }
        let aborted = self.shared.aborted();
        let peers = if aborted == 0 { Vec::new() } else { self.peers() };
        let duration = self.draining_since.map(|since| since.elapsed()).unwrap_or_default();
        let (generation, pid) = (self.shared.generation, self.shared.pid);
        let drain = LastDrain { generation, pid, aborted, peers, duration };
        self.tell_drained(&drain);
        self.drained = Some(drain);
    }

    /// Why a start fails.
    pub(super) fn start_failure(&mut self, failure: StartFailure) -> String {
        if let Some(reason) = &self.reason {
            return reason.clone();
        }
        let reason = match failure {
            StartFailure::ReadyDropped => "the body dropped `Ready` without `notify`".to_owned(),
            StartFailure::BodyReturned => self.body.end.before_ready(),
            StartFailure::Pidfile => "cannot write the pid file".to_owned(),
            StartFailure::Channel => "the channel to the predecessor failed".to_owned(),
            StartFailure::NoCommit => self.no_commit(),
            StartFailure::Stopped => "it was told to stop".to_owned(),
        };
        self.reason.insert(reason).clone()
    }

    /// The clients of the connections that stay in this process.
    fn peers(&self) -> Vec<String> {
        sockets::peers(&self.listeners.ports, MAX_PEERS, &self.shared.moving.giving.going_peers())
    }

    /// Says at the deadline of a drain what is left.
    pub(super) fn name_what_is_left(&self) {
        let count = self.shared.aborted();
        let body = if self.body.returned { "" } else { "; the body has not returned" };
        let peers = self.peers();
        let peers = if peers.is_empty() { String::new() } else { format!(" (from {})", peers.join(", ")) };
        complain!(
            self.shared,
            "not drained within {}: {count} connections and guards are open{peers}{body}; what is left is aborted",
            humantime::format_duration(if self.hastened { HASTE } else { self.settings.timeouts.drain }),
        );
    }

    /// Warns of a first start that is slow to become ready.
    pub(super) fn warn_not_ready(&self) {
        if !self.not_ready.is_due() {
            return;
        }
        let after = humantime::format_duration(self.settings.timeouts.upgrade);
        let because = match self.body.preparation {
            Preparation::UnderWay => "it still binds its listeners, or prepares its body".to_owned(),
            _ => not_ready_because(Some(&self.unserved())),
        };
        complain!(self.shared, "not ready after {after}: {because}");
    }

    /// Answers the requests that come after the end of the engine: no process waits for them any more.
    pub(super) fn close(&mut self) {
        self.refuse_waiting();
        self.shared.close(REFUSAL_AT_END, self.status());
        self.shared.moving.end();
    }
}

/// Why a start is not ready. `None` for a process that has not sent a message yet.
pub(super) fn not_ready_because(unserved: Option<&[String]>) -> String {
    match unserved {
        None => {
            "it has not said anything yet: it was stopped, or hangs before `Service::run` takes the listeners"
                .to_owned()
        }
        Some([]) => "its body has not called `Ready::notify`".to_owned(),
        Some(names) => {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            format!("its body has not asked for a connection of {}", names.join(", "))
        }
    }
}
