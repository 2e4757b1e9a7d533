//! What the harness says: events of `tracing`, target `tableflip`, each with the generation and the process ID.
//!
//! Nothing is said past this file, so that nothing is said without the two. What went wrong is a complaint, and reaches
//! stderr where there is no subscriber; what is told is for whoever listens.

use std::any::Any;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Which process an event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
}

/// Something that went as it should, with fields.
macro_rules! tell {
    ($shared:expr, INFO, $($rest:tt)+) => {
        crate::base::report::event!($shared, INFO, $($rest)+)
    };
    ($shared:expr, DEBUG, $($rest:tt)+) => {
        crate::base::report::event!($shared, DEBUG, $($rest)+)
    };
}

/// Something that went wrong. Without a subscriber it reaches stderr all the same, as one line.
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

/// An event at a level.
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

/// How often a complaint is repeated whose reason stays.
const REPEAT_AFTER: Duration = Duration::from_secs(10);

/// When something was last complained of that is tried over and over, and fails each time: the log is not to be flooded.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    last: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// Whether it is time to say it, which the caller then does.
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= REPEAT_AFTER);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

/// How many texts a [`Thinned`] remembers: more than any of its callers has.
const MAX_TEXTS: usize = 16;

/// Lines that an operator or a peer can cause as often as it likes, such as a refusal: each text is said at once, and then now and
/// then as long as it goes on, with how often it was left out.
#[derive(Debug, Default)]
pub(crate) struct Thinned {
    /// Each text, when it was last said, and how often it was left out since.
    said: Vec<(String, Instant, u64)>,
}

impl Thinned {
    /// What to say in the place of this text, if anything.
    pub(crate) fn line(&mut self, text: &str) -> Option<String> {
        self.line_at(text, Instant::now())
    }

    fn line_at(&mut self, text: &str, now: Instant) -> Option<String> {
        let known = self.said.iter_mut().find(|(said, ..)| said == text);
        let Some((_, last, left_out)) = known else {
            if self.said.len() == MAX_TEXTS {
                self.said.remove(0);
            }
            self.said.push((text.to_owned(), now, 0));
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

/// The last line of a process that could not start, which may not know of which generation it would have been. The
/// predecessor says the same of it, with its process ID.
pub(crate) fn cannot_start(error: &dyn fmt::Display) {
    to_stderr(format_args!("cannot start: {error}"));
}

/// What goes wrong in a supervisor, which is of no generation.
#[cfg(upgrades)]
pub(crate) fn complain_as_supervisor(message: fmt::Arguments<'_>) {
    to_stderr(format_args!("[pid {}] {message}", std::process::id()));
}

/// How much a pipe takes at once if it takes anything, pipe(7).
const ONE_WRITE: usize = 4096;
/// How long somebody who reads stderr may keep the service waiting; and not again before stderr has taken something.
#[cfg(upgrades)]
const READER_PAUSE: u16 = 100;

/// One line to stderr, in one write where the system allows it. A stderr that is closed is no reason to fail, nor is one that is full
/// a reason to wait: the rest of the line is left out.
pub(crate) fn to_stderr(message: fmt::Arguments<'_>) {
    // What is reported may quote a variable or a panic, whose line breaks would look like lines of somebody else.
    let line = format!("tableflip: {}\n", message.to_string().replace(char::is_control, " "));
    for part in line.as_bytes().chunks(ONE_WRITE) {
        if !stderr_has_room() || write_to_stderr(part).is_err() {
            return;
        }
    }
}

/// write(2) to descriptor 2, past std's lock of stderr: a thread of the program may hold that for as long as it likes, and a
/// complaint of the engine would wait for it, and every signal after it.
#[cfg(upgrades)]
fn write_to_stderr(mut part: &[u8]) -> std::io::Result<()> {
    while !part.is_empty() {
        // It takes the descriptor and not the lock.
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
    // What else is wrong with it, the write finds.
    let has_room = is_ready(&mut fds, pause) != Ok(false);
    IS_FULL.store(!has_room, Ordering::Relaxed);
    has_room
}

#[cfg(not(upgrades))]
fn stderr_has_room() -> bool {
    true
}

/// The message of a panic that was caught.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|message| (*message).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// The longest reason of another process that is passed on, in bytes; the rest is cut.
pub(crate) const MAX_REASON: usize = 4096;

/// What another process said, cut and cleaned so that it can stand in a log line of ours.
pub(crate) fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let cut = text.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_REASON).unwrap_or(text.len());
    text[..cut].trim().chars().map(clean).collect()
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
        let mut line = |text: &str, at: Duration| thinned.line_at(text, begin + at);
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
        assert_eq!(printable("a\nERROR b\x1b[31m"), "a ERROR b [31m");
        assert!(printable(&"ü".repeat(5000)).len() <= MAX_REASON + 1);
    }
}
