//! The body owns its listeners.
use tableflip::net::TcpListener;

#[tableflip::main(listen = [http = "localhost:80"])]
async fn main(http: &TcpListener) {
    let _ = http;
}
