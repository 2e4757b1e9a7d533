use std::io;
use tableflip::net::TcpListener;

#[tableflip::main(pidfile = "/run/echo.pid", listen = [echo = "tcp://127.0.0.1:7000"])]
async fn service(echo: TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _peer) = echo.accept().await?;
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
