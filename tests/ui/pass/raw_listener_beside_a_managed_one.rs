#[tableflip::main(listen = [a = "tcp://127.0.0.1:7000", b = "tcp://127.0.0.1:7001"])]
async fn service(a: tokio::net::TcpListener, b: tableflip::net::TcpListener) {
    drop((a, b));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
