//! The service that is broken: it says to every connection who it is, and closes it.

use std::io::{self, Write};
use std::process::ExitCode;

use tableflip::net::TcpListener;
use tableflip::{Flavor, Service, StartError, Upgrader};
use tokio::io::AsyncWriteExt;

/// The pid file, in the working directory.
pub(crate) const PIDFILE: &str = "pid";

pub(crate) fn serve() -> ExitCode {
    Service::new()
        .flavor(Flavor::CurrentThread)
        .pidfile(PIDFILE)
        .probation("50ms")
        .listen("who", "tcp://127.0.0.1:0")
        .run(|start| {
            let who: TcpListener = start.listener("who")?;
            let upgrader: Upgrader = start.harness()?;
            let address = who.local_addr().map_err(unknown)?;
            writeln!(io::stdout(), "{address}").map_err(unknown)?;
            Ok(async move {
                let me = format!("{} {}\n", upgrader.generation(), std::process::id());
                loop {
                    let Ok((mut connection, _)) = who.accept().await else { continue };
                    let me = me.clone();
                    tokio::spawn(async move {
                        // Whoever has gone away is not told.
                        match connection.write_all(me.as_bytes()).await {
                            Ok(()) | Err(_) => {}
                        }
                    });
                }
            })
        })
}

fn unknown(error: io::Error) -> StartError {
    StartError::Pidfile { path: "stdout".into(), source: error }
}
