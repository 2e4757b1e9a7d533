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
