use tableflip::Shutdown;
use tableflip::net::{TcpListener, UnixListener};
use tokio::net::UdpSocket;

#[tableflip::main(listen = ["127.0.0.1:7000", admin = "/run/admin.sock", "udp://127.0.0.1:53"])]
async fn service(echo: TcpListener, shutdown: Shutdown, admin: UnixListener, dns: UdpSocket) {
    drop((echo, shutdown, admin, dns));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
