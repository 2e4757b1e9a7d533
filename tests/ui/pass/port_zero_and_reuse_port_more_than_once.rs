use tableflip::net::TcpListener;
use tokio::net::UdpSocket;

#[tableflip::main(listen = [
    a = "127.0.0.1:0",
    b = "127.0.0.1:0",
    c = "udp://127.0.0.1:53?reuse_port=true",
    d = "udp://127.0.0.1:53?reuse_port=true",
    e = "tcp://127.0.0.1:53",
])]
async fn service(a: TcpListener, b: TcpListener, c: UdpSocket, d: UdpSocket, e: TcpListener) {
    drop((a, b, c, d, e));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
