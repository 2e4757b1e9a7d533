use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:7000", in], pidfile = "/run/a.pid")]
async fn main(echo: TcpListener) {
    drop(echo);
}
