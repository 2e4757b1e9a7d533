//! The engine's side of the channel to the successor: its messages, its end and its death.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::base::report::{complain, printable, tell};
use crate::between::gate_control::CONTROL_SOCKET;
use crate::engine::core::Engine;
use crate::engine::neighbours::{DEATH_AFTER_END, DeadSuccessor};
use crate::engine::upgrade::history::executable_of;
use crate::lifecycle::{Drain, Event, Phase, Rescue};
use crate::outside::handover::channel::Received;
use crate::outside::handover::message::{Message, PING, PROBE, RECALL, Speaker};
use crate::sys::pidfd;

/// How often the processes are looked for that a dead successor has left behind.
const LOOK_FOR_STRAYS_EVERY: Duration = Duration::from_secs(1);
/// How long a child may take from its fork to its program. Until then it has all descriptors of its parent.
const UNTIL_EXEC: Duration = Duration::from_millis(100);

impl Engine {
    /// Sends a message, unless the channel is unusable.
    pub(super) fn send_to_successor(&mut self, message: &Message) {
        if let Some(successor) = self.neighbours.successor.as_mut().filter(|successor| !successor.is_cut_off)
        {
            // The next read notices that the successor is gone.
            match successor.channel.send(message) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Takes one message, the end of the channel or the death of the successor. Returns whether there was one.
    pub(super) fn take_from_successor(&mut self) -> bool {
        let Some(successor) = &mut self.neighbours.successor else { return false };
        // Read before the channel: all that it sent before it died has arrived by then, and is taken first.
        successor.reap();
        let is_dead = successor.is_dead();
        if !successor.is_cut_off {
            // The read after a send that fails tells why.
            let flushed = successor.channel.flush();
            let lost = match successor.channel.receive() {
                Ok(Received::Nothing) => {
                    flushed.err().map(|error| format!("the channel to it failed: {error}"))
                }
                Ok(Received::Message(message, fds)) => {
                    successor.learn_speaker();
                    self.hear_successor(message, fds);
                    return true;
                }
                Ok(Received::Unknown(name)) => {
                    successor.learn_speaker();
                    tell!(self.shared, DEBUG, name, "a message of a later release");
                    return true;
                }
                Ok(Received::End) => Some("it closed the channel and went on running".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(how) = lost {
                successor.is_cut_off = true;
                // As a rule the process is about to be dead. Only a process that goes on has broken the protocol.
                if successor.channel.is_at_its_end() {
                    successor.wait_until_dead(Instant::now() + DEATH_AFTER_END);
                }
                if !successor.is_dead() {
                    self.reason.get_or_insert(how);
                    self.feed(Event::ChannelLost);
                }
                return true;
            }
        }
        successor.is_at_its_end = successor.is_at_its_end || successor.channel.is_at_its_end();
        if successor.exited.is_some() && !successor.is_at_its_end && !successor.is_forked {
            // A child of that process, or of this one, has the channel until it executes its program.
            successor.is_at_its_end = successor.channel.ends_by(Instant::now() + UNTIL_EXEC);
        }
        match &successor.exited {
            Some(_) if successor.is_at_its_end && is_dead => {
                self.bury();
                true
            }
            Some(how) if !successor.is_at_its_end && successor.child.may_fork() => {
                if std::mem::replace(&mut successor.is_forked, true) {
                    return is_dead && self.kill_left_behind();
                }
                let how = if pidfd::is_failure(how) {
                    left_behind(how, successor.inodes)
                } else {
                    put_into_background(successor.child.pid(), how)
                };
                self.reason.get_or_insert(how);
                self.feed(Event::Forked);
                true
            }
            _ => false,
        }
    }

    /// The successor is dead, and no process that it forked is left.
    fn bury(&mut self) {
        let Some(mut successor) = self.neighbours.successor.take() else { return };
        self.neighbours.upgrade.dead_successor = DeadSuccessor {
            is_killed: successor.is_killed,
            pid: self.is_process.then(|| successor.pid()),
            release: successor.release(),
            last_words: successor.last_words.take(),
            unserved: successor.unserved.take(),
        };
        let how = successor.exited.take().unwrap_or_default();
        tell!(self.shared, DEBUG, successor = successor.pid(), how, "the successor is gone");
        // No upgrade waits for an outcome and no other process is started, so this is the only report.
        if self.state.phase == Phase::Draining(Drain::Replaced { stop: true }) {
            let pid = successor.pid();
            complain!(
                self.shared,
                "the successor, process {pid}, {how}; this process was told to stop, and the service is down"
            );
        }
        self.reason.get_or_insert(how);
        self.known_dead(successor.child.pid());
        successor.others.iter().for_each(|other| self.known_dead(*other));
        // Its descriptors here are closed before the end is reported.
        drop(successor);
        self.shared.moving.giving.forget();
        self.end_sharing();
        // The manager was told to follow it, and may do so by now.
        if let Some(told) =
            self.neighbours.manager.as_mut().filter(|_| matches!(self.state.phase, Phase::Announcing { .. }))
        {
            told.retry_ready();
        }
        self.feed(Event::Exited);
    }

    /// Kills the processes that hold the channel of a successor whose known processes are dead. The successor has forked them: its end
    /// of the channel is closed on exec. Returns whether it was time to look for them.
    pub(super) fn kill_left_behind(&mut self) -> bool {
        let Some(successor) = &mut self.neighbours.successor else { return false };
        let now = Instant::now();
        if successor.next_look.is_some_and(|at| at > now) {
            return false;
        }
        successor.next_look = Some(now + LOOK_FOR_STRAYS_EVERY);
        let [theirs, ours] = successor.inodes;
        // A fork of this process that was made while both ends were here has both, and belongs to no successor.
        let (forks, strays): (Vec<_>, Vec<_>) =
            pidfd::holders(theirs).into_iter().partition(|holder| pidfd::holds(holder.pid, ours));
        for stray in &strays {
            tell!(
                self.shared,
                INFO,
                stray = stray.pid,
                "a process that the successor has left behind is ended"
            );
            stray.kill();
            successor.others.insert(stray.pid);
        }
        if strays.is_empty() && !forks.is_empty() {
            successor.is_at_its_end = true;
        } else if strays.is_empty()
            && !successor.channel.is_at_its_end()
            && self.neighbours.cannot_end.is_due()
        {
            complain!(
                self.shared,
                "a process that the successor has left behind holds its handover channel, and user {} cannot see or end it; \
                 end it by hand",
                geteuid()
            );
        }
        true
    }

    fn hear_successor(&mut self, message: Message, fds: Vec<OwnedFd>) {
        if let Message::Takes { listeners } = message {
            self.hear_takes(listeners, fds);
        } else if let Message::Yielded { drain_ms } = message {
            let event = self.hear_yielded(drain_ms, fds);
            self.feed(event);
        } else if let Some(event) = self.event_of(message) {
            self.feed(event);
        }
    }

    /// The event that a message of the successor is, if it is one.
    fn event_of(&mut self, message: Message) -> Option<Event> {
        let has_no_commit = matches!(
            self.state.phase,
            Phase::Upgrading
                | Phase::Probing
                | Phase::Pausing
                | Phase::Draining(Drain::Rescue { step: Rescue::Initialising, .. })
        );
        let successor = self.neighbours.successor.as_mut()?;
        let event = match message {
            // A successor may not serve before COMMIT. The life cycle ends the upgrade, and this text is its reason.
            Message::Active | Message::Leaving if has_no_commit => {
                let claim = if message == Message::Active { "serves" } else { "has served" };
                self.reason = Some(format!("it says that it {claim}, and was not told to"));
                Event::ChannelLost
            }
            Message::Hello { speaker } => return self.hear_hello(&speaker),
            Message::Unserved { mut listeners } => {
                listeners.truncate(self.listeners.sockets.len());
                successor.unserved = Some(listeners.iter().map(|name| printable(name)).collect());
                return None;
            }
            Message::Prepared { adopted, pidfile } => self.hear_prepared(&adopted, pidfile.as_deref()),
            Message::Active => {
                successor.active_after = Some(self.neighbours.upgrade.elapsed());
                Event::Active
            }
            Message::Failed { reason } => {
                // A successor that serves may end with no more than a status: these words say why.
                if successor.active_after.is_some() {
                    successor.last_words = Some(printable(&reason));
                } else {
                    // The first reason is the cause: a successor that is refused says that it was told to stop.
                    self.reason.get_or_insert_with(|| printable(&reason));
                }
                Event::Failed
            }
            Message::Leaving => Event::Leaving,
            Message::AskedBack => Event::AskedBack,
            Message::NotYielded { reason } => self.not_yielded(printable(&reason)),
            Message::Hasten => Event::Hasten,
            Message::Alive => Event::Alive,
            Message::Drained { aborted, peers, duration_ms } => {
                let (generation, pid) = (successor.generation, successor.pid());
                self.hear_drained(generation, pid, aborted, &peers, duration_ms);
                return None;
            }
            Message::Over => {
                // Its last words say why. It may live on, so there is no exit status.
                self.reason.get_or_insert_with(|| "ended".to_owned());
                Event::SuccessorOver
            }
            // An engine that answers runs.
            Message::NotUnderstood { unknown } if unknown == PING => Event::Alive,
            Message::NotUnderstood { unknown } if unknown == RECALL => {
                self.not_yielded("its release cannot give the service back".to_owned())
            }
            Message::NotUnderstood { unknown } if unknown == PROBE => {
                return self.hear_that_it_cannot_be_probed();
            }
            Message::Unprobed { reason } => return self.hear_unprobed(&reason),
            Message::NotUnderstood { unknown } => {
                let unknown = printable(&unknown);
                tell!(self.shared, DEBUG, unknown, "the successor does not know a message");
                return None;
            }
            message @ (Message::Offer { .. }
            | Message::Sockets { .. }
            | Message::Files { .. }
            | Message::Takes { .. }
            | Message::Yielded { .. }
            | Message::Recall
            | Message::Resumed
            | Message::Declined
            | Message::Probe { .. }
            | Message::Commit
            | Message::Stop
            | Message::Open { .. }
            | Message::History { .. }
            | Message::Followed
            | Message::Ping) => {
                if self.neighbours.unexpected.is_due() {
                    complain!(self.shared, WARN, "a message that a successor does not send: {message:?}");
                }
                return None;
            }
        };
        Some(event)
    }

    fn hear_hello(&mut self, speaker: &Speaker) -> Option<Event> {
        let successor = self.neighbours.successor.as_mut()?;
        if let Err(refusal) = speaker.understands_us() {
            self.reason = Some(refusal);
            return Some(Event::ChannelLost);
        }
        successor.identity = speaker.identity();
        successor.executable = executable_of(successor.pid());
        let names = self.listeners.gates.iter().map(|gate| gate.name());
        let names = names.filter(|name| *name != CONTROL_SOCKET).map(str::to_owned);
        successor.unserved.get_or_insert_with(|| names.collect());
        None
    }

    /// The successor is ready: it has adopted the sockets at these places of the offer.
    fn hear_prepared(&mut self, adopted: &[usize], pidfile: Option<&str>) -> Event {
        let sockets = &self.listeners.sockets;
        let mut seen = vec![false; sockets.len()];
        let fits = |at: &usize| seen.get_mut(*at).is_some_and(|seen| !std::mem::replace(seen, true));
        if !adopted.iter().all(fits) {
            self.reason = Some("it adopted sockets that were not offered".to_owned());
            return Event::ChannelLost;
        }
        if let Some(successor) = &mut self.neighbours.successor {
            successor.adopted = adopted.iter().map(|at| sockets[*at].name.clone()).collect();
        }
        match self.judge(adopted, pidfile.map(printable).as_deref()) {
            Ok(()) => Event::Prepared,
            Err(refusal) => {
                self.reason = Some(refusal);
                Event::Refused
            }
        }
    }
}

/// The reason of a successor that failed, and left a helper behind that has executed no program and has its channel.
fn left_behind(how: &str, [theirs, ours]: [u64; 2]) -> String {
    let strays = pidfd::holders(theirs).into_iter().filter(|holder| !pidfd::holds(holder.pid, ours));
    let strays: Vec<_> = strays.map(|stray| stray.pid.to_string()).collect();
    let stray = if strays.is_empty() { "of its own".to_owned() } else { strays.join(", ") };
    format!("{how} and left process {stray} behind, which holds its handover channel")
}

/// The reason of a successor that ended with success, and left a process behind that goes on.
fn put_into_background(pid: u32, how: &str) -> String {
    format!(
        "put itself into the background: process {pid}, which was started, {how}, and left another one behind; a release stays in \
         the foreground, without `daemonize`, without `&`, and behind `exec` in a script"
    )
}
