//! The program talks to a service through its control socket. A service without a control socket gets signals.
//!
//! | file | what is in it |
//! |---|---|
//! | `args.rs` | the command line; the man page and the completions come from it |
//! | `target.rs` | the service that the argument names: a pid file or a control socket |
//! | `conversation.rs` | the control socket, with a deadline |
//! | `commands.rs` | upgrade, stop, status and watch |
//! | `process.rs` | a service without a control socket, known only by its pid file |
//! | `picture.rs` | a status, in words |
//! | `output.rs` | lines, JSON, progress, and the exit status |
//! | `unit.rs` | the unit for systemd |

mod args;
mod commands;
mod conversation;
mod output;
mod picture;
mod process;
mod target;
mod unit;

use std::process::ExitCode;

use args::Command;
use output::{Failure, Output};

pub(crate) fn main() -> ExitCode {
    let command = args::parse();
    let output = Output::new(command.json());
    match run(&command, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failed(&failure),
    }
}

fn run(command: &Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Upgrade(args) => commands::upgrade(args, output),
        Command::Stop(args) => commands::stop(args, output),
        Command::Status(args) => commands::status(args, output),
        Command::Watch(args) => commands::watch(args, output),
        Command::Unit(args) => unit::print(args, output),
        Command::Completions { shell } => args::completions(*shell, output),
        Command::Man { command } => args::man(command.as_deref(), output),
    }
}
