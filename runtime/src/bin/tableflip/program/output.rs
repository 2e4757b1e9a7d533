//! What is printed: outcomes on stdout, progress and reasons on stderr; and the exit status.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tableflip::control::Code;

/// How often a bar of progress is drawn anew.
const TICK: Duration = Duration::from_millis(100);

/// Why a command is not done.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// For programs: a code of the control socket, or one of this program's own.
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

    /// With this behind what it says, if it is that there was no answer in time.
    pub(crate) fn if_no_answer(mut self, more: &str) -> Self {
        if matches!(self.exit, Exit::NoAnswer) {
            self.message.push_str(more);
        }
        self
    }

    /// With this before what it says.
    pub(crate) fn after(mut self, what: &str) -> Self {
        self.message = format!("{what}; {}", self.message);
        self
    }

    /// What the service has answered.
    pub(crate) fn answered(code: Code, message: String) -> Self {
        let exit = match code {
            Code::InProgress | Code::PredecessorDraining => Exit::Busy,
            _ => Exit::Refused,
        };
        let code = serde_json::to_value(code).ok().and_then(|code| Some(code.as_str()?.to_owned()));
        Self { exit, code: code.unwrap_or_default(), message }
    }
}

/// Where everything is printed.
pub(crate) struct Output {
    json: bool,
    /// What goes on, at a terminal.
    bar: RefCell<Option<ProgressBar>>,
    closed: Cell<bool>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, bar: RefCell::new(None), closed: Cell::new(false) }
    }

    /// What goes on: a bar at a terminal, a line elsewhere. Whoever reads JSON has it from there.
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

    /// A picture that replaces the one before, at a terminal.
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

    /// Something to know that is no outcome.
    pub(crate) fn note(&self, line: &str) {
        self.clear();
        note(line);
    }

    /// An outcome, in words.
    pub(crate) fn say(&self, line: &str) {
        if !self.json {
            self.print(&format!("{line}\n"));
        }
    }

    /// A line for programs.
    pub(crate) fn line(&self, line: &Value) {
        self.pass_on(&line.to_string());
    }

    /// A line of the service, to whoever reads JSON.
    pub(crate) fn pass_on(&self, line: &str) {
        if self.json {
            self.print(&format!("{line}\n"));
        }
    }

    /// Text as it is. Whoever has closed stdout does not want it.
    pub(crate) fn print(&self, text: &str) {
        self.clear();
        let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
        if written.is_err() {
            self.closed.set(true);
        }
    }

    /// Nobody reads what is printed any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Says why, in one line, and with which status to exit.
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
