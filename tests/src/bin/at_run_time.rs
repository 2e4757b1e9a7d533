//! A service that takes its listener at run time, by the name under which it is declared: as `tasks` or as `threads`, its
//! first argument; or, as `doubt` and `builder`, takes it at once. Beside a file `forget` a process does not take it, and serves
//! another one; beside a file `fail` its body returns an error.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::{io, thread};

use tableflip::{Listeners, Service, blocking, net};

type Result = std::result::Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("tasks") => tasks(),
        Some("doubt") => doubt(),
        Some("builder") => builder(),
        _ => threads(),
    }
}

fn fails() -> Result {
    if Path::new("fail").exists() {
        return Err("no /etc/v.toml".into());
    }
    Ok(())
}

/// A name that does not say that it is a `Result`.
type Outcome = Result;

#[tableflip::main(pidfile = "pid", listen = [echo = "unix:///nowhere/echo"])]
async fn doubt(echo: net::UnixListener) -> Outcome {
    fails()?;
    loop {
        drop(echo.accept().await?);
    }
}

fn builder() -> ExitCode {
    Service::new().pidfile("pid").listen("echo", "unix:///nowhere/echo").run_blocking(|start| {
        let echo: blocking::UnixListener = start.listener("echo")?;
        Ok(move || {
            fails()?;
            echo.incoming().for_each(drop);
            Result::Ok(())
        })
    })
}

fn forgets() -> bool {
    Path::new("forget").exists()
}

#[tableflip::main(pidfile = "pid", listen = [echo = "unix:///nowhere/echo"])]
async fn tasks(listeners: Listeners) -> Result {
    fails()?;
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
    fails()?;
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
