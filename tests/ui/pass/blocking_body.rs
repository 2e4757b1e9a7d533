use std::io;
use std::net::TcpListener;
use tableflip::Ready;

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:7000"])]
fn service(mut echo: TcpListener, ready: Ready) -> io::Result<()> {
    let listener = &mut echo;
    ready.notify();
    listener.accept().map(drop)
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
