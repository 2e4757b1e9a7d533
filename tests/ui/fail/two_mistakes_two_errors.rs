use tableflip::net::TcpListener;

#[tableflip::main(pidfle = "/run/a.pid", listen = [echo = "tcp://127.0.0.1"])]
async fn main(echo: TcpListener) {
    drop(echo);
}
