use tokio::net::UdpSocket as Datagrams;

type Connections = tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:7000", dns = "udp://127.0.0.1:53"])]
async fn service(echo: Connections, dns: Datagrams) {
    drop((echo, dns));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
