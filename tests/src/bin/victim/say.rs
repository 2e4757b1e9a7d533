//! The lines of a victim on stdout, for its test. Every generation inherits this stdout.
//!
//! A line is `PID GENERATION WHAT TEXT`. An event of the crate under test becomes one of these lines as well, in the
//! thread that it happened in and before that thread goes on: a plan can therefore let a process die, or wait, at
//! the very instruction that reported a phase.

use std::fmt::{self, Write as _};

use rustix::stdio::stdout;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::plan::Plan;

/// Writes one line. Nobody listens any more once the test is over.
pub(crate) fn say(generation: u64, what: &str, text: impl fmt::Display) {
    let text = text.to_string().replace('\n', " ");
    let line = format!("{} {generation} {what} {text}\n", std::process::id());
    // One write, so that the lines of two processes do not mix: it is shorter than PIPE_BUF unless a test asks for
    // the impossible. Not through std, whose lock a thread that is stopped for good could hold.
    match rustix::io::write(stdout(), line.as_bytes()) {
        Ok(_) | Err(_) => {}
    }
}

/// Events go to stdout for the test, and to stderr for a person who reads why it failed.
pub(crate) fn install() {
    let for_people = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_filter(tracing_subscriber::filter::LevelFilter::DEBUG);
    tracing_subscriber::registry().with(for_people).with(ForTheTest).init();
}

struct ForTheTest;

impl<S: Subscriber> Layer<S> for ForTheTest {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != "tableflip" {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { generation, phase, message, rest } = fields;
        let what = match phase {
            // Each step of the life cycle, as opposed to what is reported at the default level.
            Some(phase) if message == "step" => format!("step:{}", phase.replace(' ', "")),
            Some(phase) => phase.trim_matches('"').to_owned(),
            None if *event.metadata().level() <= Level::WARN => "error".to_owned(),
            None => "info".to_owned(),
        };
        say(generation, &what, format_args!("{message}{rest}"));
        Plan::of_this_process().carry_out(generation, &what);
    }
}

#[derive(Default)]
struct Fields {
    generation: u64,
    phase: Option<String>,
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "generation" => self.generation = value,
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "phase" => self.phase = Some(format!("{value:?}")),
            "pid" => {}
            // Writing to a `String` does not fail.
            name => _ = write!(self.rest, " {name}={value:?}"),
        }
    }
}
