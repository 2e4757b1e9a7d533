//! The output: outcomes on stdout, progress and reasons on stderr; and the exit status.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::control::Code;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// The time between two drawings of the progress bar.
const TICK: Duration = Duration::from_millis(100);

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// For scripts: a code of the control socket, or a code of this program.
    code: String,
    message: String,
}

#[derive(Clone, Copy, Debug)]
enum Exit {
    /// The old process still serves.
    Refused = 1,
    Usage = 2,
    NothingRunning = 3,
    Busy = 4,
    NoAnswer = 5,
    /// It is done, and connections were cut.
    Cut = 6,
}

impl Failure {
    fn new(exit: Exit, code: &str, message: String) -> Self {
        Self { exit, code: code.to_owned(), message }
    }

    pub(crate) fn refused(code: &str, message: String) -> Self {
        Self::new(Exit::Refused, code, message)
    }

    pub(crate) fn usage(message: String) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    pub(crate) fn nothing_running(message: String) -> Self {
        Self::new(Exit::NothingRunning, "nothing-running", message)
    }

    pub(crate) fn no_answer(message: String) -> Self {
        Self::new(Exit::NoAnswer, "no-answer", message)
    }

    pub(crate) fn no_thread(error: io::Error) -> Self {
        Self::refused("failed", format!("cannot start a thread: {error}"))
    }

    /// With `--strict`: the command is done, and connections were cut.
    pub(crate) fn cut(message: String) -> Self {
        Self::new(Exit::Cut, "connections-cut", message)
    }

    /// The service does not know the request.
    pub(crate) fn older_release(message: &str) -> Self {
        Self::answered(
            Code::BadRequest,
            format!(
                "the release of the service does not know this command; deploy a release instead ({message})"
            ),
        )
    }

    /// Whether the command has done what it was asked for.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.exit, Exit::Cut)
    }

    /// The message.
    pub(crate) fn reason(&self) -> &str {
        &self.message
    }

    pub(crate) fn is_no_answer(&self) -> bool {
        matches!(self.exit, Exit::NoAnswer)
    }

    /// Appends to the message, if the failure is a missing answer.
    pub(crate) fn if_no_answer(mut self, more: &str) -> Self {
        if self.is_no_answer() {
            self.message.push_str(more);
        }
        self
    }

    /// Puts `what` in front of the message.
    pub(crate) fn after(mut self, what: &str) -> Self {
        self.message = format!("{what}; {}", self.message);
        self
    }

    /// The error that the service answered.
    pub(crate) fn answered(code: Code, message: String) -> Self {
        let exit = match code {
            Code::InProgress | Code::PredecessorDraining | Code::SuccessorDraining => Exit::Busy,
            _ => Exit::Refused,
        };
        let code = serde_json::to_value(code).ok().and_then(|code| Some(code.as_str()?.to_owned()));
        Self { exit, code: code.unwrap_or_default(), message }
    }
}

/// The only place that prints.
pub(crate) struct Output {
    json: bool,
    /// The progress bar, at a terminal.
    bar: RefCell<Option<ProgressBar>>,
    closed: Cell<bool>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, bar: RefCell::new(None), closed: Cell::new(false) }
    }

    /// The progress: a bar at a terminal, a line elsewhere. With `--json` the lines of the service show it instead.
    pub(crate) fn progress(&self, line: &str) {
        if self.json {
            return;
        }
        if !io::stderr().is_terminal() {
            return note(line);
        }
        let mut bar = self.bar.borrow_mut();
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        bar.set_message(line.to_owned());
    }

    /// Replaces the previous picture, at a terminal.
    pub(crate) fn picture(&self, text: &str) {
        if self.json {
            return;
        }
        let mut bar = self.bar.borrow_mut();
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(text.trim_end().to_owned());
        bar.tick();
    }

    /// A message on stderr that is not the outcome.
    pub(crate) fn note(&self, line: &str) {
        self.clear();
        note(line);
    }

    /// An outcome in words, on stdout. `--json` omits it.
    pub(crate) fn say(&self, line: &str) {
        if !self.json {
            self.print(&format!("{line}\n"));
        }
    }

    /// A line of JSON, with `--json` only.
    pub(crate) fn line(&self, line: &Value) {
        self.pass_on(&line.to_string());
    }

    /// A line of JSON from the service, with `--json` only.
    pub(crate) fn pass_on(&self, line: &str) {
        if self.json {
            self.print(&format!("{line}\n"));
        }
    }

    /// Prints unchanged text. A closed stdout is no failure of the command.
    pub(crate) fn print(&self, text: &str) {
        self.clear();
        let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
        if written.is_err() {
            self.closed.set(true);
        }
    }

    /// Whether the reader of stdout has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Prints the reason in one line, and returns the exit status.
    pub(crate) fn failed(&self, failure: &Failure) -> ExitCode {
        let Failure { exit, code, message } = failure;
        let message = message.replace(char::is_control, " ");
        self.line(&json!({"reply": "error", "code": code, "message": message}));
        self.note(&message);
        ExitCode::from(*exit as u8)
    }

    fn clear(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

/// One line on stderr, in one write.
fn note(line: &str) {
    match io::stderr().write_all(format!("tableflip: {line}\n").as_bytes()) {
        Ok(()) | Err(_) => {}
    }
}
