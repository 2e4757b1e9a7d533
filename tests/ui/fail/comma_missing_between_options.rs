use tableflip::net::TcpListener;

#[tableflip::main(pidfile = "/run/a.pid" listen = [echo = "tcp://127.0.0.1:7000"])]
async fn main(echo: TcpListener) {
    drop(echo);
}
