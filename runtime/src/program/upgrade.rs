//! The command `upgrade`, through the control socket; by a signal without one.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args;
use super::check;
use super::commands::{
    after, ended, follow_to_the_end, may_continue, needs_control, show_progress, wait_for_exit,
};
use super::conversation::{Conversation, Line};
use super::drained::Drains;
use super::output::{Failure, Output};
use super::picture::versions;
use super::process::Process;
use super::report::Report;
use super::target::Target;
use super::unchanged;
use crate::base::status::Status;
use crate::control::{Code, Reply, Request};

/// The longest line that a service reads, in bytes, with its line feed.
const MAX_REQUEST: usize = 4096;

pub(crate) fn upgrade(args: &args::Upgrade, path: &Path, output: &Output) -> Result<(), Failure> {
    let deadline = after(args.timeout);
    let mut conversation = match Target::open(path, deadline, output)? {
        Target::Control(conversation) => conversation,
        Target::Signals(process) => return upgrade_by_signal(args, &process, deadline, output),
    };
    let request = request(args)?;
    let report = Report::new(args)?;
    let unchanged =
        if args.if_changed { unchanged::wait_for_it(&mut conversation, deadline, output)? } else { None };
    if let Some(status) = unchanged {
        output.line(&json!({"reply": "unchanged", "pid": status.pid, "generation": status.generation}));
        output.say(&format!(
            "unchanged: generation {}, process {}, runs that file",
            status.generation, status.pid
        ));
        return Ok(());
    }
    let (old, _) = conversation.status()?;
    if let Some(command) = &args.check {
        let executable = old.executable.as_ref().map(|executable| executable.path.as_path());
        check_release(command, executable, deadline, output)?;
    }
    let report = report.map(|report| report.start(&conversation, deadline, output)).transpose()?;
    let wait = Wait { drained: args.wait_drained, strict: args.strict, deadline };
    let done = carry_out(&request, &mut conversation, old, wait, output);
    if let Some(report) = report {
        report.finish(&done, output);
    }
    done
}

/// An upgrade to the executable that ran before.
pub(crate) fn rollback(args: &args::Rollback, path: &Path, output: &Output) -> Result<(), Failure> {
    let deadline = after(args.timeout);
    let Target::Control(mut conversation) = Target::open(path, deadline, output)? else {
        return Err(Failure::usage(
            "a rollback needs a control socket; give the service a control socket, or deploy the release before".to_owned(),
        ));
    };
    let (old, _) = conversation.status()?;
    let executable = old.executable.clone();
    let wait = Wait { drained: args.wait_drained, strict: args.strict, deadline };
    let done = carry_out(&json!({"command": "rollback"}).to_string(), &mut conversation, old, wait, output);
    // With --strict a rollback that is done may be a failure.
    let is_done = done.as_ref().map_or_else(Failure::is_done, |()| true);
    if let Some(executable) = executable.filter(|_| is_done) {
        let path = executable.path.display();
        if unchanged::is_at_its_path(&executable) {
            output.note(&format!(
                "{path} still names the release that was rolled back: the next upgrade, and the next start, run what is there"
            ));
        } else if !executable.path.exists() {
            output.note(&format!("there is no file at {path}: the next upgrade, and the next start, fail"));
        }
    }
    done
}

/// What a command waits for besides the outcome.
struct Wait {
    drained: bool,
    strict: bool,
    deadline: Instant,
}

/// Sends the request, and waits for the outcome.
fn carry_out(
    request: &str,
    conversation: &mut Conversation,
    mut old: Status,
    wait: Wait,
    output: &Output,
) -> Result<(), Failure> {
    let mut old_process = conversation.process(&old, output);
    let pid = loop {
        conversation.send(request)?;
        if let Some(pid) = outcome(conversation, &old, output)? {
            break pid;
        }
        // The connection ended without an outcome. If the process still serves, its server made room for another client and never
        // read the request: it keeps a connection that waits for an outcome. So ask again.
        let asked = old.pid;
        old = conversation.status().map_err(|failure| failure.after(&ended(asked)))?.0;
        if old.pid != asked {
            // This process may be the successor, which continued alone, or any process that was started later.
            let now = format!("{}; generation {}, process {}, serves", ended(asked), old.generation, old.pid);
            return Err(Failure::no_answer(now));
        }
        old_process = conversation.process(&old, output);
    };
    if wait.drained || wait.strict {
        // A watching client learns the number of open connections, and keeps its own connection until the process ends.
        conversation.ask(Request::Watch)?;
        let may_continue = |failure| may_continue(failure, "drain");
        let end = follow_to_the_end(conversation, &old, |_| (), output).map_err(may_continue)?;
        wait_for_exit(old_process.as_ref(), &old, wait.deadline).map_err(may_continue)?;
        let mut drains = Drains::default();
        drains.add(old.pid, end.drained);
        let line = json!({"reply": "drained", "pid": old.pid, "successor": pid});
        return drains.report(line, wait.strict, output);
    }
    Ok(())
}

/// The request to the service, as a line.
fn request(args: &args::Upgrade) -> Result<String, Failure> {
    let mut request = json!({"command": "upgrade"});
    if args.no_move {
        request["no_move"] = json!(true);
    }
    if let Some(command) = &args.verify {
        request["verify"] = json!(command);
    }
    let request = request.to_string();
    if request.len() >= MAX_REQUEST {
        return Err(Failure::usage(format!(
            "--verify is too long: the request to the service may have {MAX_REQUEST} bytes; put the command into a script"
        )));
    }
    Ok(request)
}

/// The process ID of the successor; `None` if the connection ends without an outcome.
fn outcome(conversation: &mut Conversation, old: &Status, output: &Output) -> Result<Option<u32>, Failure> {
    while let Some(Line { text, reply }) =
        conversation.receive().map_err(|failure| may_continue(failure, "upgrade"))?
    {
        match reply {
            Some(Reply::Error { code: Code::BadRequest, message }) => {
                return Err(Failure::older_release(&message));
            }
            Some(Reply::Error { code, message }) => return Err(Failure::answered(code, message)),
            Some(Reply::Upgraded { generation, pid, elapsed_ms, warnings, from, to }) => {
                output.pass_on(&text);
                for warning in &warnings {
                    output.note(&format!("warning: {}", warning.replace(char::is_control, " ")));
                }
                let elapsed = humantime::format_duration(Duration::from_millis(elapsed_ms));
                output.say(&format!(
                    "upgraded to generation {generation}, process {pid}, which served after {elapsed}"
                ));
                if from.version != to.version {
                    output.say(&format!("version {}", versions(&from, &to)));
                }
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
    for (option, is_given) in [
        ("--no-move", args.no_move),
        ("--if-changed", args.if_changed),
        ("--strict", args.strict),
        ("--verify", args.verify.is_some()),
        ("--report", args.report.is_some()),
    ] {
        if is_given {
            return Err(needs_control(option));
        }
    }
    if let Some(command) = &args.check {
        check_release(command, old.executable().ok().as_deref(), deadline, output)?;
    }
    old.signal(args.signal)?;
    output.progress(&format!("{} is sent to process {}", args.signal, old.pid()));
    let new = old.wait_for_successor(deadline)?.ok_or_else(|| old.has_ended_in_an_upgrade())?;
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

/// The operator's own check of the new release, before the request to the service.
fn check_release(
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
    check::run(command, executable, deadline)
        .map_err(|how| Failure::refused("check-failed", format!("the check {how}; no upgrade was asked for")))
}
