//! Echoes what it receives. A new build of the service can replace it at any time.
//!
//! Run it with `TABLEFLIP_PIDFILE=/tmp/echo.pid cargo run -p echo`, talk to it with `nc 127.0.0.1 7000`, and
//! replace it with `kill -HUP $(cat /tmp/echo.pid)`.

use std::io;
use tableflip::net::TcpListener;

#[tableflip::main(pidfile = "/run/echo.pid", listen = [echo = "tcp://127.0.0.1:7000"])]
async fn main(echo: TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _peer) = echo.accept().await?;
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}
