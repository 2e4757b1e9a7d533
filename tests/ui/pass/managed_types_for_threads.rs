use tableflip::blocking::{TcpListener, UdpSocket, UnixDatagram, UnixListener};

#[tableflip::main(listen = [
    http = "tcp://127.0.0.1:0",
    dns = "udp://127.0.0.1:0",
    local = "unix:@local",
    log = "unix-dgram:@log",
])]
fn service(http: TcpListener, dns: UdpSocket, local: UnixListener, log: UnixDatagram) {
    drop((http, dns, local, log));
}

fn main() {
    if std::env::args().count() > 1000 {
        let _ = service();
    }
}
