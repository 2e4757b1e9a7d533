use std::path::{Path, PathBuf};
use std::time::Duration;
use tableflip::Address;
use tableflip::net::{TcpListener, UdpSocket, UnixListener};

const ADDRESS: &str = "tcp://127.0.0.1:7000";
const DRAIN: Duration = Duration::from_secs(5);
const CORES: usize = 2;
const HEALTH: &str = "/healthz";

fn run_dir() -> PathBuf {
    Path::new("/run").join("echo")
}

fn statistics() -> Address {
    "udp://127.0.0.1:7001".parse().expect("an address")
}

#[tableflip::main(
    name = env!("CARGO_PKG_NAME"),
    listen = [
        echo = ADDRESS,
        admin = format!("unix://{}", run_dir().join("admin.sock").display()),
        statistics = statistics(),
    ],
    pidfile = run_dir().join("echo.pid"),
    control = run_dir().join("echo.control"),
    upgrade_timeout = DRAIN * 2,
    probation = Duration::from_millis(1500),
    drain_timeout = { DRAIN },
    preflight = run_dir().join("check"),
    probe = format!("echo GET {HEALTH}"),
    verify = run_dir().join("check-running"),
    worker_threads = 2 * CORES,
)]
async fn service(echo: TcpListener, admin: UnixListener, statistics: UdpSocket) {
    drop((echo, admin, statistics));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
