//! Starting the successor, and the engine's side of the channel to it.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;

use super::{DEATH_AFTER_END, DeadSuccessor, Engine, LOOK_FOR_STRAYS_EVERY, Successor, UNTIL_EXEC};
use crate::control;
use crate::handover::channel::{Channel, Received};
use crate::handover::message::{
    MAX_DESCRIPTORS, MAX_FILE_NAME, Message, PING, Speaker, parts, shown_pidfile,
};
use crate::lifecycle::{Drain, Event, Phase, Rescue};
use crate::pidfd::{self, Holder};
use crate::pidfile::Pidfile;
use crate::poll;
use crate::report::{complain, printable, tell};
use crate::service::Identity;
use crate::sockets::Held;
use crate::spawn::{self, What, is_dead};

impl Engine {
    pub(super) fn spawn(&mut self, what: What) -> Option<Event> {
        self.reason = None;
        self.dead_successor = DeadSuccessor::default();
        match self.start_successor(what) {
            Ok(successor) => {
                tell!(
                    self.shared,
                    INFO,
                    phase = "upgrading",
                    successor = successor.child.pid(),
                    executable = self.spawner.executable().map(|path| display(path.display())),
                    "started a successor"
                );
                // A process that is dead may have had its number, and the pid file of the live one is not removed for that.
                self.dead.retain(|pid| *pid != successor.child.pid());
                self.successor = Some(successor);
                self.told_open = None;
                None
            }
            Err(reason) => {
                self.shared.set_accompanied(self.parent.is_some());
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
        check_offer(self.held.len(), &names)?;
        check_budget(self.held.len(), files.len())?;
        let (mut channel, theirs): (Channel, OwnedFd) = Channel::pair().map_err(cannot)?;
        self.held.iter_mut().for_each(Held::note_tuning);
        // The offer is in the socket before there is anybody to read it, so that one who inherits the descriptor
        // by mistake finds out at once.
        let inode = |socket| pidfd::inode(socket).map_err(cannot);
        let inodes = [inode(theirs.as_fd())?, inode(channel.as_fd())?];
        let (sockets, files_passed_on, umask) = (self.held.len(), files.len(), self.spawner.umask());
        let executable = self.spawner.executable().map(Path::to_owned);
        let pidfile = Some(shown_pidfile(self.pidfile.as_ref().map(Pidfile::path)));
        let offer = Message::Offer { speaker, sockets, files: files_passed_on, executable, umask, pidfile };
        channel.send(&offer).map_err(cannot)?;
        let mut fds = self.held.iter().map(|held| held.fd.clone());
        for entries in parts(self.held.iter().map(Held::entry).collect()) {
            let fds = fds.by_ref().take(entries.len()).collect();
            channel.send_with(&Message::Sockets { entries }, fds).map_err(cannot)?;
        }
        let mut fds = files.into_iter();
        for names in parts(names) {
            let fds = fds.by_ref().take(names.len()).collect();
            channel.send_with(&Message::Files { names }, fds).map_err(cannot)?;
        }
        self.expect_company()?;
        let child = self.spawner.spawn(what, theirs)?;
        Ok(Successor {
            child,
            exited: None,
            is_forked: false,
            speaker: None,
            others: HashSet::new(),
            channel,
            inodes,
            is_killed: false,
            is_cut_off: false,
            is_at_its_end: false,
            next_look: None,
            generation,
            active_after: None,
            identity: Identity::default(),
            last_words: None,
            warnings: Vec::new(),
            adopted: HashSet::new(),
            unserved: None,
        })
    }

    pub(super) fn say_down(&mut self, message: &Message) {
        if let Some(successor) = self.successor.as_mut().filter(|successor| !successor.is_cut_off) {
            // A successor that is gone is noticed by the read that follows.
            match successor.channel.send(message) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    pub(super) fn take_from_successor(&mut self) -> bool {
        let Some(successor) = &mut self.successor else { return false };
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
                let how = if spawn::is_failure(how) {
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
        let Some(mut successor) = self.successor.take() else { return };
        self.dead_successor = DeadSuccessor {
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
        self.lose_company();
        // The manager was told to follow it, and may by now.
        if let Some(told) =
            self.told.as_mut().filter(|_| matches!(self.state.phase, Phase::Announcing { .. }))
        {
            told.is_unsure();
        }
        self.feed(Event::Exited);
    }

    /// Of a successor whose processes are dead, as far as they are known, ends those that hold its end of the channel still. They
    /// are what it has forked: it closes the channel on exec. Returns whether there was something to do.
    pub(super) fn end_strays(&mut self) -> bool {
        let Some(successor) = &mut self.successor else { return false };
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
        } else if strays.is_empty() && !successor.channel.is_at_its_end() && self.cannot_end.is_due() {
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
        let Some(successor) = &mut self.successor else { return };
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
                    let names = || self.doors.iter().map(|door| door.name());
                    let of_body = || names().filter(|name| *name != control::NAME).map(str::to_owned);
                    successor.unserved.get_or_insert_with(|| of_body().collect());
                    return;
                }
                Err(refusal) => {
                    self.reason = Some(refusal);
                    Event::ChannelLost
                }
            },
            Message::Unserved { mut listeners } => {
                listeners.truncate(self.held.len());
                successor.unserved = Some(listeners.iter().map(|name| printable(name)).collect());
                return;
            }
            Message::Prepared { adopted, pidfile } => {
                let mut seen = vec![false; self.held.len()];
                let fits = |at: &usize| seen.get_mut(*at).is_some_and(|seen| !std::mem::replace(seen, true));
                if adopted.iter().all(fits) {
                    successor.adopted = adopted.iter().map(|at| self.held[*at].name.clone()).collect();
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
                successor.active_after = Some(self.requested.elapsed());
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
                if self.stray.is_due() {
                    complain!(self.shared, WARN, "a message that a successor does not send: {message:?}");
                }
                return;
            }
        };
        self.feed(event);
    }
}

impl Successor {
    /// The process that speaks for it; before it has said anything, the one that was started.
    pub(super) fn pid(&self) -> u32 {
        self.speaker.as_ref().map_or_else(|| self.child.pid(), |speaker| speaker.pid)
    }

    /// Descriptors of its processes that live, as far as they are known; each is readable once its process is dead.
    pub(super) fn living(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let child = self.exited.is_none().then(|| self.child.as_fd());
        let speaker = self.speaker.as_ref().map(Holder::as_fd).filter(|speaker| !is_dead(*speaker));
        child.into_iter().chain(speaker)
    }

    /// The number of the process that spoke for it, if that is dead.
    pub(super) fn dead_speaker(&self) -> Option<u32> {
        self.speaker.as_ref().filter(|speaker| is_dead(speaker.as_fd())).map(|speaker| speaker.pid)
    }

    /// SIGKILL to those that are known. What they have forked is ended once they are dead.
    pub(super) fn kill(&mut self) {
        self.is_killed = true;
        if self.exited.is_none() {
            self.child.kill();
        }
        if let Some(speaker) = &self.speaker {
            speaker.kill();
        }
    }

    /// Reaps the process that was started, if it is dead.
    pub(super) fn reap(&mut self) {
        if self.exited.is_none() {
            self.exited = self.child.reap();
        }
    }

    fn is_dead(&self) -> bool {
        self.living().next().is_none()
    }

    /// Notes who has sent the last message. Only one that holds its end of the channel can have sent it, if it lives.
    fn learn_speaker(&mut self) {
        let Some(sender) = self.channel.sender().filter(|sender| *sender != self.pid()) else { return };
        self.speaker = if sender == self.child.pid() {
            None
        } else {
            // What it says may be read when it is dead, and nobody else knows its number then.
            self.others.insert(sender);
            Holder::of(sender, self.inodes[0])
        };
    }

    pub(super) fn wait_until_dead(&mut self, deadline: Instant) {
        self.reap();
        while !self.is_dead() && Instant::now() < deadline {
            let mut fds: Vec<_> = self.living().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match poll::until(&mut fds, Some(deadline)) {
                Ok(()) | Err(_) => {}
            }
            self.reap();
        }
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
