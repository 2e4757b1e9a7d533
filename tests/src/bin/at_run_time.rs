//! A service that takes its listener at run time, by the name under which it is declared: as `tasks` or as `threads`, its
//! first argument. Beside a file `forget` a process does not take it, and serves another one.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::{io, thread};

use tableflip::{Listeners, blocking, net};

type Result = std::result::Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("tasks") => tasks(),
        _ => threads(),
    }
}

fn forgets() -> bool {
    Path::new("forget").exists()
}

#[tableflip::main(pidfile = "pid", listen = [echo = "unix:///nowhere/echo"])]
async fn tasks(listeners: Listeners) -> Result {
    if forgets() {
        let other: net::TcpListener = listeners.bind("other", "tcp://127.0.0.1:0")?;
        other.accept().await?;
        return Ok(());
    }
    let echo: net::UnixListener = listeners.declared("echo")?;
    loop {
        let (mut stream, _peer) = echo.accept().await?;
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}

#[tableflip::main(pidfile = "pid", listen = [echo = "unix:///nowhere/echo"])]
fn threads(listeners: Listeners) -> Result {
    if forgets() {
        let other: blocking::TcpListener = listeners.bind("other", "tcp://127.0.0.1:0")?;
        other.accept()?;
        return Ok(());
    }
    let echo: blocking::UnixListener = listeners.declared("echo")?;
    for stream in echo.incoming() {
        let stream = stream?;
        thread::spawn(move || io::copy(&mut &stream, &mut &stream));
    }
    Ok(())
}
