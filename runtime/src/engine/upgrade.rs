//! The engine's part towards each neighbour, where a process can be upgraded.
//!
//! | file | |
//! |---|---|
//! | `check.rs` | the preflight command |
//! | `probe.rs` | the probe of a prepared successor, in both processes |
//! | `verify.rs` | the command that checks a successor on probation |
//! | `start.rs` | starts a successor, and offers it the sockets |
//! | `successor.rs` | the messages, the end and the death of the successor |
//! | `identity.rs` | whether a successor is this service, and what the service loses by an upgrade |
//! | `predecessor.rs` | the messages, the end and the death of the predecessor |
//! | `moving.rs` | the connections that move to the successor |
//! | `revert.rs` | a successor that gives the service back |
//! | `manager.rs` | the messages to the service manager, and their time |
//! | `listeners.rs` | the sockets that two processes have |
//! | `history.rs` | the upgrades that have ended, and what drains have cut |
//! | `outcome.rs` | the texts of refusals and outcomes |
//! | `status.rs` | what operators and the successor are told |
//! | `ending.rs` | the pid file, and the last word |

mod check;
mod ending;
mod history;
mod identity;
mod listeners;
mod manager;
mod moving;
mod outcome;
mod predecessor;
mod probe;
mod revert;
mod start;
mod status;
mod successor;
mod verify;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::base::error::UpgradeError;
use crate::base::report::complain;
use crate::base::unadopted::Unadopted;
use crate::between::gate_control::{ControlSocket, News};
use crate::between::note::{Inheritance, Order, UpgradeReply};
use crate::engine::core::{Engine, MAX_ARRIVALS};
use crate::engine::neighbours::{ManagerLink, PredecessorLink};
use crate::lifecycle::{Action, Event, Phase};
use crate::outside::handover::channel::Channel;
use crate::outside::handover::message::Message;
use crate::outside::probe::ProbeClient;
use crate::outside::sockets::BoundSocket;
use crate::outside::spawner::Image;
use crate::outside::systemd;
use crate::sys::poll;

/// The pause after a poll(2) that has failed for want of memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// The answer to requests that come after the end.
pub(super) const REFUSAL_AT_END: UpgradeError = UpgradeError::Terminating;

impl Engine {
    /// Waits for an arrival, a request or a deadline.
    pub(super) fn wait(&mut self) {
        self.tell_open();
        if let Err(error) = self.poll() {
            // poll(2) fails for want of memory only.
            if self.neighbours.cannot_wait.is_due() {
                complain!(self.shared, "the engine cannot wait: {error}");
            }
            thread::sleep(SHORTAGE_PAUSE);
        }
        self.shared.waker().clear();
    }

    fn poll(&mut self) -> io::Result<()> {
        let of_manager = self.neighbours.manager.as_ref().and_then(ManagerLink::deadline);
        let of_predecessor = self.neighbours.predecessor.as_ref().and_then(|it| it.dead_by);
        let of_successor = self.neighbours.successor.as_ref().and_then(|successor| successor.next_look);
        let others =
            self.open_is_due().into_iter().chain(of_manager).chain(of_predecessor).chain(of_successor);
        let others = others.chain(self.verify_is_due());
        let deadline = self.timers.values().copied().chain(self.decided_by()).chain(others).min();
        let mut fds = vec![PollFd::new(self.shared.waker().as_fd(), PollFlags::POLLIN)];
        let wanted = |channel: &Channel| {
            if channel.wants_to_send() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN }
        };
        if let Some(predecessor) = &self.neighbours.predecessor {
            if !predecessor.is_at_its_end {
                fds.push(PollFd::new(predecessor.channel.as_fd(), wanted(&predecessor.channel)));
            }
            fds.extend(predecessor.watch.iter().map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)));
        }
        let upgrade = &self.neighbours.upgrade;
        let verify = upgrade.verification.iter().filter_map(|it| it.run.as_ref()).map(|run| &run.check);
        for check in upgrade.check.iter().chain(&upgrade.ended_checks).chain(verify) {
            fds.extend(check.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        fds.extend(upgrade.probe.iter().flat_map(ProbeClient::fds));
        if let Some(successor) = &self.neighbours.successor {
            fds.extend(successor.living().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            if !successor.is_at_its_end {
                // Of a channel that cannot be used any more only the end is waited for, which poll(2) says unasked.
                let wanted =
                    if successor.is_cut_off { PollFlags::empty() } else { wanted(&successor.channel) };
                fds.push(PollFd::new(successor.channel.as_fd(), wanted));
            }
        }
        fds.extend(self.neighbours.manager.iter().flat_map(ManagerLink::fds));
        poll::until(&mut fds, deadline)
    }

    /// Takes what other processes have said or done, up to a bound. Returns how much it was.
    pub(super) fn take_arrivals(&mut self) -> usize {
        let mut taken = 0;
        while taken < MAX_ARRIVALS
            && self.verdict.is_none()
            && (self.take_from_predecessor()
                || self.take_from_successor()
                || self.take_from_check()
                || self.take_from_probe()
                || self.take_from_verify())
        {
            taken += 1;
        }
        taken
    }

    /// Carries out an action that concerns a neighbour.
    pub(super) fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Refuse(refusal) => self.refuse(refusal),
            Action::Postpone => self.postpone(),
            Action::ReportActive => self.report_active(),
            Action::Report(outcome) => self.report(outcome),
            Action::Check => return self.check(),
            Action::EndCheck => self.end_check(),
            Action::Probe => return self.probe(),
            Action::EndProbe => self.end_probe(),
            Action::Verify => return self.verify(),
            Action::EndVerify => self.end_verify(),
            Action::Spawn => return self.spawn(self.neighbours.upgrade.order.image),
            Action::SpawnRescue => return self.spawn_rescue(),
            Action::SendCommit => self.send_to_successor(&Message::Commit),
            Action::SendStop => self.send_to_successor(&Message::Stop),
            Action::SendFollowed => self.send_to_successor(&Message::Followed),
            Action::SendPing => self.send_to_successor(&Message::Ping),
            Action::SendPrepared => return self.send_prepared(),
            Action::SendActive => self.send_to_predecessor(&Message::Active),
            Action::SendFailed(failure) => {
                let reason = self.start_failure(failure);
                self.send_to_predecessor(&Message::Failed { reason });
            }
            Action::SendLeaving => self.send_to_predecessor(&Message::Leaving),
            // It goes to the process that drains, of which there is one.
            Action::SendHasten => {
                self.send_to_predecessor(&Message::Hasten);
                self.send_to_successor(&Message::Hasten);
            }
            Action::SendAskedBack => self.send_to_predecessor(&Message::AskedBack),
            Action::SendDeclined => self.send_to_successor(&Message::Declined),
            Action::SendRecall => self.send_recall(),
            Action::SendYielded => self.send_yielded(),
            Action::SendNotYielded => self.send_not_yielded(),
            Action::SendResumed => {
                self.take_connections_back();
                self.send_to_successor(&Message::Resumed);
            }
            Action::Reclaim => return Some(self.reclaim()),
            Action::Announce => return self.announce(),
            Action::Kill => {
                if let Some(successor) = &mut self.neighbours.successor {
                    successor.kill();
                }
            }
            Action::Pause => {
                self.stage_the_way_back();
                return Some(self.pause());
            }
            Action::Yield => return Some(self.yield_gates()),
            Action::ReportRevert(outcome) => self.report_revert(outcome),
            Action::TakeBack => self.take_back(),
            Action::MoveConnections => self.move_connections(),
            Action::KeepConnections => self.keep_connections(),
            // The engine carries them out itself.
            Action::WarnNotReady
            | Action::Open
            | Action::TakeOver
            | Action::Arm(_)
            | Action::Disarm(_)
            | Action::LetGo
            | Action::Drain
            | Action::Hasten
            | Action::End(_) => {}
        }
        None
    }

    /// Starts this process's own executable in the place of a successor that is dead.
    fn spawn_rescue(&mut self) -> Option<Event> {
        let how = self.reason.take().unwrap_or_else(|| "is dead".to_owned());
        let more = self.of_dead_successor();
        complain!(
            self.shared,
            "the successor {how}{more}; this process's own executable is started in its place",
        );
        self.neighbours.upgrade.requested = Some(Instant::now());
        self.spawn(Image::Own)
    }

    /// A request to upgrade, by a signal or by a caller that waits for the answer.
    pub(super) fn ask_for_upgrade(&mut self, reply: Option<Arc<UpgradeReply>>, order: Order) {
        self.neighbours.upgrade.asking = Some((reply, order));
        self.feed(Event::Upgrade);
    }

    /// The request that is asked at this moment is not refused: its caller waits for the outcome. A postponed request was accepted
    /// before.
    fn accept_request(&mut self) {
        let upgrade = &mut self.neighbours.upgrade;
        if let Some((reply, order)) = upgrade.asking.take() {
            upgrade.waiting.extend(reply);
            upgrade.order = order;
        }
    }

    /// Answers the callers that wait for the outcome of an upgrade: this process ends.
    pub(super) fn refuse_waiting(&mut self) {
        for reply in self.neighbours.upgrade.waiting.drain(..) {
            reply.set(Err(UpgradeError::Terminating));
        }
        self.refuse_reverts();
        self.tell_outcome();
    }

    /// A request at the control socket to stop the service. A client that connected before the socket was handed over means the
    /// service, which the successor serves by now.
    pub(super) fn stop_service(&mut self) {
        if self.neighbours.successor.as_ref().is_some_and(|successor| successor.active_after.is_some()) {
            self.send_to_successor(&Message::Stop);
        }
        self.stop(None);
    }

    pub(super) fn add_control(&mut self, socket: BoundSocket, control: Arc<dyn ControlSocket>) {
        self.add_socket(Some(socket), vec![control.clone().as_gate()]);
        self.neighbours.control = Some(control);
        self.open_control_of_first_start();
    }

    /// The places of adopted sockets in the offer of the predecessor, and the names of their listeners here.
    pub(super) fn add_adopted(&mut self, adopted: impl IntoIterator<Item = (usize, String)>) {
        if let Some(predecessor) = &mut self.neighbours.predecessor {
            predecessor.adopted.extend(adopted);
        }
    }

    /// Takes what the start has got of the predecessor and of the service manager.
    pub(super) fn inherit(&mut self, inherited: Inheritance) {
        let Inheritance { adopted, manager, stored, warnings } = inherited;
        self.add_adopted(adopted);
        self.neighbours.manager = manager.map(|manager| ManagerLink::new(manager, stored));
        self.neighbours.warnings = warnings;
    }

    /// Closes the sockets of the service manager that no listener has adopted.
    pub(super) fn close_unadopted(&mut self, unadopted: VecDeque<Unadopted>) {
        let manager = self.neighbours.manager.as_mut().map(|link| &mut link.manager);
        systemd::close_unadopted(unadopted, self.shared.who(), manager);
    }

    /// A predecessor that watches this process says the reason in the outcome.
    pub(super) fn tell_predecessor_of_end(&mut self, reason: String) {
        self.send_to_predecessor(&Message::Failed { reason });
    }

    /// Why there was no `COMMIT`. The deadline of the answer, and that of a death after the end of the channel, come at the same time.
    pub(super) fn no_commit(&self) -> String {
        let predecessor = self.neighbours.predecessor.as_ref().filter(|it| it.is_at_its_end);
        predecessor.map_or_else(|| "the predecessor did not answer".to_owned(), PredecessorLink::lost)
    }

    pub(super) fn before_open(&mut self) {
        self.restore_nonblocking();
        // A successor that lives on has served with its own options. The death of one has undone them already.
        if self.neighbours.successor.is_some() {
            self.undo_tuning();
        }
        self.shared.set_handed_over(false);
        // Of a revert that has failed: the predecessor cannot take the token any more, and takes no connection. Of a revert that has
        // succeeded: the successor takes none.
        self.neighbours.revert.token = None;
        self.shared.moving.giving.forget();
    }

    /// The end of a channel says that this process is dead. It lives as long as the code after `Service::run`, and so do the channels.
    pub(super) fn keep_channels(&mut self) {
        if let Some(predecessor) = self.neighbours.predecessor.take() {
            std::mem::forget(predecessor.channel);
        }
        if let Some(successor) = self.neighbours.successor.take() {
            std::mem::forget(successor.channel);
        }
    }

    /// Tells the clients of the control socket what has changed.
    pub(super) fn tell_control(&mut self) {
        self.open_control_of_first_start();
        self.tell_phase();
        self.wake_control();
    }

    /// Makes the thread of the control socket look.
    pub(super) fn wake_control(&self) {
        if let Some(control) = &self.neighbours.control {
            control.wake();
        }
    }

    pub(super) fn end_control(&mut self) {
        self.tell_phase();
        if let Some(control) = &self.neighbours.control {
            if let Some(drain) = &self.drained {
                control.tell(News::Drained(drain.clone()));
            }
            control.end();
        }
    }

    /// In a first start no other process answers operators, so the control socket opens at once. A request that waited in its queue would
    /// be carried out after the start, although a start refuses it.
    fn open_control_of_first_start(&self) {
        let is_start = matches!(self.state.phase, Phase::Starting | Phase::Prepared | Phase::TakingOver);
        let is_alone = self.neighbours.predecessor.is_none();
        if let Some(control) = self.neighbours.control.as_ref().filter(|_| is_start && is_alone) {
            control.open();
        }
    }
}
