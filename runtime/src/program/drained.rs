//! What the drains of a service have cut: the last line of a process that drains.

use serde_json::{Value, json};

use super::output::{Failure, Output};
use crate::base::status::Status;
use crate::control::Reply;

/// What one drain has cut at its deadline.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// The number of connections and guards.
    aborted: u64,
    /// The clients at the other ends, as far as the process names them.
    peers: Vec<String>,
}

impl Drained {
    /// The last line of a process. `None` for any other line.
    pub(crate) fn read(reply: Option<&Reply>, process: u32) -> Option<Self> {
        match reply {
            Some(Reply::Drained { pid, aborted: Some(aborted), peers, .. }) if *pid == process => {
                Some(Self { aborted: *aborted, peers: peers.clone() })
            }
            _ => None,
        }
    }

    /// The last drain in a status, if it is that of this process: a predecessor has told the process that answers.
    pub(crate) fn of_predecessor(status: &Status, process: u32) -> Option<Self> {
        let drain = status.last_drain.as_ref().filter(|drain| drain.pid == process)?;
        Some(Self { aborted: drain.aborted, peers: drain.peers.clone() })
    }
}

/// What is known of the drains of some processes.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    total: Drained,
    /// The processes whose last line has not arrived.
    unknown: Vec<u32>,
}

impl Drains {
    /// Adds a process that is gone. `None` if its last line is not known.
    pub(crate) fn add(&mut self, pid: u32, drained: Option<Drained>) {
        match drained {
            Some(Drained { aborted, peers }) => {
                self.total.aborted += aborted;
                self.total.peers.extend(peers);
            }
            None => self.unknown.push(pid),
        }
    }

    /// Prints the outcome. With `strict` it is a failure that connections were cut, or that nobody knows.
    pub(crate) fn report(&self, mut line: Value, strict: bool, output: &Output) -> Result<(), Failure> {
        let Drained { aborted, peers } = &self.total;
        if self.unknown.is_empty() {
            line["aborted"] = json!(aborted);
            line["peers"] = json!(peers);
        }
        output.line(&line);
        output.say(&format!("process {} is gone", line["pid"]));
        if *aborted > 0 {
            let cut = self.cut();
            output.say(&format!("drained, {cut}"));
            return if strict { Err(Failure::cut(format!("it is done, but {cut}"))) } else { Ok(()) };
        }
        match self.unknown.first() {
            Some(pid) if strict => Err(Failure::no_answer(format!(
                "process {pid} is gone and did not say whether it cut connections; \
                 its log says it"
            ))),
            _ => Ok(()),
        }
    }

    fn cut(&self) -> String {
        let Drained { aborted, peers } = &self.total;
        let mut cut = match aborted {
            1 => "1 connection was cut".to_owned(),
            aborted => format!("{aborted} connections were cut"),
        };
        if !peers.is_empty() {
            let named = u64::try_from(peers.len()).unwrap_or(u64::MAX);
            let more = match aborted.saturating_sub(named) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            cut += &format!(" (from {}{more})", peers.join(", "));
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Drained> {
        Drained::read(serde_json::from_str(line).ok().as_ref(), 9)
    }

    fn cut(drains: &[&str]) -> String {
        let mut all = Drains::default();
        for line in drains {
            all.add(9, read(line));
        }
        all.cut()
    }

    #[test]
    fn what_was_cut_is_counted_and_named() {
        let two = r#"{"reply":"drained","pid":9,"aborted":2,"peers":["10.0.0.1:5","10.0.0.1:6"]}"#;
        let three = r#"{"reply":"drained","pid":9,"aborted":3,"peers":["10.0.0.1:7"]}"#;
        let guard = r#"{"reply":"drained","pid":9,"aborted":1}"#;
        assert_eq!(cut(&[two]), "2 connections were cut (from 10.0.0.1:5, 10.0.0.1:6)");
        assert_eq!(cut(&[three]), "3 connections were cut (from 10.0.0.1:7 and 2 more)");
        assert_eq!(cut(&[guard]), "1 connection was cut");
        assert_eq!(cut(&[two, guard]), "3 connections were cut (from 10.0.0.1:5, 10.0.0.1:6 and 1 more)");
    }

    #[test]
    fn a_line_of_another_process_or_of_another_kind_is_none() {
        for line in [
            r#"{"reply":"drained","pid":8,"aborted":2}"#,
            r#"{"reply":"drained","pid":9}"#,
            r#"{"reply":"status","pid":9,"aborted":2}"#,
            "220 mail.example ESMTP",
        ] {
            assert!(read(line).is_none(), "{line}");
        }
    }
}
