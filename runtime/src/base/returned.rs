//! What a body returns, and how its end is described.

use std::convert::Infallible;
use std::fmt;
use std::process::{ExitCode, Termination};

use crate::base::report::printable;

/// What the body of a [`Service`](crate::Service) returns: `()`, an [`ExitCode`], or a `Result`. The error of a
/// `Result` reaches the log and the predecessor.
///
/// For a [`Termination`] of another crate the body returns `value.report()`. For a type of your own one line is enough:
/// `impl tableflip::Returned for Status {}`. Under the attribute a body may return any [`Termination`].
#[diagnostic::on_unimplemented(
    message = "a body cannot return `{Self}`",
    label = "not what a body returns",
    note = "a body returns `()`, an `ExitCode`, or a `Result` of one of them with an error that is `Debug`",
    note = "of any other `std::process::Termination` it returns `value.report()`"
)]
pub trait Returned: Termination {
    /// The error as text. `None` for a success, and for a type that does not report its error.
    fn error(&self) -> Option<String> {
        None
    }
}

impl Returned for () {}
impl Returned for ExitCode {}
impl Returned for Infallible {}

impl<T: Returned, E: fmt::Debug> Returned for Result<T, E> {
    fn error(&self) -> Option<String> {
        match self {
            Ok(value) => value.error(),
            Err(error) => Some(format!("{error:?}")),
        }
    }
}

/// Names the type `!`, which stable Rust cannot write here.
#[doc(hidden)]
pub trait Function {
    type Output;
}

impl<T> Function for fn() -> T {
    type Output = T;
}

impl Returned for <fn() -> ! as Function>::Output {}

/// The value of a body under the attribute, with the error that the expansion found in it.
#[doc(hidden)]
#[derive(Debug)]
pub struct ReturnedWithError<T> {
    returned: T,
    error: Option<String>,
}

impl<T> ReturnedWithError<T> {
    pub(crate) fn new(returned: T, error: Option<String>) -> Self {
        Self { returned, error }
    }
}

impl<T: BodyValue> Termination for ReturnedWithError<T> {
    fn report(self) -> ExitCode {
        self.returned.exit_code()
    }
}

/// Every [`Termination`]. The compiler names this trait where a body under the attribute returns something else.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a body cannot return `{Self}`",
    label = "not what a body returns",
    note = "a body returns `()`, a `Result<(), E>` with an error that is `Debug`, or another `std::process::Termination`"
)]
pub trait BodyValue {
    fn exit_code(self) -> ExitCode;
}

#[diagnostic::do_not_recommend]
impl<T: Termination> BodyValue for T {
    fn exit_code(self) -> ExitCode {
        self.report()
    }
}

impl<T: BodyValue> Returned for ReturnedWithError<T> {
    fn error(&self) -> Option<String> {
        self.error.clone()
    }
}

/// How a body ended.
#[derive(Debug, Default)]
pub(crate) enum BodyEnd {
    #[default]
    Returned,
    /// It returned this error.
    Failed(String),
    /// It panicked with this message.
    Panicked(String),
}

impl BodyEnd {
    /// Why the start failed.
    pub(crate) fn before_ready(&self) -> String {
        match self {
            Self::Returned => "the body returned before it was ready".to_owned(),
            Self::Failed(error) => {
                format!("the body returned before it was ready: {}", printable(without_backtrace(error)))
            }
            Self::Panicked(message) => format!("the body panicked: {}", printable(message)),
        }
    }

    /// Why a serving process ends.
    pub(crate) fn unasked(&self) -> String {
        match self {
            Self::Returned => "the body returned".to_owned(),
            Self::Failed(error) => {
                format!("the body returned an error: {}", printable(without_backtrace(error)))
            }
            Self::Panicked(message) => format!("the body panicked: {}", printable(message)),
        }
    }
}

/// The text of an error without the backtrace that the reports of `anyhow`, `eyre` and `color-eyre` end with. A
/// backtrace is for the developer, who finds it on stderr. In the line of a log it would hide the reason.
fn without_backtrace(error: &str) -> &str {
    let begins_backtrace = |line: &str| {
        let heading = line.trim_matches(|c: char| c == '\u{2501}' || c.is_whitespace());
        matches!(heading, "Stack backtrace:" | "BACKTRACE") || heading.starts_with("Backtrace omitted")
    };
    let mut at = 0;
    for line in error.split_inclusive('\n') {
        // The error itself is in the first line.
        if at > 0 && begins_backtrace(line) {
            return &error[..at];
        }
        at += line.len();
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(returned: impl Returned) -> Option<String> {
        returned.error()
    }

    #[test]
    fn b3_the_error_of_a_result_is_told() {
        assert_eq!(error(()), None);
        assert_eq!(error(ExitCode::FAILURE), None);
        assert_eq!(error(Ok::<_, String>(())), None);
        assert_eq!(error(Err::<(), _>("no /etc/v.toml")).unwrap(), r#""no /etc/v.toml""#);
        assert_eq!(error(Err::<ExitCode, _>(fmt::Error)).unwrap(), "Error");
        assert_eq!(error(Ok::<_, ()>(Err::<(), _>(7))).unwrap(), "7");
        let boxed: Result<(), Box<dyn std::error::Error>> = Err("no room".into());
        assert_eq!(error(boxed).unwrap(), r#""no room""#);
        assert_eq!(error(ReturnedWithError::new((), Some("odd".to_owned()))).unwrap(), "odd");
    }

    #[test]
    fn the_backtrace_of_a_report_is_for_stderr_and_not_for_the_log() {
        let reason = |report: &str| BodyEnd::Failed(report.to_owned()).unasked();
        let anyhow = "warming up\n\nCaused by:\n    no directory\n\nStack backtrace:\n   0: main\n";
        assert_eq!(reason(anyhow), "the body returned an error: warming up Caused by: no directory");
        let color_eyre = "\n   0: \x1b[91mwarming up\x1b[0m\n\n  ━━━━ BACKTRACE ━━━━\n   1: main\n";
        assert_eq!(reason(color_eyre), "the body returned an error: 0: warming up");
        let omitted = "\n   0: warming up\n\nBacktrace omitted. Run with RUST_BACKTRACE=1\nRun with RUST_BACKTRACE=full";
        assert_eq!(
            BodyEnd::Failed(omitted.to_owned()).before_ready(),
            "the body returned before it was ready: 0: warming up"
        );
        assert_eq!(reason("Stack backtrace:"), "the body returned an error: Stack backtrace:");
        assert_eq!(reason("a\nBACKTRACES"), "the body returned an error: a BACKTRACES");
    }
}
