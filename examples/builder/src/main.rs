//! The builder in the place of the attribute, and a configuration from environment variables.
//!
//! Run it with `cargo run -p builder-lines`, talk to it with `nc 127.0.0.1 7001`, and replace it with
//! `kill -HUP $(cat builder-lines.pid)`. Each line comes back with `PREFIX` in front.

use std::env::{self, VarError};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use tableflip::net::{TcpListener, TcpStream};
use tableflip::{Failure, Service};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

struct Config {
    listen: SocketAddr,
    prefix: String,
}

fn load() -> Result<Config, Failure> {
    let listen = match env::var("LISTEN") {
        Ok(text) => text.parse().map_err(|error| format!("LISTEN={text}: {error}"))?,
        Err(VarError::NotPresent) => SocketAddr::from(([127, 0, 0, 1], 7001)),
        Err(error) => return Err(format!("LISTEN: {error}").into()),
    };
    Ok(Config { listen, prefix: env::var("PREFIX").unwrap_or_default() })
}

async fn converse(mut stream: TcpStream, prefix: &str) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        write.write_all(format!("{prefix}{line}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn serve(lines: TcpListener, prefix: Arc<str>) -> io::Result<()> {
    loop {
        let (stream, _peer) = lines.accept().await?;
        let prefix = prefix.clone();
        tokio::spawn(async move { converse(stream, &prefix).await });
    }
}

fn main() -> ExitCode {
    let config = match tableflip::configure(load) {
        Ok(config) => config,
        Err(exit_code) => return exit_code,
    };
    Service::new()
        .name(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .pidfile("builder-lines.pid")
        .drain_timeout("5m")
        .listen("lines", config.listen)
        .run(|start| {
            let lines: TcpListener = start.listener("lines")?;
            Ok(serve(lines, config.prefix.into()))
        })
}
