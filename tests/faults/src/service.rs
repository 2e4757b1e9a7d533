//! The service that is broken: it answers the first byte of a connection with who it is, and closes it; if that byte is
//! [`HOLD`], only once the client has.

use std::io::{self, Write};
use std::process::ExitCode;

use tableflip::net::TcpListener;
use tableflip::{Flavor, Service, StartError, Upgrader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The pid file, in the working directory.
pub(crate) const PIDFILE: &str = "pid";

/// Asks for an answer, and for one after which the connection stays open.
pub(crate) const ASK: u8 = b'?';
pub(crate) const HOLD: u8 = b'h';

pub(crate) fn serve() -> ExitCode {
    Service::new()
        .flavor(Flavor::CurrentThread)
        .pidfile(PIDFILE)
        .probation("50ms")
        .listen("who", "tcp://127.0.0.1:0")
        .run(|start| {
            let who: TcpListener = start.listener("who")?;
            let upgrader: Upgrader = start.harness()?;
            let address = who.local_addr().map_err(cannot_say)?;
            writeln!(io::stdout(), "{address}").map_err(cannot_say)?;
            Ok(async move {
                let me = format!("{} {}\n", upgrader.generation(), std::process::id());
                loop {
                    let Ok((mut connection, _)) = who.accept().await else { continue };
                    let me = me.clone();
                    tokio::spawn(async move {
                        let first = connection.read_u8().await?;
                        connection.write_all(me.as_bytes()).await?;
                        if first == HOLD {
                            connection.read_u8().await?;
                        }
                        io::Result::Ok(())
                    });
                }
            })
        })
}

fn cannot_say(error: io::Error) -> StartError {
    StartError::System { action: "say where it listens", source: error }
}
