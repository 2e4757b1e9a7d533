use std::io;

#[tableflip::main]
async fn service() -> io::Result<()> {
    loop {
        std::future::pending::<()>().await;
    }
}

#[tableflip::main]
async fn returns_early() -> io::Result<()> {
    return Ok(());
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        returns_early();
    }
}
