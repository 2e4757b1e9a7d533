//! The figures, as aligned markdown: a table that is read in a terminal as well as in `docs/performance.md`.

use std::fmt;
use std::io::{IsTerminal, stderr};

use crate::machine;
use crate::stats::Summary;

/// The headings of a table of [`Summary`]s.
pub(crate) const SUMMARY: [&str; 2] = ["median", "middle half"];

/// Shows a person who waits how far it is.
pub(crate) fn progress(what: &str, done: usize, of: usize) {
    if stderr().is_terminal() {
        eprint!("\r  {what} {done} of {of} ");
        if done == of {
            eprintln!();
        }
    }
}

pub(crate) struct Report {
    pub(crate) sections: Vec<Section>,
    /// What repeats it.
    pub(crate) command: String,
    /// The load of the machine before anything was measured.
    pub(crate) load: f64,
}

pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// What is compared, and how often.
    pub(crate) about: String,
    /// What the second and the third column are.
    pub(crate) headings: [&'static str; 2],
    pub(crate) rows: Vec<Row>,
}

/// One line of a table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) value: String,
    pub(crate) spread: String,
    pub(crate) target: Option<Target>,
}

/// What a figure is to reach, and whether it does.
pub(crate) struct Target {
    pub(crate) text: String,
    pub(crate) met: bool,
}

impl Target {
    pub(crate) fn at_most(limit: f64, value: f64) -> Self {
        Self { text: format!("at most {limit}"), met: as_shown(value) <= limit }
    }

    pub(crate) fn at_least(limit: f64, value: f64) -> Self {
        Self { text: format!("at least {limit}"), met: as_shown(value) >= limit }
    }

    pub(crate) fn below_milliseconds(limit: f64, value: f64) -> Self {
        Self { text: format!("below {limit} ms"), met: value < limit }
    }
}

/// A ratio is judged by the digits that are printed.
fn as_shown(ratio: f64) -> f64 {
    (ratio * 1e3).round() / 1e3
}

impl Row {
    pub(crate) fn milliseconds(what: impl Into<String>, summary: Summary) -> Self {
        Self::new(what.into(), summary, |value| match value.abs() {
            10.0.. => format!("{value:.1} ms"),
            _ => format!("{value:.3} ms"),
        })
    }

    /// A single ratio, of all rounds together.
    pub(crate) fn one_ratio(what: impl Into<String>, ratio: f64) -> Self {
        Self { what: what.into(), value: format!("{ratio:.3}"), spread: String::new(), target: None }
    }

    pub(crate) fn count(what: impl Into<String>, count: usize) -> Self {
        Self { what: what.into(), value: count.to_string(), spread: String::new(), target: None }
    }

    pub(crate) fn ratio(what: impl Into<String>, summary: Summary) -> Self {
        Self::new(what.into(), summary, |value| format!("{value:.3}"))
    }

    pub(crate) fn per_second(what: impl Into<String>, summary: Summary) -> Self {
        Self::new(what.into(), summary, |value| format!("{value:.0}/s"))
    }

    pub(crate) fn microseconds(what: impl Into<String>, summary: Summary) -> Self {
        Self::new(what.into(), summary, |value| format!("{value:.2} µs"))
    }

    fn new(what: String, summary: Summary, show: fn(f64) -> String) -> Self {
        let Summary { low, median, high } = summary;
        Self { what, value: show(median), spread: format!("{} – {}", show(low), show(high)), target: None }
    }

    pub(crate) fn with_target(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", machine::describe())?;
        writeln!(f, "To repeat it: `{}`", self.command)?;
        writeln!(f, "\nLoad of the machine before it began: {}.", self.load)?;
        if self.load > 1.0 {
            writeln!(f, "**Others were at work: what waits for a processor is measured as well.**")?;
        }
        if cfg!(debug_assertions) {
            writeln!(f, "\n**Without optimisation: these figures say nothing.**")?;
        }
        for section in &self.sections {
            write!(f, "\n{section}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n\n{}\n", self.title, self.about)?;
        let [value, spread] = self.headings;
        let mut table = vec![["", value, spread, "target", "met"].map(str::to_owned)];
        table.extend(self.rows.iter().map(|row| {
            let (target, met) = match &row.target {
                Some(Target { text, met }) => (text.clone(), if *met { "yes" } else { "no" }),
                None => (String::new(), ""),
            };
            [row.what.clone(), row.value.clone(), row.spread.clone(), target, met.to_owned()]
        }));
        let widths: [usize; 5] = std::array::from_fn(|column| {
            table.iter().map(|row| row[column].chars().count()).max().unwrap_or_default().max(3)
        });
        for (at, row) in table.iter().enumerate() {
            let [what, value, spread, target, met] = row;
            let [a, b, c, d, e] = widths;
            writeln!(f, "| {what:a$} | {value:>b$} | {spread:>c$} | {target:d$} | {met:e$} |")?;
            if at == 0 {
                let [a, b, c, d, e] = widths.map(|width| "-".repeat(width));
                writeln!(f, "| {a} | {}: | {}: | {d} | {e} |", &b[1..], &c[1..])?;
            }
        }
        Ok(())
    }
}
