//! What the harness says: events of `tracing`, target `tableflip`, each with the generation and the process ID.

/// An event at a level, with fields.
macro_rules! tell {
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

/// Something that went wrong. Without a subscriber it reaches stderr all the same, as one line.
macro_rules! complain {
    ($shared:expr, $format:literal $($rest:tt)*) => {
        crate::report::complain!($shared, ERROR, $format $($rest)*)
    };
    ($shared:expr, $level:ident, $($message:tt)+) => {{
        let message = format!($($message)+);
        crate::report::tell!($shared, $level, "{message}");
        if !tracing::dispatcher::has_been_set() {
            crate::report::to_stderr(format_args!("[generation {}, pid {}] {message}", $shared.generation, $shared.pid));
        }
    }};
}

pub(crate) use {complain, tell};

/// One line to stderr, in one write where the system allows it. A stderr that is closed or full is no reason to fail.
pub(crate) fn to_stderr(message: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // What is reported may quote a variable or a panic, whose line breaks would look like lines of somebody else.
    let line = format!("tableflip: {}\n", message.to_string().replace(char::is_control, " "));
    match std::io::stderr().write_all(line.as_bytes()) {
        Ok(()) | Err(_) => {}
    }
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
    fn what_a_peer_says_cannot_forge_a_log_line() {
        assert_eq!(printable("a\nERROR b\x1b[31m"), "a ERROR b [31m");
        assert!(printable(&"ü".repeat(5000)).len() <= MAX_REASON + 1);
    }
}
