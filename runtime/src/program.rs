//! The program `tableflip` as functions (feature `cli`): a service offers its commands as subcommands of its own, and the
//! host then needs no other program.
//!
//! [`Commands`] is a subcommand for a command line of clap 4. `my-service ctl upgrade` then is `tableflip upgrade`, with the
//! same output and the same exit status. A service with another command line calls [`Commands::parse_from`].
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use clap::Parser;
//! use tableflip::Listeners;
//! use tableflip::program::Commands;
//!
//! const PIDFILE: &str = "/run/echo/echo.pid";
//!
//! #[derive(Parser)]
//! enum Command {
//!     /// Serves
//!     Serve,
//!     /// Upgrades, stops and watches the service that runs
//!     #[command(subcommand)]
//!     Ctl(Commands),
//! }
//!
//! fn main() -> ExitCode {
//!     match Command::parse() {
//!         Command::Serve => serve(),
//!         Command::Ctl(commands) => commands.pidfile(PIDFILE).run(),
//!     }
//! }
//!
//! #[tableflip::main(listen = [echo = "tcp://127.0.0.1:7000"], pidfile = PIDFILE)]
//! fn serve(listeners: Listeners) {
//!     // ...
//! #   let _ = listeners;
//! }
//! ```
//!
//! Without the feature nothing of it is compiled. On a platform other than Linux each command only says that services cannot
//! be upgraded there.
//!
//! Output goes to stdout and stderr, and no other thread may have changed what SIGPIPE does. A command blocks its thread until
//! it is done. Call it in `main`, before a runtime starts.

#[cfg_attr(not(upgrades), allow(dead_code, reason = "no command is carried out"))]
mod args;
#[cfg(upgrades)]
mod check;
#[cfg(upgrades)]
mod commands;
#[cfg(upgrades)]
mod conversation;
#[cfg(upgrades)]
mod drained;
#[cfg(upgrades)]
mod history;
#[cfg(upgrades)]
mod output;
#[cfg(upgrades)]
mod picture;
#[cfg(upgrades)]
mod process;
#[cfg(upgrades)]
mod report;
#[cfg(upgrades)]
mod revert;
#[cfg(upgrades)]
mod svg;
#[cfg(upgrades)]
mod svg_file;
#[cfg(upgrades)]
mod target;
#[cfg(upgrades)]
mod unchanged;
#[cfg(upgrades)]
mod unit;
#[cfg(upgrades)]
mod upgrade;
#[cfg_attr(not(upgrades), allow(dead_code, reason = "no command is carried out"))]
mod url;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches, Subcommand};

use crate::config::environment;

/// The commands of `tableflip` that concern a running service: `upgrade`, `revert`, `rollback`, `stop`, `status`,
/// `history` and `watch`.
///
/// It is a [`Subcommand`] of clap 4. The commands that concern the program `tableflip` itself are not in it: `unit`, `man` and
/// `completions`.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use tableflip::program::Commands;
///
/// let commands = Commands::parse_from(["echo ctl", "status", "--json"]).unwrap();
/// let exit = commands.pidfile("/run/of-no-service.pid").run();
/// assert_eq!(exit, std::process::ExitCode::from(3));
/// # }
/// ```
#[derive(Debug)]
pub struct Commands {
    // It is large, and a service has it beside small commands of its own.
    command: Box<args::Command>,
    pidfile: Option<PathBuf>,
}

impl Commands {
    /// Reads a command line. The first argument is the name of the program, as the help shows it: `echo ctl`.
    ///
    /// # Errors
    ///
    /// The command line is wrong, or asks for help. The reason or the help is printed; return the exit code from `main`: 2 or
    /// 0.
    pub fn parse_from<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self, ExitCode> {
        let command = args::of_a_service().try_get_matches_from(arguments);
        command.and_then(|matches| Self::from_arg_matches(&matches)).map_err(|error| refused(&error))
    }

    /// The pid file of this service, or its control socket, for a command line that names neither. A variable that gives the
    /// service another one gives it to the command as well: `TABLEFLIP_CONTROL`, else `TABLEFLIP_PIDFILE`.
    pub fn pidfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.pidfile = Some(path.into());
        self
    }

    /// Carries out the command, prints what there is to say, and returns the exit status of `tableflip`. Without any path, of
    /// the command line, a variable or [`pidfile`](Self::pidfile), it is 2: the command line is wrong.
    pub fn run(self) -> ExitCode {
        let pidfile = named_by_environment().or(self.pidfile);
        run(args::Program::Service(*self.command), pidfile)
    }
}

impl FromArgMatches for Commands {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { command: Box::new(args::Command::from_arg_matches(matches)?), pidfile: None })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.command.update_from_arg_matches(matches)
    }
}

impl Subcommand for Commands {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        args::Command::augment_subcommands(command)
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        args::Command::augment_subcommands_for_update(command)
    }

    fn has_subcommand(name: &str) -> bool {
        args::Command::has_subcommand(name)
    }
}

/// The whole program `tableflip`, with `unit`, `man` and `completions`. The first argument is the name of the program.
///
/// Returns the exit status. A wrong command line is printed, and is 2.
pub fn run_from<T: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = T>) -> ExitCode {
    let matches = args::of_the_program().try_get_matches_from(arguments);
    match matches.and_then(|matches| args::Program::from_arg_matches(&matches)) {
        Ok(command) => run(command, None),
        Err(error) => refused(&error),
    }
}

/// The path that the environment gives the control socket or the pid file of the service.
fn named_by_environment() -> Option<PathBuf> {
    let path = |option| std::env::var_os(environment::variable(option)).filter(|path| !path.is_empty());
    let control = path("control").filter(|path| path != "false");
    control.or_else(|| path("pidfile")).map(PathBuf::from)
}

/// Prints the problem with a command line, or the help that it asks for.
fn refused(error: &clap::Error) -> ExitCode {
    // A closed stdout or stderr changes nothing in the exit status.
    match error.print() {
        Ok(()) | Err(_) => {}
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

#[cfg(upgrades)]
fn run(command: args::Program, pidfile: Option<PathBuf>) -> ExitCode {
    let output = output::Output::new(command.json());
    let done = match &command {
        args::Program::Service(command) => of_service(command, pidfile, &output),
        args::Program::Unit(args) => unit::print(args, &output),
        args::Program::Completions { shell } => {
            output.print(&args::completions(*shell));
            Ok(())
        }
        args::Program::Man { command } => args::man(command.as_deref()).map(|page| output.print(&page)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failed(&failure),
    }
}

#[cfg(upgrades)]
fn of_service(
    command: &args::Command,
    pidfile: Option<PathBuf>,
    output: &output::Output,
) -> Result<(), output::Failure> {
    let Some(path) = command.service().path.clone().or(pidfile) else {
        return Err(output::Failure::usage(
            "no service is named: give its pid file or its control socket".to_owned(),
        ));
    };
    match command {
        args::Command::Upgrade(args) => upgrade::upgrade(args, &path, output),
        args::Command::Revert(args) => revert::revert(args, &path, output),
        args::Command::Rollback(args) => upgrade::rollback(args, &path, output),
        args::Command::Stop(args) => commands::stop(args, &path, output),
        args::Command::Status(args) => commands::status(args, &path, output),
        args::Command::History(args) => history::history(args, &path, output),
        args::Command::Watch(args) => commands::watch(args, &path, output),
    }
}

#[cfg(not(upgrades))]
fn run(_command: args::Program, _pidfile: Option<PathBuf>) -> ExitCode {
    eprintln!("tableflip: only on Linux can services be upgraded, and have a control socket");
    ExitCode::FAILURE
}
