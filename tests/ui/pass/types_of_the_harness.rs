use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = "127.0.0.1:7000"])]
async fn service(
    shutdown: tableflip::Shutdown,
    ready: tableflip::Ready,
    echo: TcpListener,
    upgrader: ::tableflip::Upgrader,
) {
    drop((shutdown, ready, echo, upgrader));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
