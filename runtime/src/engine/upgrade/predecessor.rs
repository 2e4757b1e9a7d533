//! The engine's side of the channel to the predecessor: its messages, its end and its death.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::base::report::{complain, printable, tell};
use crate::engine::core::Engine;
use crate::engine::neighbours::PredecessorLink;
use crate::engine::upgrade::ending::pidfile_error;
use crate::engine::upgrade::identity::Comparison;
use crate::engine::upgrade::status::drain_end;
use crate::lifecycle::{Event, Followed, Phase, Predecessor};
use crate::outside::handover::channel::Received;
use crate::outside::handover::message::{ASKED_BACK, MAX_MESSAGE, Message};
use crate::outside::pidfile::{self, Pidfile};
use crate::sys::pidfd::is_dead;

/// How long after the end of the channel the predecessor may take to be dead: the kernel closes its descriptors first, which may be many
/// thousands of sockets. To be late costs nothing: it serves until it is dead.
const DEATH_AFTER_END: Duration = Duration::from_secs(10);

impl Engine {
    /// Takes one message, the end of the channel or the death of the predecessor. Returns whether there was one.
    pub(super) fn take_from_predecessor(&mut self) -> bool {
        let Some(predecessor) = &mut self.neighbours.predecessor else { return false };
        // Read before the channel: all that it sent before it died has arrived by then, and is taken first.
        let is_dead = predecessor.watch.as_ref().is_some_and(|watch| is_dead(watch.as_fd()));
        if predecessor.is_at_its_end {
            return self.look_at_ended_predecessor(is_dead);
        }
        // A send fails once the other end is closed. What the predecessor sent before is still read, and then the end.
        let flushed = predecessor.channel.flush();
        let is_start = matches!(self.state.phase, Phase::Starting | Phase::Prepared);
        match predecessor.channel.receive() {
            // A fork of the predecessor that has executed nothing may keep its end of the channel open.
            Ok(Received::Nothing) if is_dead => self.predecessor_died(),
            Ok(Received::Nothing) => match flushed {
                // The predecessor lives, and waits for a message that it will not get.
                Err(error) if is_start => {
                    self.lose_channel(format!("the channel to the predecessor: {error}"));
                }
                Ok(()) | Err(_) => return false,
            },
            Ok(Received::Message(message, fds)) => self.hear_predecessor(message, fds),
            Ok(Received::Unknown(name)) => {
                tell!(self.shared, DEBUG, name, "a message of a later release");
            }
            Ok(Received::End) => self.predecessor_ended(),
            Err(error) if is_start => self.lose_channel(format!("the channel to the predecessor: {error}")),
            // A process that serves needs to know only when its predecessor is gone.
            Err(error) if error.is_of_one_message() => {
                if self.neighbours.unexpected.is_due() {
                    complain!(self.shared, WARN, "a message of the predecessor is no good: {error}");
                }
            }
            Err(_) => self.predecessor_ended(),
        }
        true
    }

    fn hear_predecessor(&mut self, message: Message, fds: Vec<OwnedFd>) {
        let is_start = matches!(self.state.phase, Phase::Starting | Phase::Prepared);
        let Some(predecessor) = &mut self.neighbours.predecessor else { return };
        match message {
            Message::Commit => self.feed(Event::Commit),
            Message::Probe { listener, name, within_ms } => {
                self.hear_probe(listener, name, Duration::from_millis(within_ms), fds);
            }
            Message::Followed => self.feed(Event::Followed),
            Message::Ping => {
                (predecessor.was_pinged, predecessor.waits_for_pulse) = (true, true);
                // The runtime of the body answers, if there is one.
                if self.body.returned || !self.shared.pulse.ask() {
                    self.answer_ping();
                }
            }
            Message::Over => {
                tell!(
                    self.shared,
                    DEBUG,
                    predecessor = predecessor.offered.pid,
                    "the predecessor serves no more"
                );
                self.feed(Event::PredecessorOver);
            }
            Message::Stop => self.stop(None),
            Message::Recall => self.feed(Event::Recall),
            Message::Takes { listeners } => self.hear_takes_of_predecessor(listeners, fds),
            Message::Resumed => self.feed(Event::Resumed),
            Message::Declined => self.feed(Event::Declined),
            Message::Hasten => self.feed(Event::Hasten),
            Message::Open { open, drain_ms } => {
                predecessor.open = Some(open);
                predecessor.drain_end = drain_end(drain_ms);
            }
            Message::History { entries } => self.hear_history(entries),
            Message::Drained { aborted, peers, duration_ms } => {
                let pid = predecessor.offered.pid;
                self.hear_drained(self.shared.generation - 1, pid, aborted, &peers, duration_ms);
            }
            Message::NotUnderstood { unknown } if unknown == ASKED_BACK => self.feed(Event::Declined),
            Message::NotUnderstood { unknown } => tell!(
                self.shared,
                DEBUG,
                unknown = printable(&unknown),
                "the predecessor does not know a message"
            ),
            // The whole offer was taken before the engine ran. This one contradicts it, and what is meant to be served is a guess.
            // A process that serves by now drops what comes late: its descriptors are closed right here.
            Message::Offer { .. } | Message::Sockets { .. } | Message::Files { .. } if is_start => {
                self.lose_channel("the predecessor sent more than it had offered".to_owned());
            }
            message @ (Message::Offer { .. }
            | Message::Sockets { .. }
            | Message::Files { .. }
            | Message::Hello { .. }
            | Message::Unserved { .. }
            | Message::Prepared { .. }
            | Message::Unprobed { .. }
            | Message::Active
            | Message::Failed { .. }
            | Message::Leaving
            | Message::AskedBack
            | Message::Yielded { .. }
            | Message::NotYielded { .. }
            | Message::Alive) => {
                if self.neighbours.unexpected.is_due() {
                    complain!(self.shared, WARN, "a message that a predecessor does not send: {message:?}");
                }
            }
        }
    }

    /// The start fails, for the first reason that was found.
    fn lose_channel(&mut self, reason: String) {
        self.reason.get_or_insert(reason);
        self.feed(Event::ChannelLost);
    }

    /// The channel to the predecessor has ended. That is no death: a process that took it for one would serve beside a process that
    /// lives.
    fn predecessor_ended(&mut self) {
        let Some(predecessor) = &mut self.neighbours.predecessor else { return };
        if predecessor.watch.is_none() {
            return self.predecessor_died();
        }
        // A predecessor that is over may take its time.
        let is_over = self.state.predecessor == Predecessor::Over;
        predecessor.is_at_its_end = true;
        predecessor.dead_by = (!is_over).then(|| Instant::now() + DEATH_AFTER_END);
    }

    fn predecessor_died(&mut self) {
        self.predecessor_gone();
        self.feed(Event::PredecessorGone);
    }

    fn look_at_ended_predecessor(&mut self, is_dead: bool) -> bool {
        let Some(predecessor) = &mut self.neighbours.predecessor else { return false };
        if is_dead {
            self.predecessor_died();
            return true;
        }
        let is_late = predecessor.dead_by.take_if(|deadline| *deadline <= Instant::now()).is_some();
        if is_late {
            let lost = predecessor.lost();
            self.reason.get_or_insert(lost);
            self.feed(Event::PredecessorLost);
        }
        is_late
    }

    /// Sends the sign of life that the predecessor has asked for.
    pub(super) fn answer_ping(&mut self) {
        let owes =
            self.neighbours.predecessor.as_mut().is_some_and(|it| std::mem::take(&mut it.waits_for_pulse));
        if owes {
            self.send_to_predecessor(&Message::Alive);
        }
    }

    fn predecessor_gone(&mut self) {
        if self.state.phase == Phase::Serving {
            self.note_upgrade_to_this();
        }
        if let Some(predecessor) = self.neighbours.predecessor.take() {
            // Before the log says that it is gone: its staged pid file is removed here.
            self.known_dead(predecessor.offered.pid);
            let manager = self.neighbours.manager.as_mut();
            if let Some(manager) = manager.filter(|_| self.state.followed == Followed::Other) {
                manager.retry_ready();
            }
            self.end_sharing();
            self.store();
            self.warn_of_shortage();
            tell!(
                self.shared,
                INFO,
                predecessor = predecessor.offered.pid,
                phase = "alone",
                "the predecessor is gone"
            );
        }
        self.shared.predecessor_gone.set(());
    }

    /// Tells the predecessor which listeners the body has not asked for a connection yet.
    pub(in crate::engine) fn tell_unserved(&mut self, unserved: Vec<String>) {
        let Some(predecessor) = &mut self.neighbours.predecessor else { return };
        if predecessor.told_unserved.as_ref() == Some(&unserved) {
            return;
        }
        let mut message = Message::Unserved { listeners: unserved.clone() };
        // The names are for the error of a deadline that passes. If they do not fit into a packet, some of them are enough.
        while message.encode().len() > MAX_MESSAGE {
            if let Message::Unserved { listeners } = &mut message {
                listeners.truncate(listeners.len() / 2);
            }
        }
        match predecessor.channel.send_unless_full(&message) {
            // There is no room in the socket. Room wakes this thread, which then sends the names that are true by then.
            Ok(false) => {}
            // The next read notices that the predecessor is gone.
            Ok(true) | Err(_) => predecessor.told_unserved = Some(unserved),
        }
    }

    pub(super) fn send_to_predecessor(&mut self, message: &Message) {
        if let Some(predecessor) = &mut self.neighbours.predecessor {
            // The next read notices that the predecessor is gone.
            match predecessor.channel.send(message) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Stages the pid file, and tells the predecessor that this process is ready.
    pub(super) fn send_prepared(&mut self) -> Option<Event> {
        if let Some(pidfile) = &self.pidfile {
            if let Err(error) = pidfile.stage() {
                self.reason = Some(pidfile_error(pidfile, error));
                return Some(Event::PidfileFailed);
            }
        }
        tell!(self.shared, INFO, phase = "prepared", "ready");
        let ours = pidfile::shown(self.pidfile.as_ref().map(Pidfile::path));
        let mut adopted: Vec<usize> = Vec::new();
        let mut pidfile = None;
        if let Some(PredecessorLink { adopted: places, offered, .. }) = &self.neighbours.predecessor {
            adopted.extend(places.iter().map(|(place, _)| *place));
            let places: HashSet<_> = adopted.iter().collect();
            let lost = offered.listeners.iter().enumerate().filter(|(at, _)| !places.contains(at));
            let lost = lost.map(|(_, (name, address))| (name.as_str(), address.as_str()));
            let comparison = Comparison {
                old: &offered.identity,
                new: &self.settings.identity,
                old_pidfile: offered.pidfile.as_deref(),
                new_pidfile: Some(&ours),
            };
            self.neighbours.warnings.extend(comparison.warnings(lost));
            // A predecessor of an older release does not name its pid file, and compares nothing.
            pidfile = offered.pidfile.is_some().then_some(ours);
        }
        self.take_connections();
        self.send_to_predecessor(&Message::Prepared { adopted, pidfile });
        None
    }
}
