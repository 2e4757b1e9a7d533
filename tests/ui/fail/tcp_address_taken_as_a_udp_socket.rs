use tokio::net::UdpSocket;

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:7000"])]
async fn main(echo: UdpSocket, ready: tableflip::Ready) {
    drop((echo, ready));
}
