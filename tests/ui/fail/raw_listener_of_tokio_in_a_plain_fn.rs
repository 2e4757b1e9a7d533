//! D11: the raw types of tokio need a runtime as well, also beside `Ready`.
use tableflip::Ready;

#[tableflip::main(listen = [http = "localhost:80"])]
fn main(http: tokio::net::TcpListener, ready: Ready) {
    ready.notify();
    drop(http);
}
