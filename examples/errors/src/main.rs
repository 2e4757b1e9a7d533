//! A service whose errors are those of anyhow. It serves the file `quotation`, which it reads at its start.
//!
//! Run it with `cargo run -p errors-hello`. A release that cannot read the file, or refuses it, does not
//! replace the process that serves: `tableflip upgrade anyhow-hello.pid` prints the error with its causes.

use std::fs;

use anyhow::{Context, Result, ensure};
use axum::{Router, routing::get};
use tableflip::net::TcpListener;

/// Before anything is bound or taken from a predecessor.
fn load() -> Result<String> {
    let text = fs::read_to_string("quotation").context("cannot read the file `quotation`")?;
    ensure!(!text.trim().is_empty(), "the file `quotation` is empty");
    Ok(text)
}

fn check(quotation: &str) -> Result<()> {
    let (_, author) = quotation.rsplit_once(" - ").context("it has no author")?;
    ensure!(author.starts_with(char::is_uppercase), "`{}` is no name", author.trim());
    Ok(())
}

#[tableflip::main(config = load()?, pidfile = "anyhow-hello.pid", listen = [http = "tcp://127.0.0.1:8080"])]
async fn main(config: String, http: TcpListener) -> Result<()> {
    check(&config).context("the quotation is refused")?;
    let app = Router::new().route("/", get(|| async { config }));
    tableflip::http::serve(http, app).await.context("cannot serve")
}
