//! The command `revert`: the predecessor on standby serves again.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args;
use super::commands::{after, ended, may_continue, show_progress};
use super::conversation::{Conversation, Line};
use super::output::{Failure, Output};
use super::process::Process;
use super::target::Target;
use crate::base::status::{Phase, Status};
use crate::control::{Code, Reply, Request};
use crate::outside::proof::elder_of;

/// The least time for an answer of a process that does nothing else: a shorter `--timeout` must not make it one that hangs.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait for a status, for the end of a revert that has begun, and for the predecessor after a kill.
const WAIT: Duration = Duration::from_secs(30);
/// The time between two looks for the process that serves.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn revert(args: &args::Revert, path: &Path, output: &Output) -> Result<(), Failure> {
    let since = Instant::now();
    let Target::Control(mut conversation) = Target::open(path, after(WAIT), output)? else {
        return Err(Failure::usage(
            "a revert needs a control socket; give the service a control socket, or deploy the release before".to_owned(),
        ));
    };
    let patience = args.timeout.max(LEAST_PATIENCE);
    loop {
        conversation.set_deadline(after(patience));
        let status = match conversation.status() {
            Ok((status, _)) => status,
            Err(failure) if failure.is_no_answer() => return kill(&conversation, None, since, output),
            Err(failure) => return Err(failure),
        };
        let standby = Standby::of(&status);
        conversation.process(&status, output);
        conversation.set_deadline(after(args.timeout));
        conversation.ask(Request::Revert)?;
        let mut answered = answer(&mut conversation, &status, output)?;
        if matches!(answered, Answer::None) && does_answer(conversation.paths().0, patience) {
            // It waits for the other process, and says how that ends.
            output.progress(&format!("process {} waits for the process on standby", status.pid));
            conversation.set_deadline(after(WAIT));
            answered = answer(&mut conversation, &status, output)?;
        }
        match answered {
            Answer::Reverted => return Ok(()),
            Answer::None => return kill(&conversation, Some((&status, standby)), since, output),
            // The process has ended, or its server made room for another client and never read the request.
            Answer::End => {}
        }
        conversation.set_deadline(after(WAIT));
        let (now, _) = conversation.status().map_err(|failure| failure.after(&ended(status.pid)))?;
        if now.pid != status.pid {
            return match standby {
                Some(standby) if standby.pid == now.pid => {
                    serves_again(&now, since, None, output);
                    Ok(())
                }
                _ => Err(Failure::no_answer(format!(
                    "{}; generation {}, process {}, serves",
                    ended(status.pid),
                    now.generation,
                    now.pid
                ))),
            };
        }
    }
}

/// Whether the process answers another client in this time.
fn does_answer(control: &Path, patience: Duration) -> bool {
    let deadline = after(patience);
    match Conversation::open(control, deadline) {
        Ok(Some(mut conversation)) => conversation.status().is_ok(),
        Ok(None) | Err(_) => false,
    }
}

/// How the request has ended.
enum Answer {
    Reverted,
    /// The connection has ended without an outcome.
    End,
    /// The process has not said anything in time.
    None,
}

fn answer(conversation: &mut Conversation, old: &Status, output: &Output) -> Result<Answer, Failure> {
    let mut has_begun = false;
    loop {
        let line = match conversation.receive() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(Answer::End),
            Err(failure) if failure.is_no_answer() && !has_begun => return Ok(Answer::None),
            Err(failure) => return Err(may_continue(failure, "revert")),
        };
        let Line { text, reply } = line;
        match reply {
            Some(Reply::Reverted { generation, pid, elapsed_ms }) => {
                output.pass_on(&text);
                let elapsed = humantime::format_duration(Duration::from_millis(elapsed_ms));
                output.say(&format!("generation {generation}, process {pid}, serves again, after {elapsed}"));
                return Ok(Answer::Reverted);
            }
            Some(Reply::Error { code: Code::BadRequest, message }) => {
                return Err(Failure::older_release(&message));
            }
            Some(Reply::Error { code, message }) => return Err(Failure::answered(code, message)),
            // The processes see to the rest, each with a deadline of its own.
            Some(Reply::Phase { .. }) if !has_begun => {
                has_begun = true;
                conversation.set_deadline(after(WAIT));
            }
            _ => {}
        }
        output.pass_on(&text);
        show_progress(reply.as_ref(), old, output);
    }
}

/// The predecessor on standby that a status names.
struct Standby {
    pid: u32,
    /// The end of the probation.
    until: Instant,
}

impl Standby {
    fn of(status: &Status) -> Option<Self> {
        let state = status.predecessor_state.as_ref().filter(|state| state.phase == Phase::Standby)?;
        Some(Self { pid: status.predecessor?, until: after(state.remaining?) })
    }
}

/// Ends the process that gives no answer, so that its predecessor serves again. Without a predecessor nobody would. `known` is what
/// the process has said before; one that has not said anything is asked the kernel for.
fn kill(
    conversation: &Conversation,
    known: Option<(&Status, Option<Standby>)>,
    since: Instant,
    output: &Output,
) -> Result<(), Failure> {
    let (control, Some(pidfile)) = conversation.paths() else {
        return Err(Failure::no_answer(
            "the process gave no answer; it was not ended: name the pid file instead of the control socket, for the proof that it is \
             the service"
                .to_owned(),
        ));
    };
    let process = Process::named_by(pidfile, control)?;
    let pid = process.pid();
    let not_ended =
        |why: &str| Failure::no_answer(format!("process {pid} gave no answer; it was not ended: {why}"));
    let standby = match known {
        Some((status, Some(standby))) if standby.pid == pid && status.pid != pid => {
            // It has given the service back, and has not come to say so.
            serves_again(&next_status(control, pid)?, since, None, output);
            return Ok(());
        }
        Some((status, _)) if status.pid != pid => {
            return Err(not_ended(&format!("process {} was asked", status.pid)));
        }
        Some((_, standby)) => standby,
        None => elder_of(pid).map(|elder| Standby { pid: elder, until: after(WAIT) }),
    };
    let standby = standby.ok_or_else(|| not_ended("no predecessor is known to be on standby"))?;
    // After the proof, which takes its time.
    if Instant::now() >= standby.until {
        return Err(not_ended("its probation is over"));
    }
    process.kill()?;
    output.progress(&format!("process {pid} gave no answer and is killed"));
    process.wait_for_the_end(after(WAIT))?;
    serves_again(&next_status(control, pid)?, since, Some(pid), output);
    Ok(())
}

/// The status of the process that serves after this one.
fn next_status(control: &Path, pid: u32) -> Result<Status, Failure> {
    let deadline = after(WAIT);
    loop {
        if let Some(mut conversation) = Conversation::open(control, deadline)? {
            return Ok(conversation.status()?.0);
        }
        if Instant::now() >= deadline {
            return Err(Failure::no_answer(format!("process {pid} is dead, and no other process answers")));
        }
        thread::sleep(LOOK);
    }
}

fn serves_again(now: &Status, since: Instant, killed: Option<u32>, output: &Output) {
    let Status { generation, pid, .. } = now;
    let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut line =
        json!({"reply": "reverted", "generation": generation, "pid": pid, "elapsed_ms": elapsed_ms});
    if let Some(killed) = killed {
        line["killed"] = json!(killed);
    }
    output.line(&line);
    output.say(&format!("generation {generation}, process {pid}, serves again"));
    if let Some(killed) = killed {
        output.note(&format!(
            "process {killed} gave no answer and was killed: the connections that it had accepted are lost"
        ));
    }
}
