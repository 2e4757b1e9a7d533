//! Stop, status and watch, through the control socket; by signals without one.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::base::status::{Phase, Status};
use crate::control::{Reply, Request};
use crate::outside::proof::process_beside;
use nix::sys::signal::Signal;
use serde_json::json;

use super::args;
use super::conversation::{self, Conversation, Line, MAX_CUT_OFF};
use super::drained::{Drained, Drains};
use super::output::{Failure, Output};
use super::picture::{line_of, name_of, picture_of};
use super::process::{self, Process};
use super::target::Target;

/// The pause before `watch` looks for the process that replaced the last one.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn stop(args: &args::Stop, path: &Path, output: &Output) -> Result<(), Failure> {
    let deadline = after(args.timeout);
    let mut drains = Drains::default();
    let pid = match Target::open(path, deadline, output)? {
        Target::Control(mut conversation) => {
            let (mut old, _) = conversation.status()?;
            let mut others = OtherGenerations::default();
            loop {
                let old_process = conversation.process(&old, output);
                others.note(&old, old_process.as_ref(), output);
                conversation.ask(Request::Stop)?;
                if !others.processes.is_empty() {
                    // The statuses say what the drain of a predecessor has cut.
                    conversation.ask(Request::Watch)?;
                }
                let may_continue = |failure| may_continue(failure, "stop");
                let note = |status: &Status| others.note(status, old_process.as_ref(), output);
                let end = follow_to_the_end(&mut conversation, &old, note, output).map_err(may_continue)?;
                if end.is_answered {
                    wait_for_exit(old_process.as_ref(), &old, deadline).map_err(may_continue)?;
                    others.wait_for_exit(deadline, output).map_err(may_continue)?;
                    drains.add(old.pid, end.drained);
                    others.add_to(&mut drains);
                    break old.pid;
                }
                // The request was not read, as in `upgrade`. If another process serves now, that process has to stop too.
                old = conversation.status().map_err(|failure| failure.after(&ended(old.pid)))?.0;
            }
        }
        Target::Signals(_) if args.strict => return Err(needs_control("--strict")),
        Target::Signals(process) => {
            process.signal(Signal::SIGTERM)?;
            output.progress(&format!("process {} finishes its connections", process.pid()));
            process.wait_for_the_end(deadline)?;
            drains.add(process.pid(), None);
            process.pid()
        }
    };
    drains.report(json!({"reply": "stopped", "pid": pid}), args.strict, output)
}

/// The failure of an option that a signal cannot carry.
pub(super) fn needs_control(option: &str) -> Failure {
    Failure::usage(format!(
        "{option} needs a control socket: a signal cannot say it; give the service a control socket"
    ))
}

/// The other generations of a service that stops. Each drains its own connections, and a predecessor may drain longer than the
/// serving process. Only the serving process answers at the control socket, so the others are known by their pidfds.
#[derive(Default)]
struct OtherGenerations {
    /// By process ID; `None` if the process is dead, or this process cannot wait for it.
    processes: BTreeMap<u32, Option<OwnedFd>>,
    /// What their drains have cut, of those that are known.
    drained: BTreeMap<u32, Drained>,
}

impl OtherGenerations {
    /// Opens each other process that the status names. `answering` is the process that sent the status; it still lives.
    fn note(&mut self, status: &Status, answering: Option<&OwnedFd>, output: &Output) {
        for pid in status.generations.iter().map(|generation| generation.pid) {
            if pid == status.pid || self.processes.contains_key(&pid) {
                continue;
            }
            let process = match answering {
                Some(answering) => process_beside(answering.as_fd(), status.pid, pid),
                None => Err(format!("process {} cannot be seen from here", status.pid)),
            };
            let process = process.unwrap_or_else(|reason| {
                output
                    .note(&format!("cannot wait for the end of process {pid}, another generation: {reason}"));
                None
            });
            self.processes.insert(pid, process);
        }
        for pid in self.processes.keys() {
            if let Some(drained) = Drained::of_predecessor(status, *pid) {
                self.drained.insert(*pid, drained);
            }
        }
    }

    fn add_to(mut self, drains: &mut Drains) {
        for pid in self.processes.into_keys() {
            drains.add(pid, self.drained.remove(&pid));
        }
    }

    fn wait_for_exit(&self, deadline: Instant, output: &Output) -> Result<(), Failure> {
        for (pid, process) in &self.processes {
            let Some(pidfd) = process else { continue };
            if process::wait_for_the_end(pidfd.as_fd(), Instant::now()) {
                continue;
            }
            output.progress(&format!("process {pid} finishes its connections"));
            if !process::wait_for_the_end(pidfd.as_fd(), deadline) {
                return Err(Failure::no_answer(format!("process {pid} still finishes its connections")));
            }
        }
        Ok(())
    }
}

/// The end of a connection, which is the end of the process.
pub(super) struct End {
    /// False if the connection ended before an answer to the request.
    pub(super) is_answered: bool,
    /// The last line of the process.
    pub(super) drained: Option<Drained>,
}

/// Shows the progress until the connection ends.
pub(crate) fn follow_to_the_end(
    conversation: &mut Conversation,
    old: &Status,
    mut note: impl FnMut(&Status),
    output: &Output,
) -> Result<End, Failure> {
    let mut end = End { is_answered: false, drained: None };
    while let Some(Line { text, reply }) = conversation.receive()? {
        // The outcome has what this line says.
        if let Some(drained) = Drained::read(reply.as_ref(), old.pid) {
            end.drained = Some(drained);
            continue;
        }
        output.pass_on(&text);
        match &reply {
            Some(Reply::Error { code, message }) => return Err(Failure::answered(*code, message.clone())),
            Some(Reply::Status { status, .. }) => {
                end.is_answered = true;
                note(status);
                output
                    .progress(&format!("process {} finishes its connections, {} open", old.pid, status.open));
            }
            Some(Reply::Stopping) => end.is_answered = true,
            reply => show_progress(reply.as_ref(), old, output),
        }
    }
    Ok(end)
}

/// Waits for the exit of the process, which comes shortly after the end of its control connection.
pub(crate) fn wait_for_exit(
    old_process: Option<&OwnedFd>,
    old: &Status,
    deadline: Instant,
) -> Result<(), Failure> {
    match old_process {
        Some(pidfd) if !process::wait_for_the_end(pidfd.as_fd(), deadline) => {
            Err(Failure::no_answer(format!("process {} has finished and does not exit", old.pid)))
        }
        _ => Ok(()),
    }
}

pub(crate) fn ended(pid: u32) -> String {
    format!("process {pid} ended before it reported the outcome")
}

pub(crate) fn may_continue(failure: Failure, what: &str) -> Failure {
    failure.if_no_answer(&format!("; the {what} may continue, see `tableflip status`"))
}

pub(crate) fn show_progress(reply: Option<&Reply>, old: &Status, output: &Output) {
    let Some(Reply::Phase { phase, successor, .. }) = reply else { return };
    let new = successor.map_or_else(|| "the successor".to_owned(), |pid| format!("process {pid}"));
    let old = old.pid;
    output.progress(&match phase {
        // The end of the connection reports it.
        Phase::Ended => return,
        Phase::Checking => "the preflight command checks the release".to_owned(),
        Phase::Upgrading => format!("{new} initialises"),
        Phase::Probing => format!("{new} is probed"),
        Phase::Recalling => format!("process {old} asks {new} for the service"),
        Phase::Yielding => format!("process {old} gives the service back"),
        Phase::HandingOver => format!("process {old} hands over to {new}"),
        Phase::Standby => format!("{new} serves, on probation"),
        Phase::Reverting => format!("{new} is being ended"),
        Phase::Serving => format!("process {old} serves"),
        Phase::Draining => format!("process {old} finishes its connections"),
        Phase::Rescuing => format!("{new} is dead; process {old} starts its own executable again"),
        phase => format!("process {old}: {}", name_of(*phase)),
    });
}

pub(crate) fn status(args: &args::Status, path: &Path, output: &Output) -> Result<(), Failure> {
    let deadline = after(args.timeout);
    match Target::open(path, deadline, output)? {
        Target::Control(mut conversation) => {
            let (status, text) = conversation.status()?;
            conversation.process(&status, output);
            if args.prometheus {
                output.print(&status.prometheus());
            } else {
                output.pass_on(&text);
                output.say(picture_of(&status).trim_end());
            }
            Ok(())
        }
        Target::Signals(_) if args.prometheus => Err(Failure::refused(
            "no-control-socket",
            "there are no metrics without a control socket; the process serves".to_owned(),
        )),
        Target::Signals(process) => {
            output.line(&process.status());
            output.say(process.describe().trim_end());
            output.note(
                "not known without a control socket: generation, phase, listeners, connections, upgrades",
            );
            Ok(())
        }
    }
}

/// Runs until the service is gone, or stdout is closed.
pub(crate) fn watch(args: &args::Watch, path: &Path, output: &Output) -> Result<(), Failure> {
    let mut shown = String::new();
    let mut cut_off = 0;
    while !output.is_closed() {
        match Target::open(path, after(args.timeout), output)? {
            Target::Control(conversation) => {
                let has_shown = watch_one(conversation, args.timeout, &mut shown, output)?;
                cut_off = if has_shown { 0 } else { cut_off + 1 };
                if cut_off == MAX_CUT_OFF {
                    return Err(conversation::cut_off(path));
                }
            }
            Target::Signals(process) => watch_pidfile(process, output)?,
        }
        // Now another process serves, or none.
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Shows one process until it serves no more. False if the connection ended before the first status.
fn watch_one(
    mut conversation: Conversation,
    timeout: Duration,
    shown: &mut String,
    output: &Output,
) -> Result<bool, Failure> {
    let mut has_shown = false;
    let (status, _) = conversation.status()?;
    conversation.process(&status, output);
    conversation.ask(Request::Watch)?;
    loop {
        conversation.set_deadline(after(timeout));
        let Some(Line { text, reply }) = conversation.receive()? else { return Ok(has_shown) };
        let status = match reply {
            Some(Reply::Status { status, .. }) => status,
            Some(Reply::Error { code, message }) => return Err(Failure::answered(code, message)),
            _ => continue,
        };
        has_shown = true;
        output.pass_on(&text);
        if io::stdout().is_terminal() {
            output.picture(&picture_of(&status));
        } else {
            // A new line only for a change of the state, not for each open connection.
            let line = line_of(&status);
            if line != *shown {
                output.say(&line);
                *shown = line;
            }
        }
        let is_replaced =
            matches!(status.phase, Phase::Standby | Phase::Draining) && status.successor.is_some();
        if is_replaced || output.is_closed() {
            return Ok(has_shown);
        }
    }
}

fn watch_pidfile(mut process: Process, output: &Output) -> Result<(), Failure> {
    loop {
        output.line(&process.status());
        output.say(&format!("process {} has the pid file", process.pid()));
        process = process.wait_for_successor(after(Duration::MAX))?.ok_or_else(|| process.has_ended())?;
    }
}

pub(crate) fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    // A timeout beyond the range of the clock becomes a century.
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86400))
}
