//! An HTTP service that says which version, generation and process answered.
//!
//! Run it with `cargo run -p hello`, ask it with `curl http://127.0.0.1:8080/`, build a new version, and replace
//! the running one with `kill -HUP $(cat hello.pid)`. `RUST_LOG=tableflip=debug` shows what tableflip does.

use std::io::{self, IsTerminal};
use std::{env, process, time::Duration};

use axum::{Router, routing::get};
use tableflip::{Upgrader, net::TcpListener};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{fmt, prelude::*};

#[tableflip::main(pidfile = "hello.pid", listen = [http = "tcp://127.0.0.1:8080"])]
async fn main(http: TcpListener, upgrader: Upgrader) -> io::Result<()> {
    log_to_stderr();

    let generation = upgrader.generation();
    let answer = move || async move {
        let (version, pid) = (env!("CARGO_PKG_VERSION"), process::id());
        format!("hello {version}, generation {generation}, pid {pid}\n")
    };
    // A slow answer, so that an upgrade always meets a request in flight.
    let slow = move || async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer().await
    };

    tableflip::http::serve(http, Router::new().route("/", get(answer)).route("/slow", get(slow))).await
}

/// The filter in `RUST_LOG`, such as `tableflip=debug,warn`. If it is missing or malformed: warnings.
fn log_to_stderr() {
    let wanted = env::var("RUST_LOG").ok().and_then(|directives| directives.parse::<Targets>().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(filter).init();
}
