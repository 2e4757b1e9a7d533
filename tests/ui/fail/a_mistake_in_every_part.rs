use tableflip::net::TcpListener;

#[tableflip::main(
    drain_timeout = "soon",
    listen = [echo = "tcp://127.0.0.1:7000", admin = 1],
    upgrade_signal = "SIGKILL",
)]
async fn main<T>(echo: TcpListener, admin: TcpListener, (): ()) {
    drop((echo, admin));
}
