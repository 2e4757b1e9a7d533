//! The engine's side of the channel to the predecessor.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::base::report::{complain, printable, tell};
use crate::engine::core::Engine;
use crate::engine::neighbours::PredecessorLink;
use crate::engine::upgrade::ending::pidfile_error;
use crate::engine::upgrade::identity::Comparison;
use crate::lifecycle::{Event, Followed, Phase, Predecessor};
use crate::outside::handover::channel::Received;
use crate::outside::handover::message::{MAX_MESSAGE, Message};
use crate::outside::pidfile::{self, Pidfile};
use crate::sys::pidfd::is_dead;

/// How long after the end of the channel the predecessor may take to be dead: the kernel closes its descriptors first, which may be many
/// thousands of sockets. To be late costs nothing: it serves until it is dead.
const DEATH_AFTER_END: Duration = Duration::from_secs(10);

impl Engine {
    pub(super) fn take_from_predecessor(&mut self) -> bool {
        let Some(parent) = &mut self.neighbours.predecessor else { return false };
        // Looked at before the channel: what it said before it died has arrived by then, and is heard first.
        let is_dead = parent.watch.as_ref().is_some_and(|watch| is_dead(watch.as_fd()));
        if parent.is_at_its_end {
            return self.look_at_ended_predecessor(is_dead);
        }
        // A send fails once the other end is closed. What it said before is read all the same, and then its end.
        let flushed = parent.channel.flush();
        let event = match parent.channel.receive() {
            // A fork of it, which has executed nothing, may hold its end of the channel open for as long as it likes.
            Ok(Received::Nothing) if is_dead => {
                self.predecessor_gone();
                Event::PredecessorGone
            }
            Ok(Received::Nothing) => match flushed {
                // It lives, and waits for what it will not hear.
                Err(error) if matches!(self.state.phase, Phase::Starting | Phase::Prepared) => {
                    self.reason.get_or_insert(format!("the channel to the predecessor: {error}"));
                    Event::ChannelLost
                }
                Ok(()) | Err(_) => return false,
            },
            Ok(Received::Message(Message::Commit, _)) => Event::Commit,
            Ok(Received::Message(Message::Followed, _)) => Event::Followed,
            Ok(Received::Message(Message::Ping, _)) => {
                parent.waits_for_pulse = true;
                // The runtime of the body answers, if there is one.
                if self.body.returned || !self.shared.pulse.ask() {
                    self.answer_ping();
                }
                return true;
            }
            Ok(Received::Message(Message::Over, _)) => {
                tell!(self.shared, DEBUG, predecessor = parent.offered.pid, "the predecessor serves no more");
                Event::PredecessorOver
            }
            Ok(Received::Message(Message::Stop, _)) => {
                self.stop(None);
                return true;
            }
            Ok(Received::Message(Message::Open { open }, _)) => {
                parent.open = Some(open);
                return true;
            }
            Ok(Received::Message(Message::NotUnderstood { unknown }, _)) => {
                tell!(
                    self.shared,
                    DEBUG,
                    unknown = printable(&unknown),
                    "the predecessor does not know a message"
                );
                return true;
            }
            // The offer has been taken as a whole before there was an engine. It is wrong about itself, and what of it
            // is meant to be served is a guess. A process that serves by now drops what comes late: its descriptors
            // are closed right here.
            Ok(Received::Message(
                Message::Offer { .. } | Message::Sockets { .. } | Message::Files { .. },
                _,
            )) if matches!(self.state.phase, Phase::Starting | Phase::Prepared) => {
                self.reason.get_or_insert("the predecessor sent more than it had offered".to_owned());
                Event::ChannelLost
            }
            Ok(Received::Message(message, _)) => {
                if self.neighbours.stray.is_due() {
                    complain!(self.shared, WARN, "a message that a predecessor does not send: {message:?}");
                }
                return true;
            }
            Ok(Received::Unknown(name)) => {
                tell!(self.shared, DEBUG, name, "a message of a later release");
                return true;
            }
            Ok(Received::End) => return self.predecessor_ended(),
            Err(error) if matches!(self.state.phase, Phase::Starting | Phase::Prepared) => {
                self.reason.get_or_insert(format!("the channel to the predecessor: {error}"));
                Event::ChannelLost
            }
            // A process that serves needs to know of its predecessor only when that is gone.
            Err(error) if error.is_of_one_message() => {
                if self.neighbours.stray.is_due() {
                    complain!(self.shared, WARN, "a message of the predecessor is no good: {error}");
                }
                return true;
            }
            Err(_) => return self.predecessor_ended(),
        };
        self.feed(event);
        true
    }

    /// The channel to the predecessor is of no use any more. That is no death: whoever takes it for one serves beside a process
    /// that lives.
    fn predecessor_ended(&mut self) -> bool {
        let Some(parent) = &mut self.neighbours.predecessor else { return false };
        if parent.watch.is_none() {
            self.predecessor_gone();
            self.feed(Event::PredecessorGone);
            return true;
        }
        // One that is over may take its time.
        let is_over = self.state.predecessor == Predecessor::Over;
        parent.is_at_its_end = true;
        parent.dead_by = (!is_over).then(|| Instant::now() + DEATH_AFTER_END);
        true
    }

    fn look_at_ended_predecessor(&mut self, is_dead: bool) -> bool {
        let Some(parent) = &mut self.neighbours.predecessor else { return false };
        if is_dead {
            self.predecessor_gone();
            self.feed(Event::PredecessorGone);
            return true;
        }
        let is_late = parent.dead_by.take_if(|deadline| *deadline <= Instant::now()).is_some();
        if is_late {
            let lost = parent.lost();
            self.reason.get_or_insert(lost);
            self.feed(Event::PredecessorLost);
        }
        is_late
    }

    /// The sign of life that the predecessor has asked for.
    pub(super) fn answer_ping(&mut self) {
        let owes =
            self.neighbours.predecessor.as_mut().is_some_and(|it| std::mem::take(&mut it.waits_for_pulse));
        if owes {
            self.send_to_predecessor(&Message::Alive);
        }
    }

    pub(super) fn predecessor_gone(&mut self) {
        if let Some(parent) = self.neighbours.predecessor.take() {
            // Whoever reads that it is gone finds nothing left of it.
            self.known_dead(parent.offered.pid);
            if let Some(told) =
                self.neighbours.manager.as_mut().filter(|_| self.state.followed == Followed::Other)
            {
                told.is_unsure();
            }
            self.end_sharing();
            self.store();
            tell!(
                self.shared,
                INFO,
                predecessor = parent.offered.pid,
                phase = "alone",
                "the predecessor is gone"
            );
        }
        self.shared.predecessor_gone.set(());
    }

    pub(in crate::engine) fn tell_unserved(&mut self, unserved: Vec<String>) {
        let Some(parent) = &mut self.neighbours.predecessor else { return };
        if parent.told_unserved.as_ref() == Some(&unserved) {
            return;
        }
        let mut message = Message::Unserved { listeners: unserved.clone() };
        // It is for the words of a deadline that passes: of more names than fit in a packet, some are enough.
        while message.encode().len() > MAX_MESSAGE {
            if let Message::Unserved { listeners } = &mut message {
                listeners.truncate(listeners.len() / 2);
            }
        }
        match parent.channel.send_unless_full(&message) {
            // Only what is true by then is said once there is room again, which wakes this thread.
            Ok(false) => {}
            // A predecessor that is gone is noticed by the read that follows.
            Ok(true) | Err(_) => parent.told_unserved = Some(unserved),
        }
    }

    pub(super) fn send_to_predecessor(&mut self, message: &Message) {
        if let Some(parent) = &mut self.neighbours.predecessor {
            // A predecessor that is gone is noticed by the read that follows.
            match parent.channel.send(message) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    pub(super) fn send_prepared(&mut self) -> Option<Event> {
        if let Some(pidfile) = &self.pidfile {
            if let Err(error) = pidfile.stage() {
                self.reason = Some(pidfile_error(pidfile, error));
                return Some(Event::PidfileFailed);
            }
        }
        tell!(self.shared, INFO, phase = "prepared", "ready");
        let ours = pidfile::shown(self.pidfile.as_ref().map(Pidfile::path));
        let mut adopted = Vec::new();
        let mut pidfile = None;
        if let Some(PredecessorLink { adopted: places, offered, .. }) = &self.neighbours.predecessor {
            adopted.clone_from(places);
            let places: HashSet<_> = places.iter().collect();
            let lost = offered.listeners.iter().enumerate().filter(|(at, _)| !places.contains(at));
            let lost = lost.map(|(_, (name, address))| (name.as_str(), address.as_str()));
            let upgrade = Comparison {
                old: &offered.identity,
                new: &self.settings.identity,
                old_pidfile: offered.pidfile.as_deref(),
                new_pidfile: Some(&ours),
            };
            self.neighbours.warnings.extend(upgrade.warnings(lost));
            // A release that does not say its own has nothing to compare it with.
            pidfile = offered.pidfile.is_some().then_some(ours);
        }
        self.send_to_predecessor(&Message::Prepared { adopted, pidfile });
        None
    }
}
