//! The service of the README, with a Unix listener. No line of it is for the tests.

use std::io;
use tableflip::net::UnixListener;

#[tableflip::main(pidfile = "pid", listen = [echo = "unix:///nowhere/echo"])]
async fn main(echo: UnixListener) -> io::Result<()> {
    loop {
        let (mut stream, _peer) = echo.accept().await?;
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}
