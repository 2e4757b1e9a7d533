use std::path::{Path, PathBuf};
use std::time::Duration;
use tableflip::net::{TcpListener, UnixListener};

const ADDRESS: &str = "tcp://127.0.0.1:7000";
const DRAIN: Duration = Duration::from_secs(5);
const CORES: usize = 2;

fn run_dir() -> PathBuf {
    Path::new("/run").join("echo")
}

#[tableflip::main(
    listen = [echo = ADDRESS, admin = format!("unix://{}", run_dir().join("admin.sock").display())],
    pidfile = run_dir().join("echo.pid"),
    control = run_dir().join("echo.control"),
    upgrade_timeout = DRAIN * 2,
    probation = Duration::from_millis(1500),
    drain_timeout = { DRAIN },
    preflight = run_dir().join("check"),
    worker_threads = 2 * CORES,
)]
async fn service(echo: TcpListener, admin: UnixListener) {
    drop((echo, admin));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
