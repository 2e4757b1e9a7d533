//! The pid file at a handover, and the last word of a process.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::base::report::complain;
use crate::engine::core::Engine;
use crate::engine::neighbours::DEATH_AFTER_END;
use crate::lifecycle::Event;
use crate::outside::handover::message::Message;
use crate::outside::hint;
use crate::outside::pidfile::Pidfile;
use crate::outside::proof;
use crate::outside::sockets::PathLock;
use crate::outside::supervise;
use crate::sys::pidfd::is_dead;

/// How long a last word may wait for room in the channel.
const LAST_WORD_TIMEOUT: Duration = Duration::from_millis(500);

impl Engine {
    /// Makes this process the one that serves: the options of its listeners, the supervisor, the pid file.
    pub(in crate::engine) fn take_over(&mut self) -> Event {
        // The start fails for these reasons, unless no other process would serve then.
        let is_alone = self.state.predecessor.never_serves_again();
        if let Err(problem) = self.tune() {
            if !is_alone {
                self.reason = Some(problem);
                return Event::PidfileFailed;
            }
            complain!(self.shared, "{problem}");
        }
        self.tell_supervisor();
        if let Some(pidfile) = &self.pidfile {
            if let Err(problem) = self.publish(pidfile) {
                if is_alone {
                    complain!(self.shared, "{problem}");
                }
                self.reason = Some(problem);
                return Event::PidfileFailed;
            }
        }
        for warning in self.neighbours.warnings.drain(..) {
            complain!(self.shared, WARN, "{warning}");
        }
        Event::TookOver
    }

    /// Makes the pid file name this process, unless another service has it by now. The check at the beginning of the start does not
    /// find a service that was still initialising.
    fn publish(&self, pidfile: &Pidfile) -> Result<(), String> {
        let predecessor = self.neighbours.predecessor.as_ref().map(|it| &it.offered);
        // The lock orders two first starts. An upgrade takes no lock: no process accepts at this moment.
        let _lock = predecessor.is_none().then(|| PathLock::take(pidfile.path()));
        if let Some(running) = proof::other_service(pidfile, predecessor) {
            pidfile.unstage();
            return Err(running.to_string());
        }
        pidfile.publish().map_err(|error| pidfile_error(pidfile, error))
    }

    /// From now on the supervisor passes signals on to this process.
    fn tell_supervisor(&self) {
        if let Some(supervisor) = self.shared.passed_on.own(supervise::NAME) {
            supervise::tell(&supervisor);
        }
    }

    /// Stages the pid file for the case that the successor dies with it. A rename is enough then, and works on a disk that is full by
    /// that time.
    pub(super) fn stage_the_way_back(&self) {
        let Some(pidfile) = &self.pidfile else { return };
        if let Err(error) = pidfile.stage() {
            complain!(self.shared, "{}", pidfile_error(pidfile, error));
        }
    }

    /// Makes the pid file name this process again.
    pub(super) fn take_back(&self) {
        self.tell_supervisor();
        let Some(pidfile) = &self.pidfile else { return };
        if pidfile.named() == Some(self.shared.pid) {
            pidfile.unstage();
        } else if let Err(error) = pidfile.publish() {
            complain!(self.shared, "{}", pidfile_error(pidfile, error));
        }
    }

    /// Notes that a related process is dead, and removes the pid file that it may have staged.
    pub(super) fn known_dead(&mut self, pid: u32) {
        self.neighbours.dead.push(pid);
        if let Some(pidfile) = &self.pidfile {
            pidfile.unstage_of(pid);
        }
    }

    /// Closes the gates for good, and tells the predecessor and the successor. They may serve from then on, although this process lives
    /// as long as the code after `Service::run`.
    pub(in crate::engine) fn say_that_it_is_over(&mut self) {
        if !self.retire() {
            // A thread is stuck in an accept, and may take one connection more: this process is not over.
            return;
        }
        self.send_to_predecessor(&Message::Over);
        self.send_to_successor(&Message::Over);
        let deadline = Instant::now() + LAST_WORD_TIMEOUT;
        let predecessor = self.neighbours.predecessor.as_mut().map(|it| &mut it.channel);
        let successor = self.neighbours.successor.as_mut().filter(|successor| !successor.is_cut_off);
        for channel in predecessor.into_iter().chain(successor.map(|successor| &mut successor.channel)) {
            channel.flush_by(deadline);
        }
    }

    /// Reaps a successor that is dead or has just been killed, and looks whether the predecessor lives. So a pid file that names one of
    /// them is known to be stale.
    pub(in crate::engine) fn bury_successor(&mut self) {
        if let Some(predecessor) = &self.neighbours.predecessor {
            let is_gone = match &predecessor.watch {
                Some(watch) => is_dead(watch.as_fd()),
                None => predecessor.channel.is_at_its_end(),
            };
            let pid = predecessor.offered.pid;
            if is_gone {
                self.known_dead(pid);
            }
        }
        let Some(successor) = &mut self.neighbours.successor else { return };
        // It was told to stop before it served, or was killed just now.
        let unwanted =
            successor.is_killed || self.requests.stopping.is_some() && successor.active_after.is_none();
        successor.wait_until_dead(Instant::now() + if unwanted { DEATH_AFTER_END } else { Duration::ZERO });
        let dead = [successor.exited.is_some().then(|| successor.child.pid()), successor.dead_speaker()];
        let mut dead: Vec<u32> = dead.into_iter().flatten().collect();
        if unwanted {
            self.kill_left_behind();
            dead.extend(self.neighbours.successor.iter().flat_map(|successor| &successor.others));
        }
        dead.into_iter().for_each(|pid| self.known_dead(pid));
    }
}

pub(super) fn pidfile_error(pidfile: &Pidfile, error: io::Error) -> String {
    let error = hint::directory(pidfile.path(), error);
    format!("cannot write the pid file {}: {error}", pidfile.path().display())
}
