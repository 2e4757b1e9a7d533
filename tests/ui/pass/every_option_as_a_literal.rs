use tableflip::net::TcpListener;

#[tableflip::main(
    name = "echo",
    listen = [echo = "tcp://127.0.0.1:7000"],
    pidfile = "/run/echo.pid",
    control = false,
    upgrade_timeout = "1m 30s",
    probation = "3s",
    drain_timeout = "500ms",
    upgrade_signal = "SIGUSR2",
    overlap = "wait",
    supervise = "never",
    preflight = "/opt/echo/check \"$0\"",
    probe = "echo GET /healthz 204",
    verify = "/opt/echo/check-running",
    flavor = "multi_thread",
    worker_threads = 4,
    crate = ::tableflip,
)]
async fn service(echo: TcpListener) {
    drop(echo);
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
