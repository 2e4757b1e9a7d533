use std::os::fd::OwnedFd;
use tableflip::Shutdown;
use tableflip::net::TcpListener;

#[tableflip::main(listen = [start = "127.0.0.1:7000", run = "127.0.0.1:7001", service = "127.0.0.1:7002"])]
async fn service(start: TcpListener, run: TcpListener, service: TcpListener, shutdown: Shutdown) {
    drop((start, run, service, shutdown));
}

#[tableflip::main(listen = [r#type = "127.0.0.1:7000", start = "127.0.0.1:7001"])]
async fn other(start: TcpListener, r#type: TcpListener) {
    drop((start, r#type));
}

#[tableflip::main(listen = [plain = "127.0.0.1:7000", start = "127.0.0.1:7001", start_ = "127.0.0.1:7002"])]
fn plain(start: OwnedFd, ready: tableflip::Ready, start_: OwnedFd, plain: OwnedFd) {
    drop((start, ready, start_, plain));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        self::service();
        other();
        plain();
    }
}
