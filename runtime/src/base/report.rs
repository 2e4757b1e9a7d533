//! The log: events of `tracing`, target `tableflip`, each with the generation and the process ID.
//!
//! Every event passes through this file, so every event has both. A complaint is about something that went wrong: it
//! reaches stderr where there is no subscriber.

use std::any::Any;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::error::{StartError, chain};

/// The process that an event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
}

/// Logs something that went as it should, with fields.
macro_rules! tell {
    ($shared:expr, INFO, $($rest:tt)+) => {
        crate::base::report::event!($shared, INFO, $($rest)+)
    };
    ($shared:expr, DEBUG, $($rest:tt)+) => {
        crate::base::report::event!($shared, DEBUG, $($rest)+)
    };
}

/// Logs something that went wrong. Without a subscriber it becomes one line on stderr.
macro_rules! complain {
    ($shared:expr, $format:literal $($rest:tt)*) => {
        crate::base::report::complain!($shared, ERROR, $format $($rest)*)
    };
    ($shared:expr, $level:ident, $($message:tt)+) => {{
        let message = format!($($message)+);
        crate::base::report::event!($shared, $level, "{message}");
        if !tracing::dispatcher::has_been_set() {
            crate::base::report::to_stderr(format_args!("[generation {}, pid {}] {message}", $shared.generation, $shared.pid));
        }
    }};
}

/// Emits an event.
macro_rules! event {
    ($shared:expr, $level:ident, $($rest:tt)+) => {
        tracing::event!(
            target: "tableflip",
            tracing::Level::$level,
            generation = $shared.generation,
            pid = $shared.pid,
            $($rest)+
        )
    };
}

pub(crate) use {complain, event, tell};

/// How often a complaint is repeated while its cause lasts.
const REPEAT_AFTER: Duration = Duration::from_secs(10);

/// The time of the last complaint about something that is retried and fails each time. It keeps the log from being
/// flooded.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    last: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// Whether the complaint is due. The caller then logs it.
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= REPEAT_AFTER);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

/// How many texts a [`Thinned`] remembers. Each caller has fewer.
const MAX_TEXTS: usize = 16;

/// A limit for lines that an operator or a peer can cause at will, such as a refusal. The first line of each text is
/// logged at once. Later ones are logged at intervals, with the number of those left out.
#[derive(Debug, Default)]
pub(crate) struct Thinned {
    /// Each text, the time of its last line, and how many were left out since.
    said: Vec<(String, Instant, u64)>,
}

impl Thinned {
    /// The line to log for this text, if any.
    pub(crate) fn line(&mut self, text: &str) -> Option<String> {
        self.line_of(text, text)
    }

    /// The line to log for this text, if any. Texts of one kind count as one text.
    pub(crate) fn line_of(&mut self, kind: &str, text: &str) -> Option<String> {
        self.line_at(kind, text, Instant::now())
    }

    fn line_at(&mut self, kind: &str, text: &str, now: Instant) -> Option<String> {
        let known = self.said.iter_mut().find(|(said, ..)| said == kind);
        let Some((_, last, left_out)) = known else {
            if self.said.len() == MAX_TEXTS {
                self.said.remove(0);
            }
            self.said.push((kind.to_owned(), now, 0));
            return Some(text.to_owned());
        };
        if now.saturating_duration_since(*last) < REPEAT_AFTER {
            *left_out += 1;
            return None;
        }
        *last = now;
        Some(match std::mem::take(left_out) {
            0 => text.to_owned(),
            count => format!("{text} (and {count} times more since the last line of it)"),
        })
    }
}

/// The last line of a process that could not start. The process may not know its generation. The predecessor logs the
/// same reason with the process ID.
pub(crate) fn cannot_start(error: &StartError) {
    to_stderr(format_args!("cannot start: {}", chain(error)));
}

/// Complains about something in a supervisor, which has no generation.
#[cfg(upgrades)]
pub(crate) fn complain_as_supervisor(message: fmt::Arguments<'_>) {
    to_stderr(format_args!("[pid {}] {message}", std::process::id()));
}

/// PIPE_BUF: a pipe takes a write of this size as a whole or not at all, pipe(7).
const ONE_WRITE: usize = 4096;
/// How long a full stderr may delay the service, in milliseconds. It delays again only after stderr has taken
/// something.
#[cfg(upgrades)]
const READER_PAUSE: u16 = 100;

/// Writes one line to stderr, in one write where the system allows it. A closed stderr is not an error. A full stderr
/// is not waited for: the rest of the line is left out.
pub(crate) fn to_stderr(message: fmt::Arguments<'_>) {
    // The message may quote a variable or a panic. Its line breaks would look like lines of another program.
    let line = format!("tableflip: {}\n", one_line(&message.to_string()));
    for part in line.as_bytes().chunks(ONE_WRITE) {
        if !stderr_has_room() || write_to_stderr(part).is_err() {
            return;
        }
    }
}

/// write(2) to descriptor 2, without std's lock of stderr. A thread of the program may keep that lock for any time, and
/// the engine would wait for it with every signal.
#[cfg(upgrades)]
fn write_to_stderr(mut part: &[u8]) -> std::io::Result<()> {
    while !part.is_empty() {
        // `stderr()` is used for its descriptor only: it does not take the lock.
        match nix::unistd::write(std::io::stderr(), part) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(written) => part = &part[written..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(not(upgrades))]
fn write_to_stderr(part: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    std::io::stderr().write_all(part)
}

#[cfg(upgrades)]
fn stderr_has_room() -> bool {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::poll::{PollFd, PollFlags};

    use crate::sys::poll::is_ready;

    static IS_FULL: AtomicBool = AtomicBool::new(false);

    let stderr = std::io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let pause = if IS_FULL.load(Ordering::Relaxed) { 0 } else { READER_PAUSE };
    // Any other fault of stderr shows in the write.
    let has_room = is_ready(&mut fds, pause) != Ok(false);
    IS_FULL.store(!has_room, Ordering::Relaxed);
    has_room
}

#[cfg(not(upgrades))]
fn stderr_has_room() -> bool {
    true
}

/// The message of a caught panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|message| (*message).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// The longest reason of another process that is passed on, in bytes. The rest is cut.
pub(crate) const MAX_REASON: usize = 4096;

/// Text of another process, cut and cleaned so that it can stand in a log line.
pub(crate) fn printable(text: &str) -> String {
    let mut line = one_line(text);
    if let Some(cut) = line.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_REASON) {
        line.truncate(cut);
    }
    line
}

/// The same, with at most `limit` bytes.
#[cfg(upgrades)]
pub(crate) fn printable_within(text: &str, limit: usize) -> String {
    let mut line = printable(text);
    while line.len() > limit {
        line.pop();
    }
    line
}

/// The lines of a text as one line, without their indentation, control characters and colours.
fn one_line(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // A control sequence: `[`, parameters, and a final byte from `@` to `~`, ECMA-48 section 5.4.
        let rest = part.strip_prefix('[').and_then(|sequence| {
            let end = sequence.find(|c: char| !matches!(c, '\x20'..='\x3f'))?;
            sequence[end..].strip_prefix(|c| matches!(c, '@'..='~'))
        });
        match rest {
            Some(rest) => plain.push_str(rest),
            None => plain.extend(["\x1b", part]),
        }
    }
    let lines = plain.split(char::is_control).map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_repeated_now_and_then() {
        let complaint = RateLimit::default();
        assert!(complaint.is_due());
        assert!(!complaint.is_due());
        *complaint.last.lock().unwrap() = Instant::now().checked_sub(REPEAT_AFTER);
        assert!(complaint.is_due());
        assert!(!complaint.is_due());
    }

    #[test]
    fn d8_a_line_that_can_be_caused_at_will_is_thinned_out_and_counted() {
        let (mut thinned, begin) = (Thinned::default(), Instant::now());
        let mut line = |text: &str, at: Duration| thinned.line_at(text, text, begin + at);
        let soon = REPEAT_AFTER - Duration::from_millis(1);
        assert_eq!(line("refused: a", Duration::ZERO).as_deref(), Some("refused: a"));
        assert_eq!(line("refused: a", soon), None);
        assert_eq!(line("refused: b", soon).as_deref(), Some("refused: b"), "another reason is news");
        assert_eq!(line("refused: a", soon), None);
        let again = "refused: a (and 2 times more since the last line of it)";
        assert_eq!(line("refused: a", REPEAT_AFTER).as_deref(), Some(again));
        assert_eq!(line("refused: a", 2 * REPEAT_AFTER).as_deref(), Some("refused: a"));
        for text in 0..1000 {
            line(&text.to_string(), Duration::ZERO);
        }
        assert_eq!(thinned.said.len(), MAX_TEXTS);
    }

    #[test]
    fn what_a_peer_says_cannot_forge_a_log_line() {
        assert_eq!(printable("a\nERROR b\x1b[31m"), "a ERROR b");
        assert_eq!(printable("a\x1b]0;title\x07b\x1b"), "a ]0;title b");
        assert!(printable(&"ü".repeat(5000)).len() <= MAX_REASON + 1);
    }

    #[test]
    fn lines_that_are_indented_and_coloured_become_one_line() {
        let toml =
            "TOML parse error at line 4, column 1\n  |\n4 | amdin = 1\n  | ^^^^^\nunknown field `amdin`\n";
        assert_eq!(
            printable(toml),
            "TOML parse error at line 4, column 1 | 4 | amdin = 1 | ^^^^^ unknown field `amdin`"
        );
        let report = "\n   0: \x1b[91mwarming up\x1b[0m\n   1: \x1b[1;38;5;9mno directory\x1b[0m\r\n";
        assert_eq!(printable(report), "0: warming up 1: no directory");
        assert_eq!(printable("/a  b"), "/a  b", "a path may have two spaces");
        for unfinished in ["a\x1b[", "a\x1b[31", "a\x1b[31\u{e9}"] {
            let kept = unfinished.replace('\x1b', " ");
            assert_eq!(printable(unfinished), kept, "{unfinished:?}");
        }
    }
}
