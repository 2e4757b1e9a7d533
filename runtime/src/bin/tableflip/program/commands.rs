//! The commands, through the control socket; by signals where there is none.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tableflip::__private::process_beside;
use tableflip::control::{Reply, Request};
use tableflip::status::{Phase, Status};

use super::args;
use super::conversation::{self, Conversation, Line, MAX_CUT_OFF};
use super::output::{Failure, Output};
use super::picture::{line_of, name_of, picture_of};
use super::process::{self, Process};
use super::target::Target;

/// Before a process that does not serve any more is looked for again.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn upgrade(args: &args::Upgrade, output: &Output) -> Result<(), Failure> {
    let deadline = after(args.timeout);
    let mut conversation = match Target::open(&args.service.path, deadline, output)? {
        Target::Control(conversation) => conversation,
        Target::Signals(process) => return upgrade_by_signal(args, &process, deadline, output),
    };
    let (mut old, _) = conversation.status()?;
    if let Some(command) = &args.check {
        let executable = old.executable.as_ref().map(|executable| executable.path.as_path());
        check(command, executable, deadline, output)?;
    }
    let mut neighbour = conversation.process(&old, output);
    let pid = loop {
        conversation.ask(Request::Upgrade)?;
        if let Some(pid) = outcome(&mut conversation, &old, output)? {
            break pid;
        }
        // The connection has ended. Where it was not the process, it was in the way of others, and the request was not heard:
        // one who waits for an outcome is in nobody's way.
        let asked = old.pid;
        old = conversation.status().map_err(|failure| failure.after(&ended(asked)))?.0;
        if old.pid != asked {
            // It may be the successor, which went on without it, and may be any other that was started since.
            let now = format!("{}; generation {}, process {}, serves", ended(asked), old.generation, old.pid);
            return Err(Failure::no_answer(now));
        }
        neighbour = conversation.process(&old, output);
    };
    if args.wait_drained {
        // Whoever watches is told how many there are, and keeps its connection to the end.
        conversation.ask(Request::Watch)?;
        follow_to_the_end(&mut conversation, &old, |_| (), output)
            .and_then(|_| wait_for_exit(neighbour.as_ref(), &old, deadline))
            .map_err(|failure| goes_on(failure, "drain"))?;
        output.line(&json!({"reply": "drained", "pid": old.pid, "successor": pid}));
        output.say(&format!("process {} is gone", old.pid));
    }
    Ok(())
}

/// The process ID of the successor; `None` if the connection ends before.
fn outcome(conversation: &mut Conversation, old: &Status, output: &Output) -> Result<Option<u32>, Failure> {
    while let Some(Line { text, reply }) =
        conversation.receive().map_err(|failure| goes_on(failure, "upgrade"))?
    {
        match reply {
            Some(Reply::Error { code, message }) => return Err(Failure::answered(code, message)),
            Some(Reply::Upgraded { generation, pid, elapsed_ms, warnings }) => {
                output.pass_on(&text);
                for warning in &warnings {
                    output.note(&format!("warning: {}", warning.replace(char::is_control, " ")));
                }
                let elapsed = humantime::format_duration(Duration::from_millis(elapsed_ms));
                output.say(&format!(
                    "upgraded to generation {generation}, process {pid}, which served after {elapsed}"
                ));
                return Ok(Some(pid));
            }
            reply => {
                output.pass_on(&text);
                show_progress(reply.as_ref(), old, output);
            }
        }
    }
    Ok(None)
}

fn upgrade_by_signal(
    args: &args::Upgrade,
    old: &Process,
    deadline: Instant,
    output: &Output,
) -> Result<(), Failure> {
    if let Some(command) = &args.check {
        check(command, old.executable().ok().as_deref(), deadline, output)?;
    }
    old.signal(args.signal)?;
    output.progress(&format!("{} is sent to process {}", args.signal, old.pid()));
    let new = old.wait_for_successor(deadline)?;
    output.line(&json!({"reply": "replaced", "pid": new.pid(), "predecessor": old.pid()}));
    output.say(&format!("process {} has the pid file", new.pid()));
    output.note(&format!(
        "not known without a control socket: its generation, and whether it passes its probation; if not, process {} \
         takes the pid file back",
        old.pid(),
    ));
    if args.wait_drained {
        output.progress(&format!("process {} finishes its connections", old.pid()));
        old.wait_for_the_end(deadline)?;
        output.line(&json!({"reply": "drained", "pid": old.pid(), "successor": new.pid()}));
        output.say(&format!("process {} is gone", old.pid()));
    }
    Ok(())
}

/// The operator's own check of the new release, before the service hears of it.
fn check(
    command: &OsStr,
    executable: Option<&Path>,
    deadline: Instant,
    output: &Output,
) -> Result<(), Failure> {
    let Some(executable) = executable else {
        return Err(Failure::refused(
            "check-failed",
            "the executable of the service is not known".to_owned(),
        ));
    };
    output.progress(&format!("checking {}", executable.display()));
    tableflip::__private::check(command, executable, deadline)
        .map_err(|how| Failure::refused("check-failed", format!("the check {how}; no upgrade was asked for")))
}

pub(crate) fn stop(args: &args::Stop, output: &Output) -> Result<(), Failure> {
    let deadline = after(args.timeout);
    let pid = match Target::open(&args.service.path, deadline, output)? {
        Target::Control(mut conversation) => {
            let (mut old, _) = conversation.status()?;
            let mut relatives = Relatives::default();
            loop {
                let neighbour = conversation.process(&old, output);
                relatives.note(&old, neighbour.as_ref(), output);
                conversation.ask(Request::Stop)?;
                let goes_on = |failure| goes_on(failure, "stop");
                let note = |status: &Status| relatives.note(status, neighbour.as_ref(), output);
                if follow_to_the_end(&mut conversation, &old, note, output).map_err(goes_on)? {
                    wait_for_exit(neighbour.as_ref(), &old, deadline).map_err(goes_on)?;
                    relatives.wait_for_exit(deadline, output).map_err(goes_on)?;
                    break old.pid;
                }
                // Not heard, as in `upgrade`; another process that serves by now is as much to be stopped.
                old = conversation.status().map_err(|failure| failure.after(&ended(old.pid)))?.0;
            }
        }
        Target::Signals(process) => {
            process.signal(Signal::SIGTERM)?;
            output.progress(&format!("process {} finishes its connections", process.pid()));
            process.wait_for_the_end(deadline)?;
            process.pid()
        }
    };
    output.line(&json!({"reply": "stopped", "pid": pid}));
    output.say(&format!("process {pid} is gone"));
    Ok(())
}

/// The other processes of a service that is stopped. Each finishes its own connections: a predecessor may drain for longer than
/// the process that serves, which is the only one that can be talked to.
#[derive(Default)]
struct Relatives {
    /// By number; `None` for one that is dead or cannot be waited for.
    processes: BTreeMap<u32, Option<OwnedFd>>,
}

impl Relatives {
    /// Opens each process that a status names beside the one that it is of, while that one lives.
    fn note(&mut self, status: &Status, neighbour: Option<&OwnedFd>, output: &Output) {
        for pid in status.generations.iter().map(|generation| generation.pid) {
            if pid == status.pid || self.processes.contains_key(&pid) {
                continue;
            }
            let process = match neighbour {
                Some(neighbour) => process_beside(neighbour.as_fd(), status.pid, pid),
                None => Err(format!("process {} cannot be seen from here", status.pid)),
            };
            let process = process.unwrap_or_else(|reason| {
                output.note(&format!(
                    "the end of process {pid}, another generation, is not waited for: {reason}"
                ));
                None
            });
            self.processes.insert(pid, process);
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

/// Shows what happens up to the end of the connection, which is that of the process. False if it ended before the request was
/// answered.
fn follow_to_the_end(
    conversation: &mut Conversation,
    old: &Status,
    mut note: impl FnMut(&Status),
    output: &Output,
) -> Result<bool, Failure> {
    let mut is_heard = false;
    while let Some(Line { text, reply }) = conversation.receive()? {
        output.pass_on(&text);
        match &reply {
            Some(Reply::Error { code, message }) => return Err(Failure::answered(*code, message.clone())),
            Some(Reply::Status { status, .. }) => {
                is_heard = true;
                note(status);
                output
                    .progress(&format!("process {} finishes its connections, {} open", old.pid, status.open));
            }
            Some(Reply::Stopping) => is_heard = true,
            reply => show_progress(reply.as_ref(), old, output),
        }
    }
    Ok(is_heard)
}

/// Between the end of its connections and its own there is a moment, for whoever can see it.
fn wait_for_exit(neighbour: Option<&OwnedFd>, old: &Status, deadline: Instant) -> Result<(), Failure> {
    match neighbour {
        Some(pidfd) if !process::wait_for_the_end(pidfd.as_fd(), deadline) => {
            Err(Failure::no_answer(format!("process {} has finished and does not exit", old.pid)))
        }
        _ => Ok(()),
    }
}

fn ended(pid: u32) -> String {
    format!("process {pid} ended before it told the outcome")
}

fn goes_on(failure: Failure, what: &str) -> Failure {
    failure.if_no_answer(&format!("; the {what} may go on all the same, see `tableflip status`"))
}

fn show_progress(reply: Option<&Reply>, old: &Status, output: &Output) {
    let Some(Reply::Phase { phase, successor, .. }) = reply else { return };
    let new = successor.map_or_else(|| "the successor".to_owned(), |pid| format!("process {pid}"));
    let old = old.pid;
    output.progress(&match phase {
        // The end of the connection says it.
        Phase::Ended => return,
        Phase::Checking => "the preflight command checks the release".to_owned(),
        Phase::Upgrading => format!("{new} initialises"),
        Phase::HandingOver => format!("process {old} hands over to {new}"),
        Phase::Standby => format!("{new} serves, on probation"),
        Phase::Reverting => format!("{new} has failed; process {old} takes over again"),
        Phase::Serving => format!("process {old} serves"),
        Phase::Draining => format!("process {old} finishes its connections"),
        Phase::Rescuing => format!("{new} is dead; process {old} starts its own executable again"),
        phase => format!("process {old}: {}", name_of(*phase)),
    });
}

pub(crate) fn status(args: &args::Status, output: &Output) -> Result<(), Failure> {
    let deadline = after(args.timeout);
    match Target::open(&args.service.path, deadline, output)? {
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

/// Until the service is gone, or nobody reads any more.
pub(crate) fn watch(args: &args::Watch, output: &Output) -> Result<(), Failure> {
    let path = &args.service.path;
    let mut shown = String::new();
    let mut cut_off = 0;
    while !output.is_closed() {
        match Target::open(path, after(args.timeout), output)? {
            Target::Control(conversation) => {
                let is_heard = watch_one(conversation, args.timeout, &mut shown, output)?;
                cut_off = if is_heard { 0 } else { cut_off + 1 };
                if cut_off == MAX_CUT_OFF {
                    return Err(conversation::cut_off(path));
                }
            }
            Target::Signals(process) => watch_pidfile(process, output)?,
        }
        // The process that serves by now is another one, or none.
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Shows one process, until it is not the one that serves any more. False if the connection ended before there was anything
/// to show.
fn watch_one(
    mut conversation: Conversation,
    timeout: Duration,
    shown: &mut String,
    output: &Output,
) -> Result<bool, Failure> {
    let mut is_heard = false;
    let (status, _) = conversation.status()?;
    conversation.process(&status, output);
    conversation.ask(Request::Watch)?;
    loop {
        conversation.set_deadline(after(timeout));
        let Some(Line { text, reply }) = conversation.receive()? else { return Ok(is_heard) };
        let status = match reply {
            Some(Reply::Status { status, .. }) => status,
            Some(Reply::Error { code, message }) => return Err(Failure::answered(code, message)),
            _ => continue,
        };
        is_heard = true;
        output.pass_on(&text);
        if io::stdout().is_terminal() {
            output.picture(&picture_of(&status));
        } else {
            // What has happened, and not what is open at the moment.
            let line = line_of(&status);
            if line != *shown {
                output.say(&line);
                *shown = line;
            }
        }
        let is_replaced =
            matches!(status.phase, Phase::Standby | Phase::Draining) && status.successor.is_some();
        if is_replaced || output.is_closed() {
            return Ok(is_heard);
        }
    }
}

fn watch_pidfile(mut process: Process, output: &Output) -> Result<(), Failure> {
    loop {
        output.line(&process.status());
        output.say(&format!("process {} has the pid file", process.pid()));
        process = process.wait_for_successor(after(Duration::MAX))?;
    }
}

fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    // Longer than a clock can count is as good as a century.
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86400))
}
