//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

#[cfg(upgrades)]
use super::output::Failure;
use super::url::Url;
use crate::sys::signals::{Signal, UPGRADE_SIGNALS};

const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  refused or failed, and the old process still serves; the reason is on stderr
  2  the command line is wrong
  3  nothing is running there
  4  an upgrade is in progress, or another process of the service still drains
  5  no answer in time, or the old process died before it reported the outcome: check which process serves
  6  done, but connections were cut at the end of a drain; only with --strict";

/// The commands that concern a service.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replaces the running process by a new process, and waits for the outcome
    #[command(after_help = EXIT_STATUS)]
    Upgrade(Upgrade),
    /// Undoes an upgrade in its probation: the old process serves again
    #[command(after_help = EXIT_STATUS)]
    Revert(Revert),
    /// Upgrades the service to the executable that ran before, and waits for the outcome
    #[command(after_help = EXIT_STATUS)]
    Rollback(Rollback),
    /// Stops the service gracefully, and waits until it is gone
    #[command(after_help = EXIT_STATUS)]
    Stop(Stop),
    /// Shows the status of the service
    #[command(after_help = EXIT_STATUS)]
    Status(Status),
    /// Shows the last upgrades of the service
    #[command(after_help = EXIT_STATUS)]
    History(History),
    /// Shows the status of the service at each change, until the service is gone
    #[command(after_help = EXIT_STATUS)]
    Watch(Watch),
}

/// All commands of the program `tableflip`.
#[derive(Debug, Subcommand)]
pub(crate) enum Program {
    #[command(flatten)]
    Service(Command),
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
    pub(crate) path: Option<PathBuf>,
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
    /// Exit with status 6 if the old process cut connections at the end of its drain; implies --wait-drained
    #[arg(long)]
    pub(crate) strict: bool,
    /// Move no open connection to the new process: all of them end with the old one. For a release that changes who may do
    /// what
    #[arg(long)]
    pub(crate) no_move: bool,
    /// Do nothing if the file at the path of the executable is the file that runs
    #[arg(long)]
    pub(crate) if_changed: bool,
    /// A shell command that checks the new release before the upgrade, with the executable as "$0"; if the command fails, no
    /// upgrade is requested
    #[arg(long, value_name = "COMMAND")]
    pub(crate) check: Option<OsString>,
    /// A shell command that checks the new process while the old one is on standby, and again each second, with the executable
    /// as "$0"; if the command fails, the old process serves again. The service runs it
    #[arg(long, value_name = "COMMAND", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) verify: Option<String>,
    /// Write a picture of the upgrade to this file, as SVG: its phases and the open connections of each process, from a second
    /// before the request to a second after the end of the drain, but at most 5 seconds after the outcome. The picture is also
    /// written if the upgrade fails
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) report: Option<PathBuf>,
    /// Send GET requests to this URL meanwhile, 100 a second, each over a new connection. The report shows each, and what was
    /// lost. Only plain http
    #[arg(long, value_name = "URL", requires = "report")]
    pub(crate) report_get: Option<Url>,
    /// The signal that upgrades a service without a control socket
    #[arg(long, value_name = "SIGNAL", default_value = "SIGHUP", value_parser = signal)]
    pub(crate) signal: Signal,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Revert {
    #[command(flatten)]
    pub(crate) service: Service,
    /// How long to wait for an answer; then the new process is killed, if the old one is on standby. The connections that the
    /// new process has accepted are lost by that
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) service: Service,
    /// How long to wait for the outcome; after that the rollback continues by itself
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Also wait until the old process has finished its connections and is gone
    #[arg(long)]
    pub(crate) wait_drained: bool,
    /// Exit with status 6 if the old process cut connections at the end of its drain; implies --wait-drained
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) service: Service,
    /// How long to wait until the service is gone; after that the stop continues by itself
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Exit with status 6 if a process cut connections at the end of its drain
    #[arg(long)]
    pub(crate) strict: bool,
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
pub(crate) struct History {
    #[command(flatten)]
    pub(crate) service: Service,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
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
    pub(crate) fn service(&self) -> &Service {
        match self {
            Self::Upgrade(args) => &args.service,
            Self::Revert(args) => &args.service,
            Self::Rollback(args) => &args.service,
            Self::Stop(args) => &args.service,
            Self::Status(args) => &args.service,
            Self::History(args) => &args.service,
            Self::Watch(args) => &args.service,
        }
    }
}

impl Program {
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Service(command) => command.service().json,
            Self::Unit(unit) => unit.json,
            Self::Completions { .. } | Self::Man { .. } => false,
        }
    }
}

/// The command line of the program `tableflip`. No service is around it, so each command has to name one.
pub(crate) fn of_the_program() -> clap::Command {
    let command = command_line("Replaces, stops and watches services that are made with tableflip");
    Program::augment_subcommands(command.version(env!("CARGO_PKG_VERSION"))).mut_subcommands(|command| {
        let names_a_service = command.get_arguments().any(|argument| argument.get_id() == "path");
        if names_a_service { command.mut_arg("path", |path| path.required(true)) } else { command }
    })
}

/// The command line of the commands for a service alone.
pub(crate) fn of_a_service() -> clap::Command {
    Command::augment_subcommands(command_line("Replaces, stops and watches the service"))
}

fn command_line(about: &'static str) -> clap::Command {
    clap::Command::new("tableflip")
        .about(about)
        .after_help(EXIT_STATUS)
        .max_term_width(100)
        .subcommand_required(true)
        .arg_required_else_help(true)
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

#[cfg(upgrades)]
pub(crate) fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut of_the_program(), "tableflip", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(upgrades)]
pub(crate) fn man(command: Option<&str>) -> Result<String, Failure> {
    let mut root = of_the_program();
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
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        of_the_program().debug_assert();
        of_a_service().debug_assert();
    }
}
