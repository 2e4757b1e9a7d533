use std::os::fd::OwnedFd;
use tableflip::Ready;

#[tableflip::main(listen = [a = "tcp://127.0.0.1:7000", b = "/run/b.sock"])]
async fn service(a: tokio::net::TcpListener, b: OwnedFd, ready: Ready) {
    drop((a, b, ready));
}

#[tableflip::main(listen = [a = "tcp://127.0.0.1:7000"])]
fn other(a: std::net::TcpListener, ready: Ready) {
    drop((a, ready));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        other();
    }
}
