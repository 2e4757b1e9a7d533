//! A service whose errors are those of color-eyre. Its report on stderr is coloured, and the line in the log is plain.
//!
//! Run it with `cargo run -p errors-hello --bin color-eyre-hello`. It does what `anyhow-hello` does.

use std::fs;

use axum::{Router, routing::get};
use color_eyre::Result;
use color_eyre::eyre::{OptionExt as _, WrapErr as _, ensure};
use tableflip::net::TcpListener;

/// Before anything is bound or taken from a predecessor.
fn load() -> Result<String> {
    color_eyre::install()?;
    let text = fs::read_to_string("quotation").wrap_err("cannot read the file `quotation`")?;
    ensure!(!text.trim().is_empty(), "the file `quotation` is empty");
    Ok(text)
}

fn check(quotation: &str) -> Result<()> {
    let (_, author) = quotation.rsplit_once(" - ").ok_or_eyre("it has no author")?;
    ensure!(author.starts_with(char::is_uppercase), "`{}` is no name", author.trim());
    Ok(())
}

#[tableflip::main(config = load()?, pidfile = "color-eyre-hello.pid", listen = [http = "tcp://127.0.0.1:8080"])]
async fn main(config: String, http: TcpListener) -> Result<()> {
    check(&config).wrap_err("the quotation is refused")?;
    let app = Router::new().route("/", get(|| async { config }));
    tableflip::http::serve(http, app).await.wrap_err("cannot serve")
}
