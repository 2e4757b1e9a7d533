//! A service and the program of its operators in one executable: the host needs no other program.
//!
//! Run it with `cargo run -p ctl-hello -- serve`, ask it with `curl http://127.0.0.1:8080/`, and replace it with
//! `cargo run -p ctl-hello -- ctl upgrade`. `ctl status`, `ctl watch` and `ctl stop` do what `tableflip status` and so on do.

use std::process::ExitCode;

use axum::{Router, routing::get};
use clap::Parser;
use tableflip::net::TcpListener;
use tableflip::program::Commands;

/// Its control socket is `ctl-hello.control`, beside it.
const PIDFILE: &str = "ctl-hello.pid";

#[derive(Parser)]
enum Command {
    /// Serves HTTP.
    Serve,
    /// Upgrades, stops and watches the service that runs.
    #[command(subcommand)]
    Ctl(Commands),
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Serve => serve(),
        Command::Ctl(commands) => commands.pidfile(PIDFILE).run(),
    }
}

#[tableflip::main(pidfile = PIDFILE, listen = [http = "tcp://127.0.0.1:8080"])]
async fn serve(http: TcpListener) -> std::io::Result<()> {
    tableflip::http::serve(http, Router::new().route("/", get(|| async { "Hello\n" }))).await
}
