//! The engine's side of the channel to the predecessor.

use super::Engine;
use super::ending::pidfile_error;
use crate::handover::channel::Received;
use crate::handover::message::{MAX_MESSAGE, Message};
use crate::lifecycle::{Event, Followed, Phase};
use crate::report::{complain, printable, tell};

impl Engine {
    pub(super) fn take_from_parent(&mut self) -> bool {
        let Some(parent) = &mut self.parent else { return false };
        // A send fails once the other end is closed. What it said before is read all the same, and then its end.
        let flushed = parent.channel.flush();
        let event = match parent.channel.receive() {
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
                if self.stray.is_due() {
                    complain!(self.shared, WARN, "a message that a predecessor does not send: {message:?}");
                }
                return true;
            }
            Ok(Received::Unknown(name)) => {
                tell!(self.shared, DEBUG, name, "a message of a later release");
                return true;
            }
            Ok(Received::End) => {
                self.parent_gone();
                Event::PredecessorGone
            }
            Err(error) if matches!(self.state.phase, Phase::Starting | Phase::Prepared) => {
                self.reason.get_or_insert(format!("the channel to the predecessor: {error}"));
                Event::ChannelLost
            }
            // A process that serves needs to know of its predecessor only when that is gone.
            Err(error) if error.is_of_one_message() => {
                if self.stray.is_due() {
                    complain!(self.shared, WARN, "a message of the predecessor is no good: {error}");
                }
                return true;
            }
            Err(_) => {
                self.parent_gone();
                Event::PredecessorGone
            }
        };
        self.feed(event);
        true
    }

    pub(super) fn parent_gone(&mut self) {
        if let Some(parent) = self.parent.take() {
            // Whoever reads that it is gone finds nothing left of it.
            self.known_dead(parent.pid);
            if let Some(told) = self.told.as_mut().filter(|_| self.state.followed == Followed::Other) {
                told.is_unsure();
            }
            self.lose_company();
            self.store();
            tell!(self.shared, INFO, predecessor = parent.pid, phase = "alone", "the predecessor is gone");
        }
        self.shared.predecessor_gone.set(());
    }

    pub(super) fn tell_unserved(&mut self, unserved: Vec<String>) {
        let Some(parent) = &mut self.parent else { return };
        if self.told_unserved.as_ref() == Some(&unserved) {
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
            Ok(true) | Err(_) => self.told_unserved = Some(unserved),
        }
    }

    pub(super) fn say_up(&mut self, message: &Message) {
        if let Some(parent) = &mut self.parent {
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
        let adopted = self.parent.as_ref().map(|parent| parent.adopted.clone()).unwrap_or_default();
        self.say_up(&Message::Prepared { adopted });
        None
    }
}
