use tokio::net::{TcpListener, UnixListener};

#[tableflip::main(listen = [a = "tcp://127.0.0.1:7000", b = "/run/b.sock"])]
async fn main(a: TcpListener, b: UnixListener) {
    drop((a, b));
}
