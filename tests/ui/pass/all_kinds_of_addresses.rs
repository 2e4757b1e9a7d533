use std::os::fd::OwnedFd;
use tableflip::net::{TcpListener, UnixListener};
use tokio::net::{UdpSocket, UnixDatagram};

#[tableflip::main(listen = [
    plain = "127.0.0.1:7000",
    named = "tcp://localhost:7001?backlog=16&nodelay=true",
    six = "tcp://[::1]:7002?v6only=true",
    datagrams = "udp://0.0.0.0:53?reuse_port=true",
    path = "/run/a.sock",
    mode = "unix:///run/b.sock?mode=660",
    hidden = "unix:@c",
    unix_datagrams = "unix-dgram:///run/d.sock",
    packets = "unix-seqpacket:@e",
])]
async fn service(
    plain: TcpListener,
    named: TcpListener,
    six: TcpListener,
    datagrams: UdpSocket,
    path: UnixListener,
    mode: UnixListener,
    hidden: UnixListener,
    unix_datagrams: UnixDatagram,
    packets: OwnedFd,
) {
    drop((plain, named, six, datagrams, path, mode, hidden, unix_datagrams, packets));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
