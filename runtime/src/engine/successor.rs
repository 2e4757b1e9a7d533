//! Starting the successor, and the engine's side of the channel to it.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use nix::sys::resource::{Resource, getrlimit};

use super::{DEATH_AFTER_END, Engine, Successor};
use crate::control;
use crate::handover::channel::{Channel, Received};
use crate::handover::message::{MAX_DESCRIPTORS, MAX_FILE_NAME, Message, Speaker, parts};
use crate::lifecycle::{Drain, Event, Phase, Rescue};
use crate::poll;
use crate::report::{complain, printable, tell};
use crate::sockets::Held;
use crate::spawn::What;

impl Engine {
    pub(super) fn spawn(&mut self, what: What) -> Option<Event> {
        self.reason = None;
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
        let speaker = Speaker::us(self.shared.generation);
        let generation = speaker.next_generation()?;
        let cannot = |error: io::Error| format!("cannot make the handover channel: {error}");
        let (names, files): (Vec<_>, Vec<_>) = self.shared.passed_on().clone().into_iter().unzip();
        check_offer(self.held.len(), &names)?;
        check_budget(self.held.len(), files.len())?;
        let (mut channel, theirs): (Channel, OwnedFd) = Channel::pair().map_err(cannot)?;
        // The offer is in the socket before there is anybody to read it, so that one who inherits the descriptor
        // by mistake finds out at once.
        let executable = self.spawner.executable().and_then(|path| Some(path.to_str()?.to_owned()));
        let offer = Message::Offer { speaker, sockets: self.held.len(), files: files.len(), executable };
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
            channel,
            is_cut_off: false,
            generation,
            active_after: None,
            adopted: HashSet::new(),
            unserved: self
                .doors
                .iter()
                .filter(|door| door.name() != control::NAME)
                .map(|door| door.name().to_owned())
                .collect(),
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
        let mut fds = [PollFd::new(successor.child.as_fd(), PollFlags::POLLIN)];
        let is_dead = poll::until(&mut fds, Some(Instant::now())).is_ok() && fds[0].any() == Some(true);
        let mut lost = None;
        if !successor.is_cut_off {
            // What a send that fails means, the read after it tells.
            let flushed = successor.channel.flush();
            match successor.channel.receive() {
                Ok(Received::Nothing) => {
                    if let Err(error) = flushed {
                        lost = Some(format!("the channel to it failed: {error}"));
                    }
                }
                Ok(Received::Message(message, _)) => {
                    self.hear(message);
                    return true;
                }
                Ok(Received::Unknown(name)) => {
                    tell!(self.shared, DEBUG, name, "a message of a later release");
                    return true;
                }
                Ok(Received::End) => {
                    // Its process is dead or about to be; only one that goes on running has broken a promise.
                    let deadline = Instant::now() + DEATH_AFTER_END;
                    let mut fds = [PollFd::new(successor.child.as_fd(), PollFlags::POLLIN)];
                    match poll::until(&mut fds, Some(deadline)) {
                        Ok(()) | Err(_) => {}
                    }
                    lost = Some("it closed the channel and went on running".to_owned());
                }
                Err(error) => lost = Some(error.to_string()),
            }
        }
        let died = if is_dead || lost.is_some() { successor.child.reap() } else { None };
        if let Some(how) = died {
            let pid = successor.child.pid();
            self.unserved_by_successor = std::mem::take(&mut successor.unserved);
            self.successor = None;
            self.known_dead(pid);
            self.lose_company();
            // The manager was told to follow it, and may by now.
            if let Some(told) =
                self.told.as_mut().filter(|_| matches!(self.state.phase, Phase::Announcing { .. }))
            {
                told.is_unsure();
            }
            self.reason.get_or_insert(how);
            self.feed(Event::Exited);
            return true;
        }
        if let Some(how) = lost {
            successor.is_cut_off = true;
            self.reason.get_or_insert(how);
            self.feed(Event::ChannelLost);
            return true;
        }
        false
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
                Ok(()) => return,
                Err(refusal) => {
                    self.reason = Some(refusal);
                    Event::ChannelLost
                }
            },
            Message::Unserved { mut listeners } => {
                listeners.truncate(self.held.len());
                successor.unserved = listeners.iter().map(|name| printable(name)).collect();
                return;
            }
            Message::Prepared { adopted } => {
                let mut seen = vec![false; self.held.len()];
                let fits = |at: &usize| seen.get_mut(*at).is_some_and(|seen| !std::mem::replace(seen, true));
                if adopted.iter().all(fits) {
                    successor.adopted = adopted.iter().map(|at| self.held[*at].name.clone()).collect();
                    Event::Prepared
                } else {
                    self.reason = Some("it adopted sockets that were not offered".to_owned());
                    Event::ChannelLost
                }
            }
            Message::Active => {
                successor.active_after = Some(self.requested.elapsed());
                Event::Active
            }
            Message::Failed { reason } => {
                self.reason = Some(printable(&reason));
                Event::Failed
            }
            Message::Leaving => Event::Leaving,
            Message::Hasten => Event::Hasten,
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
            | Message::Followed) => {
                if self.stray.is_due() {
                    complain!(self.shared, WARN, "a message that a successor does not send: {message:?}");
                }
                return;
            }
        };
        self.feed(event);
    }
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
