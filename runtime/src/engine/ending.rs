//! The pid file, and what a process removes at its end.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{DEATH_AFTER_END, Engine, LAST_WORD_TIMEOUT, PAUSE_TIMEOUT};
use crate::error::UpgradeError;
use crate::handover::message::Message;
use crate::hint;
use crate::lifecycle::{End, Event, Predecessor, StartFailure};
use crate::pidfile::Pidfile;
use crate::report::{complain, tell};
use crate::shared::{Preparation, Verdict};
use crate::signals;
use crate::sockets::PathLock;
use crate::spawn::is_dead;
use crate::supervise;

impl Engine {
    pub(super) fn take_over(&mut self) -> Event {
        if let Err(problem) = self.tune() {
            if self.state.predecessor != Predecessor::Gone {
                self.reason = Some(problem);
                return Event::PidfileFailed;
            }
            // Nobody else would serve.
            complain!(self.shared, "{problem}");
        }
        self.tell_supervisor();
        if let Some(pidfile) = &self.pidfile {
            if let Err(problem) = self.publish(pidfile) {
                // Where it does not fail the start, which says why, the service goes on without.
                if self.state.predecessor == Predecessor::Gone {
                    complain!(self.shared, "{problem}");
                }
                self.reason = Some(problem);
                return Event::PidfileFailed;
            }
        }
        for warning in self.warnings.drain(..) {
            complain!(self.shared, WARN, "{warning}");
        }
        Event::TookOver
    }

    /// Makes the pid file name this process, unless another service has it by now: the look at the beginning of the start finds
    /// no service that was still initialising then.
    fn publish(&self, pidfile: &Pidfile) -> Result<(), String> {
        let predecessor = self.parent.as_ref().map(|parent| &parent.offered);
        // Of two first starts one publishes after the look of the other. An upgrade waits for no lock while nobody accepts.
        let _lock = predecessor.is_none().then(|| PathLock::take(pidfile.path()));
        if let Some(running) = hint::other_service(pidfile, predecessor) {
            pidfile.unstage();
            return Err(running.to_string());
        }
        pidfile.publish().map_err(|error| pidfile_error(pidfile, error))
    }

    /// It passes signals on to this process from now on.
    fn tell_supervisor(&self) {
        if let Some(supervisor) = self.shared.passed_on().get(supervise::NAME) {
            supervise::tell(supervisor);
        }
    }

    /// Should the successor die with the pid file in its name, a rename is all there is to do then: that works on a
    /// disk that is full by that time.
    pub(super) fn stage_the_way_back(&self) {
        let Some(pidfile) = &self.pidfile else { return };
        if let Err(error) = pidfile.stage() {
            complain!(self.shared, "{}", pidfile_error(pidfile, error));
        }
    }

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
        self.dead.push(pid);
        if let Some(pidfile) = &self.pidfile {
            pidfile.unstage_of(pid);
        }
    }

    pub(super) fn end(&mut self, end: End) {
        self.bury_successor();
        if let End::NotStarted(_) = end {
            self.held.iter().filter(|held| held.created).for_each(|held| held.remove(&self.shared));
        } else if matches!(end, End::Final | End::RescueFailed) {
            self.held.iter().for_each(|held| held.remove(&self.shared));
        }
        if let Some(pidfile) = &self.pidfile {
            pidfile.unstage();
            let ours: Vec<u32> = self.dead.iter().copied().chain([self.shared.pid]).collect();
            if let Err(error) = pidfile.remove_if_names(&ours) {
                complain!(self.shared, "cannot remove the pid file {}: {error}", pidfile.path().display());
            }
        }
        // Not before: who hears it may make the pid file its own, between the look at that file and its removal here.
        if end != End::AtOnce {
            self.say_that_it_is_over();
        }
        for reply in self.waiting.drain(..) {
            reply.set(Err(UpgradeError::Terminating));
        }
        self.tell_outcome();
        self.verdict = Some(match end {
            End::Final | End::Replaced | End::NotStarted(None) => Verdict::Success,
            End::NotStarted(Some(failure)) => {
                let reason = self.start_failure(failure);
                // What fails in the thread of `main` is said there.
                if self.preparation != Preparation::Failed {
                    complain!(self.shared, "cannot start: {reason}");
                }
                if failure == StartFailure::BodyReturned { Verdict::OfBody } else { Verdict::Failure }
            }
            End::RescueFailed => {
                complain!(self.shared, "the service is down: no attempt to start it again worked");
                Verdict::Failure
            }
            // It takes a second signal, which only a process gets.
            End::AtOnce => {
                complain!(self.shared, "told to stop a second time; ending at once");
                signals::die_of(self.stopping.unwrap_or(Signal::SIGTERM));
            }
        });
        tell!(self.shared, INFO, phase = "ended", "exiting");
        self.tell_phase();
        if let Some(control) = &self.control {
            control.end();
        }
    }

    /// Closes the gates for good, and tells the predecessor and the successor. They may serve from then on, though this process
    /// lives as long as what follows `Service::run`.
    fn say_that_it_is_over(&mut self) {
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        let stuck = self.doors.iter().filter(|door| !door.retire(deadline)).count();
        if stuck > 0 {
            // It would be a lie.
            return;
        }
        self.say_up(&Message::Over);
        self.say_down(&Message::Over);
        let deadline = Instant::now() + LAST_WORD_TIMEOUT;
        let parent = self.parent.as_mut().map(|parent| &mut parent.channel);
        let successor = self.successor.as_mut().filter(|successor| !successor.is_cut_off);
        for channel in parent.into_iter().chain(successor.map(|successor| &mut successor.channel)) {
            channel.flush_by(deadline);
        }
    }

    /// Reaps a successor that is dead or has just been killed, and asks whether the predecessor still lives, so
    /// that a pid file which names one of them is known to be stale.
    pub(super) fn bury_successor(&mut self) {
        if let Some(parent) = &self.parent {
            let is_gone = match &parent.watch {
                Some(watch) => is_dead(watch.as_fd()),
                None => parent.channel.is_at_its_end(),
            };
            let pid = parent.offered.pid;
            if is_gone {
                self.known_dead(pid);
            }
        }
        let Some(successor) = &mut self.successor else { return };
        // It may have been told to stop before it served, or was killed at this moment.
        let unwanted = successor.is_killed || self.stopping.is_some() && successor.active_after.is_none();
        successor.wait_until_dead(Instant::now() + if unwanted { DEATH_AFTER_END } else { Duration::ZERO });
        let dead = [successor.exited.is_some().then(|| successor.child.pid()), successor.dead_speaker()];
        let mut dead: Vec<u32> = dead.into_iter().flatten().collect();
        if unwanted {
            self.end_strays();
            dead.extend(self.successor.iter().flat_map(|successor| &successor.others));
        }
        dead.into_iter().for_each(|pid| self.known_dead(pid));
    }
}

pub(super) fn pidfile_error(pidfile: &Pidfile, error: io::Error) -> String {
    let error = hint::directory(pidfile.path(), error);
    format!("cannot write the pid file {}: {error}", pidfile.path().display())
}
