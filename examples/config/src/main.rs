//! Arguments with two subcommands, by clap, and a configuration file in TOML.
//!
//! Run it with `cargo run -p config-hello -- serve --file examples/config/hello.toml`, ask it with
//! `curl http://127.0.0.1:8080/`, change the file, and replace the service with `kill -HUP $(cat config-hello.pid)`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use axum::{Router, routing::get};
use clap::Parser;
use tableflip::net::TcpListener;
use tableflip::{Address, Overlap};

#[derive(Parser)]
enum Command {
    /// Serves HTTP.
    Serve(Serve),
    /// Brings the data into the form of this release.
    Migrate {
        /// Only says what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(clap::Args)]
struct Serve {
    /// The configuration file.
    #[arg(long, default_value = "/etc/hello.toml")]
    file: PathBuf,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    http: Address,
    greeting: String,
    pidfile: Option<PathBuf>,
    drain_timeout: Option<String>,
    overlap: Option<Overlap>,
}

fn load(file: &Path) -> Result<Config, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Serve(args) => return serve(args),
        Command::Migrate { dry_run } => println!("migrated, dry run: {dry_run}"),
    }
    ExitCode::SUCCESS
}

#[tableflip::main(name = "config-hello", config = load(&args.file)?, listen = [http = config.http], pidfile = config.pidfile,
    drain_timeout = config.drain_timeout, overlap = config.overlap)]
async fn serve(args: Serve, config: Config, http: TcpListener) -> std::io::Result<()> {
    let app = Router::new().route("/", get(|| async { config.greeting }));
    tableflip::http::serve(http, app).await
}
