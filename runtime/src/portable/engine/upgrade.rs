//! The engine towards its neighbours, where a process cannot be upgraded and has none: a request to upgrade is refused, and all else
//! does nothing.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::error::{RevertError, UpgradeError};
use crate::base::report::complain;
use crate::base::status::{LastDrain, Status};
use crate::base::unadopted::Unadopted;
use crate::between::note::{Inheritance, Order, RevertReply, UpgradeReply};
use crate::engine::core::Engine;
use crate::lifecycle::{Action, Event};
use crate::outside::pidfile::Pidfile;
use crate::outside::sockets::BoundSocket;

/// The answer to requests that come after the end.
pub(super) const REFUSAL_AT_END: UpgradeError = UpgradeError::Unsupported;

impl Engine {
    pub(super) fn wait(&mut self) {
        let deadline = self.timers.values().copied().chain(self.decided_by()).min();
        self.shared.waker().wait(deadline);
        self.take_requests();
        self.look_at_body();
    }

    pub(super) fn take_arrivals(&mut self) -> usize {
        0
    }

    /// Every action that the engine does not carry out itself concerns a neighbour.
    pub(super) fn act(&mut self, _action: Action) -> Option<Event> {
        None
    }

    /// The life cycle never hears of a request to upgrade.
    pub(super) fn ask_for_upgrade(&mut self, reply: Option<Arc<UpgradeReply>>, _order: Order) {
        let error = UpgradeError::Unsupported;
        if let Some(line) = self.requests.refused.line(&format!("upgrade refused: {error}")) {
            complain!(self.shared, WARN, "{line}");
        }
        if let Some(reply) = reply {
            reply.set(Err(error));
        }
    }

    pub(super) fn take_over(&mut self) -> Event {
        match self.pidfile.as_ref().map(|pidfile| (pidfile, pidfile.publish())) {
            Some((pidfile, Err(error))) => {
                self.reason = Some(pidfile_error(pidfile, error));
                Event::PidfileFailed
            }
            Some((_, Ok(()))) | None => Event::TookOver,
        }
    }

    pub(super) fn no_commit(&self) -> String {
        "a predecessor failed, and there is none".to_owned()
    }

    pub(super) fn is_adopted(&self, _listener: &str) -> bool {
        false
    }

    pub(super) fn comes_from_predecessor(&self, _listener: &str) -> bool {
        false
    }

    pub(super) fn ask_for_revert(&mut self, reply: Arc<RevertReply>) {
        reply.set(Err(RevertError::Unsupported));
    }

    pub(super) fn drain_of_remnant(&self) -> Duration {
        Duration::ZERO
    }

    pub(super) fn say_that_it_is_over(&mut self) {
        self.retire();
    }

    pub(super) fn manager_has_heard(&mut self) -> bool {
        false
    }

    pub(super) fn tell_lost_queues(&self, _given_up: &[BoundSocket]) {}
    pub(super) fn add_adopted(&mut self, _adopted: impl IntoIterator<Item = (usize, String)>) {}
    pub(super) fn inherit(&mut self, _inherited: Inheritance) {}
    pub(super) fn close_unadopted(&mut self, _unadopted: VecDeque<Unadopted>) {}
    pub(super) fn add_neighbours(&self, _status: &mut Status) {}
    pub(super) fn hear_pulse(&mut self) {}
    pub(super) fn tell_unserved(&mut self, _unserved: Vec<String>) {}
    pub(super) fn tell_predecessor_of_end(&mut self, _reason: String) {}
    pub(super) fn tell_manager(&mut self) {}
    pub(super) fn tell_manager_in_time(&mut self, _now: Instant) {}
    pub(super) fn tell_control(&mut self) {}
    pub(super) fn wake_control(&self) {}
    pub(super) fn end_control(&mut self) {}
    pub(super) fn refuse_waiting(&mut self) {}
    pub(super) fn before_open(&mut self) {}
    pub(super) fn bury_successor(&mut self) {}
    pub(super) fn keep_channels(&mut self) {}
    pub(super) fn tell_moves(&self) {}
    pub(super) fn tell_drained(&mut self, _drain: &LastDrain) {}
}

fn pidfile_error(pidfile: &Pidfile, error: io::Error) -> String {
    format!("cannot write the pid file {}: {error}", pidfile.path().display())
}
