//! What the engine hears from the body: that it is ready, that it has returned, that nothing is left to drain.

use std::time::{Duration, Instant};

use crate::base::error::chain;
use crate::base::report::complain;
use crate::base::returned::BodyEnd;
use crate::between::gate_control::CONTROL_SOCKET;
use crate::engine::core::Engine;
use crate::engine::data::Preparation;
use crate::lifecycle::{Drain, Event, Phase, Predecessor};
use crate::sys::signals;

/// How long after the begin of service a stop may come before the body has run for the first time.
const YOUNG: Duration = Duration::from_secs(1);
/// How long the runtime of a body, or the thread of one without a runtime, may take to come to its `Shutdown`.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(1);
const THREAD_TIMEOUT: Duration = Duration::from_millis(200);

impl Engine {
    /// Looks at what the body has said, and at what is left to drain.
    pub(super) fn look_at_body(&mut self) {
        let is_prepared = self.body.preparation == Preparation::Done;
        if self.verdict.is_none() && is_prepared && self.state.phase == Phase::Starting {
            // A body that binds at run time is ready once it has bound something and serves it.
            let nothing_yet = self.listeners.gates.iter().all(|gate| gate.name() == CONTROL_SOCKET)
                && self.shared.pool().is_some();
            let all_asked = self.listeners.gates.iter().all(|gate| gate.asked());
            if self.body.ready || (!self.body.manual_ready && all_asked && !nothing_yet) {
                let unadopted = match self.shared.close_pool() {
                    Ok(unadopted) => unadopted,
                    Err(error) => {
                        self.reason = Some(chain(&error));
                        return self.feed(Event::NotReady);
                    }
                };
                self.close_unadopted(unadopted);
                if self.is_process {
                    signals::settle(self.settings.upgrade_signal);
                }
                self.take_requests();
                self.feed(Event::Ready);
            } else if self.body.ready_dropped && matches!(self.body.end, BodyEnd::Returned) {
                self.feed(Event::NotReady);
            } else {
                self.tell_unserved(self.unserved());
            }
        }
        // In a drain `Drained` counts instead: the tasks and threads that the body has left behind finish first.
        let draining = matches!(self.state.phase, Phase::Draining(_));
        if self.verdict.is_none() && self.body.returned && !self.body.returned_fed && !draining {
            self.body.returned_fed = true;
            self.tell_unasked_end();
            self.feed(Event::BodyReturned);
        }
        self.body.undecided_until.take_if(|until| *until <= Instant::now());
        if self.verdict.is_none() && self.is_drained() {
            self.feed(Event::Drained);
        }
    }

    fn is_drained(&self) -> bool {
        let asked = match self.state.phase {
            Phase::Draining(Drain::Rescue { finished, .. }) => !finished,
            Phase::Draining(Drain::Last { .. }) => false,
            Phase::Draining(_) => true,
            _ => false,
        };
        if !asked {
            return false;
        }
        // Without a body there is nothing to finish. The thread of `main` may begin the body at this moment, before its note is here.
        if self.body.preparation != Preparation::Done && self.shared.forbid_body() {
            return true;
        }
        self.shared.counted() == 0
            && (self.body.returned || !self.shared.waits_for_body() && self.decided_by().is_none())
    }

    /// At the begin of a drain the body of a young service may be about to await its `Shutdown`, and then the drain waits for the body: the
    /// stop may come before the end of the first poll of the body, or of a task that has the `Shutdown`. The answer of the runtime
    /// comes after both.
    pub(super) fn let_body_decide(&mut self) {
        let is_young = self.serving_since.is_none_or(|since| since.elapsed() < YOUNG);
        let timeout = || if self.shared.pulse.ask() { RUNTIME_TIMEOUT } else { THREAD_TIMEOUT };
        self.body.undecided_until = is_young.then(|| Instant::now() + timeout());
    }

    /// When a body that is undecided is not waited for any more. [`look_at_body`](Self::look_at_body) forgets it then, and no other place
    /// does: a wait that begins in between still has the deadline.
    pub(super) fn decided_by(&self) -> Option<Instant> {
        self.body.undecided_until.filter(|_| self.shared.is_body_undecided())
    }

    /// Warns of a body that has ended without a request: neither a supervisor nor a log could tell that end from one on request.
    fn tell_unasked_end(&mut self) {
        let serves = match self.state.phase {
            Phase::Serving | Phase::Checking | Phase::Upgrading | Phase::Probing | Phase::Pausing => true,
            Phase::Reverting { then_stop, .. } => !then_stop,
            // A start that fails says why. After a stop or an upgrade a body is meant to return.
            _ => false,
        };
        if !serves || self.requests.stopping.is_some() {
            return;
        }
        let end = self.body.end.unasked();
        let what = match self.state.phase {
            // A predecessor that is over does not go on, nor does a successor that is over or is being ended.
            _ if self.state.predecessor == Predecessor::Alive => {
                "this process ends, and its predecessor goes on"
            }
            Phase::Upgrading | Phase::Probing | Phase::Pausing => {
                "this process ends, and its successor goes on"
            }
            Phase::Reverting { paused: true, .. } => {
                "this process's own executable is started in its place, once its successor is gone"
            }
            _ => "the service ends",
        };
        complain!(self.shared, WARN, "{end}; {what}");
        self.tell_predecessor_of_end(end);
    }
}
