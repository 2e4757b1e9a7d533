//! Starting the successor, and the engine's side of the channel to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;

use crate::base::report::{complain, printable, tell};
use crate::between::gate_control::CONTROL_SOCKET;
use crate::engine::core::Engine;
use crate::engine::neighbours::{DEATH_AFTER_END, DeadSuccessor, Successor};
use crate::lifecycle::{Drain, Event, Phase, Rescue};
use crate::outside::handover::channel::{Channel, Received};
use crate::outside::handover::message::{MAX_DESCRIPTORS, MAX_FILE_NAME, Message, PING, Speaker, parts};
use crate::outside::pidfile::{self, Pidfile};
use crate::outside::sockets::BoundSocket;
use crate::outside::spawner::What;
use crate::sys::pidfd;

/// How often the processes are looked for that a dead successor has left behind.
const LOOK_FOR_STRAYS_EVERY: Duration = Duration::from_secs(1);
/// How long a child may take from its fork to its program. Until then it has all descriptors of its parent.
const UNTIL_EXEC: Duration = Duration::from_millis(100);

impl Engine {
    pub(super) fn spawn(&mut self, what: What) -> Option<Event> {
        self.reason = None;
        self.neighbours.upgrade.dead_successor = DeadSuccessor::default();
        match self.start_successor(what) {
            Ok(successor) => {
                tell!(
                    self.shared,
                    INFO,
                    phase = "upgrading",
                    successor = successor.child.pid(),
                    executable = self.neighbours.spawner.executable().map(|path| display(path.display())),
                    "started a successor"
                );
                // A process that is dead may have had its number, and the pid file of the live one is not removed for that.
                self.neighbours.dead.retain(|pid| *pid != successor.child.pid());
                self.neighbours.successor = Some(successor);
                self.neighbours.told_open = None;
                None
            }
            Err(reason) => {
                self.shared.set_shares_sockets(self.neighbours.predecessor.is_some());
                self.reason = Some(reason);
                Some(Event::SpawnFailed)
            }
        }
    }

    pub(super) fn start_successor(&mut self, what: What) -> Result<Successor, String> {
        let speaker = Speaker::us(self.shared.generation, &self.settings.identity);
        let generation = speaker.next_generation()?;
        let cannot = |error: io::Error| format!("cannot make the handover channel: {error}");
        let (names, files): (Vec<_>, Vec<_>) = self.shared.passed_on().clone().into_iter().unzip();
        check_offer(self.listeners.sockets.len(), &names)?;
        check_budget(self.listeners.sockets.len(), files.len())?;
        let (mut channel, theirs): (Channel, OwnedFd) = Channel::pair().map_err(cannot)?;
        self.listeners.sockets.iter_mut().for_each(BoundSocket::note_tuning);
        // The offer is in the socket before there is anybody to read it, so that one who inherits the descriptor
        // by mistake finds out at once.
        let inode = |socket| pidfd::inode(socket).map_err(cannot);
        let inodes = [inode(theirs.as_fd())?, inode(channel.as_fd())?];
        let (sockets, files_passed_on, umask) =
            (self.listeners.sockets.len(), files.len(), self.neighbours.spawner.umask());
        let executable = self.neighbours.spawner.executable().map(Path::to_owned);
        let pidfile = Some(pidfile::shown(self.pidfile.as_ref().map(Pidfile::path)));
        let offer = Message::Offer { speaker, sockets, files: files_passed_on, executable, umask, pidfile };
        channel.send(&offer).map_err(cannot)?;
        let mut fds = self.listeners.sockets.iter().map(|held| held.fd.clone());
        for entries in parts(self.listeners.sockets.iter().map(BoundSocket::entry).collect()) {
            let fds = fds.by_ref().take(entries.len()).collect();
            channel.send_with(&Message::Sockets { entries }, fds).map_err(cannot)?;
        }
        let mut fds = files.into_iter();
        for names in parts(names) {
            let fds = fds.by_ref().take(names.len()).collect();
            channel.send_with(&Message::Files { names }, fds).map_err(cannot)?;
        }
        self.begin_sharing()?;
        let child = self.neighbours.spawner.spawn(what, theirs)?;
        Ok(Successor::new(child, channel, inodes, generation))
    }

    pub(super) fn send_to_successor(&mut self, message: &Message) {
        if let Some(successor) = self.neighbours.successor.as_mut().filter(|successor| !successor.is_cut_off)
        {
            // A successor that is gone is noticed by the read that follows.
            match successor.channel.send(message) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    pub(super) fn take_from_successor(&mut self) -> bool {
        let Some(successor) = &mut self.neighbours.successor else { return false };
        // Looked at before the channel: what it said before it died has arrived by then, and is heard first.
        successor.reap();
        let is_dead = successor.is_dead();
        if !successor.is_cut_off {
            // What a send that fails means, the read after it tells.
            let flushed = successor.channel.flush();
            let lost = match successor.channel.receive() {
                Ok(Received::Nothing) => {
                    flushed.err().map(|error| format!("the channel to it failed: {error}"))
                }
                Ok(Received::Message(message, _)) => {
                    successor.learn_speaker();
                    self.hear(message);
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
                // At the end of the channel its process is about to be dead; only one that goes on running has broken a promise.
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
            // Another child, of that process or of this one, has it for as long as it takes to execute a program.
            successor.is_at_its_end = successor.channel.ends_by(Instant::now() + UNTIL_EXEC);
        }
        match &successor.exited {
            Some(_) if successor.is_at_its_end && is_dead => {
                self.bury();
                true
            }
            Some(how) if !successor.is_at_its_end && successor.child.may_fork() => {
                if std::mem::replace(&mut successor.is_forked, true) {
                    return is_dead && self.end_strays();
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

    /// The successor is dead, and nothing of it is left.
    fn bury(&mut self) {
        let Some(mut successor) = self.neighbours.successor.take() else { return };
        self.neighbours.upgrade.dead_successor = DeadSuccessor {
            pid: self.is_process.then(|| successor.pid()),
            last_words: successor.last_words.take(),
            unserved: successor.unserved.take(),
        };
        let how = successor.exited.take().unwrap_or_default();
        tell!(self.shared, DEBUG, successor = successor.pid(), how, "the successor is gone");
        // Nobody else is left to say it: no upgrade waits for an outcome, and no other process is started.
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
        // What it has is closed before anything is told of its end.
        drop(successor);
        self.end_sharing();
        // The manager was told to follow it, and may by now.
        if let Some(told) =
            self.neighbours.manager.as_mut().filter(|_| matches!(self.state.phase, Phase::Announcing { .. }))
        {
            told.is_unsure();
        }
        self.feed(Event::Exited);
    }

    /// Of a successor whose processes are dead, as far as they are known, ends those that hold its end of the channel still. They
    /// are what it has forked: it closes the channel on exec. Returns whether there was something to do.
    pub(super) fn end_strays(&mut self) -> bool {
        let Some(successor) = &mut self.neighbours.successor else { return false };
        let now = Instant::now();
        if successor.next_look.is_some_and(|at| at > now) {
            return false;
        }
        successor.next_look = Some(now + LOOK_FOR_STRAYS_EVERY);
        let [theirs, ours] = successor.inodes;
        // A fork of this process has both ends, if it was made while both were here, and is nobody's successor.
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

    /// A message of the successor.
    pub(super) fn hear(&mut self, message: Message) {
        let untold = matches!(
            self.state.phase,
            Phase::Upgrading
                | Phase::Pausing
                | Phase::Draining(Drain::Rescue { step: Rescue::Initialising, .. })
        );
        let Some(successor) = &mut self.neighbours.successor else { return };
        let event = match message {
            // Both would serve, or neither. The life cycle gives it up; this is what it says of it.
            Message::Active | Message::Leaving if untold => {
                let claim = if message == Message::Active { "serves" } else { "has served" };
                self.reason = Some(format!("it says that it {claim}, and was not told to"));
                Event::ChannelLost
            }
            Message::Hello { speaker } => match speaker.understands_us() {
                Ok(()) => {
                    successor.identity = speaker.identity();
                    let names = || self.listeners.gates.iter().map(|gate| gate.name());
                    let of_body = || names().filter(|name| *name != CONTROL_SOCKET).map(str::to_owned);
                    successor.unserved.get_or_insert_with(|| of_body().collect());
                    return;
                }
                Err(refusal) => {
                    self.reason = Some(refusal);
                    Event::ChannelLost
                }
            },
            Message::Unserved { mut listeners } => {
                listeners.truncate(self.listeners.sockets.len());
                successor.unserved = Some(listeners.iter().map(|name| printable(name)).collect());
                return;
            }
            Message::Prepared { adopted, pidfile } => {
                let mut seen = vec![false; self.listeners.sockets.len()];
                let fits = |at: &usize| seen.get_mut(*at).is_some_and(|seen| !std::mem::replace(seen, true));
                if adopted.iter().all(fits) {
                    successor.adopted =
                        adopted.iter().map(|at| self.listeners.sockets[*at].name.clone()).collect();
                    match self.judge(&adopted, pidfile.as_deref().map(printable).as_deref()) {
                        Ok(()) => Event::Prepared,
                        Err(refusal) => {
                            self.reason = Some(refusal);
                            Event::Refused
                        }
                    }
                } else {
                    self.reason = Some("it adopted sockets that were not offered".to_owned());
                    Event::ChannelLost
                }
            }
            Message::Active => {
                successor.active_after = Some(self.neighbours.upgrade.elapsed());
                Event::Active
            }
            // It serves, and may end with no more than a status. One that is refused or given up has not come to that.
            Message::Failed { reason } if successor.active_after.is_some() => {
                successor.last_words = Some(printable(&reason));
                Event::Failed
            }
            Message::Failed { reason } => {
                // The first reason is the cause: one that is refused says that it was told to stop.
                self.reason.get_or_insert_with(|| printable(&reason));
                Event::Failed
            }
            Message::Leaving => Event::Leaving,
            Message::Hasten => Event::Hasten,
            Message::Alive => Event::Alive,
            Message::Over => {
                // Its last words say why. It may live on, and so there is no status.
                self.reason.get_or_insert_with(|| "ended".to_owned());
                Event::SuccessorOver
            }
            // An engine that can say so runs.
            Message::NotUnderstood { unknown } if unknown == PING => Event::Alive,
            Message::NotUnderstood { unknown } => {
                tell!(
                    self.shared,
                    DEBUG,
                    unknown = printable(&unknown),
                    "the successor does not know a message"
                );
                return;
            }
            message @ (Message::Offer { .. }
            | Message::Sockets { .. }
            | Message::Files { .. }
            | Message::Commit
            | Message::Stop
            | Message::Open { .. }
            | Message::Followed
            | Message::Ping) => {
                if self.neighbours.stray.is_due() {
                    complain!(self.shared, WARN, "a message that a successor does not send: {message:?}");
                }
                return;
            }
        };
        self.feed(event);
    }
}

/// It has failed, and a helper of it that has executed no program has its channel. It meant to stay in the foreground.
fn left_behind(how: &str, [theirs, ours]: [u64; 2]) -> String {
    let strays = pidfd::holders(theirs).into_iter().filter(|holder| !pidfd::holds(holder.pid, ours));
    let strays: Vec<_> = strays.map(|stray| stray.pid.to_string()).collect();
    let stray = if strays.is_empty() { "of its own".to_owned() } else { strays.join(", ") };
    format!("{how} and left process {stray} behind, which holds its handover channel")
}

fn put_into_background(pid: u32, how: &str) -> String {
    format!(
        "put itself into the background: process {pid}, which was started, {how}, and left another one behind; a release stays in \
         the foreground, without `daemonize`, without `&`, and behind `exec` in a script"
    )
}

/// What a successor has open before it has taken anything: the standard streams and its channel.
const OPEN_AT_EXEC: usize = 4;

/// Whether a successor would take what it is to be offered. It would refuse it by itself, and this process would hear of it only
/// then.
fn check_offer(sockets: usize, names: &[String]) -> Result<(), String> {
    let files = names.len();
    if sockets + files > MAX_DESCRIPTORS {
        return Err(format!(
            "a successor takes at most {MAX_DESCRIPTORS} descriptors, and there are {sockets} sockets and {files} files passed on"
        ));
    }
    match names.iter().find(|name| name.len() > MAX_FILE_NAME) {
        None => Ok(()),
        Some(name) => Err(format!(
            "a file is passed on under a name of {} bytes; it may have at most {MAX_FILE_NAME}",
            name.len()
        )),
    }
}

/// Whether a successor, which inherits the limit of this process, can take what it would be offered. It would find out
/// by itself, once it has lost some of it; this process can say it beforehand, with the number.
fn check_budget(sockets: usize, files: usize) -> Result<(), String> {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let needed = sockets + files + OPEN_AT_EXEC;
    if u64::try_from(needed).is_ok_and(|needed| needed > limit) {
        return Err(format!(
            "a successor needs at least {needed} descriptors, for {sockets} sockets, {files} files passed on and \
             {OPEN_AT_EXEC} of its own, and the limit of open files (RLIMIT_NOFILE, `ulimit -n`, LimitNOFILE=) is \
             {limit}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_successor_would_take_is_refused_by_its_number() {
        let names = |count: usize| vec!["a".to_owned(); count];
        check_offer(1, &names(MAX_DESCRIPTORS - 1)).unwrap();
        let many = check_offer(1, &names(MAX_DESCRIPTORS)).unwrap_err();
        assert!(many.contains("at most 65536") && many.contains("1 sockets and 65536 files"), "{many}");
        check_offer(1, &["x".repeat(MAX_FILE_NAME)]).unwrap();
        let long = check_offer(1, &["x".repeat(MAX_FILE_NAME + 1)]).unwrap_err();
        assert!(long.contains("4097 bytes") && long.contains("at most 4096"), "{long}");
    }
}
