use tableflip::net::TcpListener;
use tokio::net::UdpSocket;

#[tableflip::main(listen = [a = "tcp://127.0.0.1:7000", b = "udp://127.0.0.1:7000"])]
async fn main(a: UdpSocket, b: TcpListener) {
    drop((a, b));
}
