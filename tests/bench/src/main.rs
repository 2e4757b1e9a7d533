//! The cost of an upgrade: every figure compares two things that were measured in turn, in the same run.
//!
//! `cargo run --release -p bench` measures everything; `-- --help` lists the parts. The figures go to stdout, as the
//! markdown that `docs/performance.md` shows, the progress to stderr. The program fails only if something could not
//! be measured: speed is no test.

mod clock;
mod endurance;
mod flavor;
mod frameworks;
mod hello;
mod idle;
mod listeners;
mod machine;
mod options;
mod peers;
mod probe;
mod process;
mod report;
mod service;
mod stall;
mod stats;
mod throughput;
mod trial;
mod upgrade;

use std::env;
use std::error::Error;
use std::process::ExitCode;

use options::{Options, Part};
use report::{Report, Section};

/// An error ends the program with its text.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let entered = clock::now();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        // The measured processes are this same program.
        [process::EMPTY] => return ExitCode::SUCCESS,
        [process::EMPTY_BODY, flavor] => return service::empty_body(flavor),
        [process::STAMP] => return service::stamp(entered),
        [process::SERVICE, ref service @ ..] => return service::run(service, entered),
        [process::VERIFY, stamps] => return service::exit_code(trial::verify(stamps.as_ref(), entered)),
        ["-h" | "--help"] => {
            println!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        _ => {
            processes::default_for_children();
            Options::parse(&arguments).and_then(|options| measure(&options))
        }
    };
    match result {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<Report> {
    let _family = process::Family::found()?;
    let load = machine::load();
    let sections = options.parts.iter().map(|part| measure_part(*part, options)).collect::<Result<_>>()?;
    Ok(Report { sections, command: options.command(), load })
}

fn measure_part(part: Part, options: &Options) -> Result<Section> {
    eprintln!("{}", part.name());
    let measured = match part {
        Part::Upgrade => upgrade::measure(options),
        Part::Peers => peers::measure(options),
        Part::Throughput => throughput::measure(options),
        Part::Frameworks => frameworks::measure(options),
        Part::Stall => stall::measure(options),
        Part::Listeners => listeners::measure(options),
        Part::Idle => idle::measure(options),
        Part::Trial => trial::measure(options),
        Part::Endurance => endurance::measure(options),
    };
    measured.map_err(|error| format!("{}: {error}", part.name()).into())
}
