//! Starts a successor, and offers it the sockets and files of the service.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use crate::base::report::tell;
use crate::engine::core::Engine;
use crate::engine::neighbours::{DeadSuccessor, Successor};
use crate::lifecycle::Event;
use crate::outside::handover::channel::Channel;
use crate::outside::handover::message::{Message, Speaker, parts};
use crate::outside::pidfile::{self, Pidfile};
use crate::outside::sockets::BoundSocket;
use crate::outside::spawner::Image;
use crate::sys::pidfd;

impl Engine {
    /// Starts a successor, which finds the offer in its channel.
    pub(super) fn spawn(&mut self, image: Image) -> Option<Event> {
        self.reason = None;
        self.neighbours.upgrade.dead_successor = DeadSuccessor::default();
        match self.start_successor(image) {
            Ok(successor) => {
                tell!(
                    self.shared,
                    INFO,
                    phase = "upgrading",
                    successor = successor.child.pid(),
                    executable = self.neighbours.spawner.executable().map(|path| display(path.display())),
                    rollback = (image == Image::Previous).then_some(true),
                    "started a successor"
                );
                // A dead process may have had this number. The pid file of the live one must not be removed for that.
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

    fn start_successor(&mut self, image: Image) -> Result<Successor, String> {
        let speaker = Speaker::us(self.shared.generation, &self.settings.identity);
        let generation = speaker.next_generation()?;
        let cannot = |error: io::Error| format!("cannot make the handover channel: {error}");
        let executables = self.neighbours.spawner.executables();
        let executables = executables.into_iter().map(|(name, file)| (name.to_owned(), file));
        let (names, files): (Vec<_>, Vec<_>) = executables.chain(self.shared.passed_on.all()).unzip();
        check_budget(self.listeners.sockets.len(), files.len())?;
        let (mut channel, theirs): (Channel, OwnedFd) = Channel::pair().map_err(cannot)?;
        self.listeners.sockets.iter_mut().for_each(BoundSocket::save_options);
        // The offer is in the socket before the successor exists: a process that inherits the descriptor by mistake finds out at once.
        let inode = |socket| pidfd::inode(socket).map_err(cannot);
        let inodes = [inode(theirs.as_fd())?, inode(channel.as_fd())?];
        let (sockets, files_passed_on, umask) =
            (self.listeners.sockets.len(), files.len(), self.neighbours.spawner.umask());
        let executable = self.neighbours.spawner.executable().map(Path::to_owned);
        let pidfile = Some(pidfile::shown(self.pidfile.as_ref().map(Pidfile::path)));
        let probation_ms = self.settings.timeouts.probation.as_millis().try_into().ok();
        let offer = Message::Offer {
            speaker: Box::new(speaker),
            sockets,
            files: files_passed_on,
            executable,
            umask,
            pidfile,
            probation_ms,
            aborted: self.neighbours.aborted,
        };
        channel.send(&offer).map_err(cannot)?;
        let mut fds = self.listeners.sockets.iter().map(|socket| socket.fd.clone());
        for entries in parts(self.listeners.sockets.iter().map(BoundSocket::entry).collect()) {
            let fds = fds.by_ref().take(entries.len()).collect();
            channel.send_with(&Message::Sockets { entries }, fds).map_err(cannot)?;
        }
        let mut fds = files.into_iter();
        for names in parts(names) {
            let fds = fds.by_ref().take(names.len()).collect();
            channel.send_with(&Message::Files { names }, fds).map_err(cannot)?;
        }
        for entries in parts(self.neighbours.history.iter().cloned().collect()) {
            channel.send(&Message::History { entries }).map_err(cannot)?;
        }
        self.begin_sharing()?;
        let child = self.neighbours.spawner.spawn(image, theirs)?;
        Ok(Successor::new(child, channel, inodes, generation))
    }
}

/// How many descriptors a successor has before it takes the offer: the standard streams and its channel.
const OPEN_AT_EXEC: usize = 4;

/// Checks an offer against the limit of open files, which a successor inherits. Without this a successor would notice only when
/// it has lost some of the descriptors.
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
