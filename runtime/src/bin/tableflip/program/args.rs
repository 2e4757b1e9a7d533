//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use nix::sys::signal::Signal;
use tableflip::__private::UPGRADE_SIGNALS;

use super::output::{Failure, Output};

const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  refused or failed, and the old process still serves; the reason is on stderr
  2  the command line is wrong
  3  nothing is running there
  4  an upgrade is in progress, or the predecessor still drains
  5  no answer in time, or the old process died before it reported the outcome: check which process serves";

/// Replaces, stops and watches services that are made with tableflip
#[derive(Debug, Parser)]
#[command(name = "tableflip", version, after_help = EXIT_STATUS, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replaces the running process by a new process, and waits for the outcome
    #[command(after_help = EXIT_STATUS)]
    Upgrade(Upgrade),
    /// Stops the service gracefully, and waits until it is gone
    #[command(after_help = EXIT_STATUS)]
    Stop(Stop),
    /// Shows the status of the service
    #[command(after_help = EXIT_STATUS)]
    Status(Status),
    /// Shows the status of the service at each change, until the service is gone
    #[command(after_help = EXIT_STATUS)]
    Watch(Watch),
    /// Prints a systemd unit for a service
    Unit(Unit),
    /// Prints the completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Prints the man page of the program, or of one command
    Man { command: Option<String> },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Service {
    /// The pid file of the service, with the control socket beside it, or the control socket
    #[arg(value_name = "PIDFILE|CONTROL")]
    pub(crate) path: PathBuf,
    /// Print lines of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    pub(crate) service: Service,
    /// How long to wait for the outcome; after that the upgrade continues by itself
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Also wait until the old process has finished its connections and is gone
    #[arg(long)]
    pub(crate) wait_drained: bool,
    /// Move no open connection to the new process: all of them end with the old one. For a release that changes who may do
    /// what
    #[arg(long)]
    pub(crate) no_move: bool,
    /// A shell command that checks the new release before the upgrade, with the executable as "$0"; if the command fails, no
    /// upgrade is requested
    #[arg(long, value_name = "COMMAND")]
    pub(crate) check: Option<OsString>,
    /// The signal that upgrades a service without a control socket
    #[arg(long, value_name = "SIGNAL", default_value = "SIGHUP", value_parser = signal)]
    pub(crate) signal: Signal,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) service: Service,
    /// How long to wait until the service is gone; after that the stop continues by itself
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) service: Service,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Print the status in the text format of Prometheus
    #[arg(long, conflicts_with = "json")]
    pub(crate) prometheus: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) service: Service,
    /// How long to wait for each answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unit {
    /// The executable of the service, or the link that points to the current release
    pub(crate) binary: PathBuf,
    /// Its arguments
    #[arg(last = true)]
    pub(crate) arguments: Vec<String>,
    /// The version of systemd on the target machine; the default is the version on this machine
    #[arg(long, value_name = "NUMBER")]
    pub(crate) systemd_version: Option<u32>,
    /// How long open connections may take to finish
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) drain_timeout: Duration,
    /// Reload by a signal, for a machine without this program; `systemctl reload` then succeeds even if the upgrade fails;
    /// systemd 253 and later
    #[arg(long)]
    pub(crate) notify_reload: bool,
    /// Print the unit as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Command {
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Upgrade(upgrade) => upgrade.service.json,
            Self::Stop(stop) => stop.service.json,
            Self::Status(status) => status.service.json,
            Self::Watch(watch) => watch.service.json,
            Self::Unit(unit) => unit.json,
            Self::Completions { .. } | Self::Man { .. } => false,
        }
    }
}

/// The parsed command line. A mistake in it ends the process here with status 2, a request for help with status 0.
pub(crate) fn parse() -> Command {
    Args::parse().command
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("not a duration such as `500ms`, `30s` or `2m`: {error}"))
}

fn signal(text: &str) -> Result<Signal, String> {
    let named = UPGRADE_SIGNALS.into_iter().find(|(name, _)| *name == text);
    named
        .map(|(_, signal)| signal)
        .ok_or_else(|| format!("expected one of {}", UPGRADE_SIGNALS.map(|(name, _)| name).join(", ")))
}

pub(crate) fn completions(shell: clap_complete::Shell, output: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "tableflip", &mut script);
    output.print(&String::from_utf8_lossy(&script));
    Ok(())
}

pub(crate) fn man(command: Option<&str>, output: &Output) -> Result<(), Failure> {
    let mut root = Args::command();
    root.build();
    let page = match command {
        None => root,
        Some(name) => match root.find_subcommand(name) {
            Some(command) => command.clone(),
            None => return Err(Failure::usage(format!("there is no command `{name}`"))),
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|error| Failure::refused("failed", format!("cannot make the man page: {error}")))?;
    output.print(&String::from_utf8_lossy(&text));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
