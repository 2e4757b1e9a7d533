//! Echoes what it receives. A new build of the service can replace it at any time, and its clients keep their connections.
//!
//! Run it with `TABLEFLIP_PIDFILE=/tmp/echo.pid cargo run -p echo`, talk to it with `nc 127.0.0.1 7000`, and
//! replace it with `kill -HUP $(cat /tmp/echo.pid)`: the same `nc` then talks to the new process.

use std::io;

use tableflip::net::{TcpListener, TcpStream};
use tableflip::{Session, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The kind of the connections that move to the successor: the protocol, and the version of its state. This one has no state.
const KIND: &str = "echo/1";

async fn converse(mut stream: TcpStream, mut shutdown: Shutdown) -> io::Result<()> {
    let (mut text, mut stays) = (vec![0; 8 << 10], false);
    loop {
        tokio::select! {
            read = stream.read(&mut text) => match read? {
                0 => return Ok(()),
                length => stream.write_all(&text[..length]).await?,
            },
            // Nothing is half done here: the successor can go on with the connection.
            () = &mut shutdown, if !stays => match stream.hand_over(Session::new(KIND)).await {
                Ok(()) => return Ok(()),
                // It is served until the client leaves, or `drain_timeout` is over.
                Err(kept) => (stream, stays) = (kept, true),
            },
        }
    }
}

#[tableflip::main(pidfile = "/run/echo.pid", listen = [echo = "tcp://127.0.0.1:7000"])]
async fn main(echo: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    let mut resumed = echo.resumed([KIND]);
    loop {
        let shutdown = shutdown.clone();
        tokio::select! {
            accepted = echo.accept() => tokio::spawn(converse(accepted?.0, shutdown)),
            offer = resumed.next() => tokio::spawn(async move { converse(offer.take().await?, shutdown).await }),
        };
    }
}
