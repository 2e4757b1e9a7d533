//! The command line.

use std::time::Duration;

use crate::Result;

pub(crate) const HELP: &str = "\
Measures what an upgrade costs, as ratios of things measured in turn.

Usage: cargo run --release -p bench -- [PART]... [OPTION]...

Parts (default: all of them):
  upgrade      signal to first answer from the successor, over running this binary with an empty main
  peers        signal to first answer, beside ecdysis, Go's tableflip, nginx and HAProxy
  throughput   managed listeners and streams, over those of tokio
  frameworks   the examples and hello worlds of the frameworks with tableflip, over the same without
  stall        largest stall of another thread while a process spawns its successor
  listeners    handover of many listeners, beyond that of one
  idle         drain with many idle connections, which move to the successor
  trial        a release that answers 500, with probe and verify; reverts under load
  endurance    descriptors, threads, zombies and memory after many upgrades

Options:
  --rounds N      rounds of each comparison, default 30
  --slice MS      how long one slice of throughput is measured, default 60
  --heap GIB      touched heap of the process that stalls, default 1
  --listeners N   listeners that are handed over, default 1000
  --connections N idle connections that move, default 10000
  --upgrades N    upgrades of the endurance run and of each trial, default 100";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Upgrade,
    Peers,
    Throughput,
    Frameworks,
    Stall,
    Listeners,
    Idle,
    Trial,
    Endurance,
}

impl Part {
    const ALL: [Self; 9] = [
        Self::Upgrade,
        Self::Peers,
        Self::Throughput,
        Self::Frameworks,
        Self::Stall,
        Self::Listeners,
        Self::Idle,
        Self::Trial,
        Self::Endurance,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Peers => "peers",
            Self::Throughput => "throughput",
            Self::Frameworks => "frameworks",
            Self::Stall => "stall",
            Self::Listeners => "listeners",
            Self::Idle => "idle",
            Self::Trial => "trial",
            Self::Endurance => "endurance",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) parts: Vec<Part>,
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    pub(crate) heap_gib: usize,
    pub(crate) listeners: usize,
    pub(crate) connections: usize,
    pub(crate) upgrades: usize,
    arguments: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            parts: Vec::new(),
            rounds: 30,
            slice: Duration::from_millis(60),
            heap_gib: 1,
            listeners: 1000,
            connections: 10_000,
            upgrades: 100,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        };
        let mut left = arguments.iter();
        while let Some(&argument) = left.next() {
            let mut number = || -> Result<usize> {
                let value = left.next().ok_or_else(|| format!("{argument} wants a number"))?;
                match value.parse() {
                    Ok(number) if number > 0 => Ok(number),
                    Ok(_) | Err(_) => {
                        Err(format!("{argument} wants a number from 1 up, not `{value}`").into())
                    }
                }
            };
            match argument {
                "--rounds" => options.rounds = number()?,
                "--slice" => options.slice = Duration::from_millis(number()? as u64),
                "--heap" => options.heap_gib = number()?,
                "--listeners" => options.listeners = number()?,
                "--connections" => options.connections = number()?,
                "--upgrades" => options.upgrades = number()?,
                name => match Part::ALL.into_iter().find(|part| part.name() == name) {
                    Some(part) if options.parts.contains(&part) => {}
                    Some(part) => options.parts.push(part),
                    None => return Err(format!("unknown argument `{name}`\n\n{HELP}").into()),
                },
            }
        }
        if options.parts.is_empty() {
            options.parts = Part::ALL.to_vec();
        }
        Ok(options)
    }

    /// The command line that repeats this run.
    pub(crate) fn command(&self) -> String {
        let mut command = "cargo run --release -p bench".to_owned();
        if !self.arguments.is_empty() {
            command.push_str(" -- ");
            command.push_str(&self.arguments.join(" "));
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_options_in_any_order() {
        let options = Options::parse(&["stall", "--heap", "4", "upgrade", "stall"]).unwrap();
        assert_eq!(options.parts, [Part::Stall, Part::Upgrade]);
        assert_eq!(options.heap_gib, 4);
        assert_eq!(options.command(), "cargo run --release -p bench -- stall --heap 4 upgrade stall");
    }

    #[test]
    fn everything_is_the_default() {
        assert_eq!(Options::parse(&[]).unwrap().parts, Part::ALL);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |arguments: &[&str]| Options::parse(arguments).unwrap_err().to_string();
        assert!(problem(&["--heap"]).contains("--heap wants a number"));
        assert!(problem(&["--rounds", "0"]).contains("`0`"));
        assert!(problem(&["upgarde"]).starts_with("unknown argument `upgarde`"));
    }
}
