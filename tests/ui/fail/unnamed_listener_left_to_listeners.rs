use tableflip::{Listeners, net::TcpListener};

#[tableflip::main(listen = ["tcp://127.0.0.1:7000", "udp://127.0.0.1:53"])]
async fn main(echo: TcpListener, listeners: Listeners) {
    drop((echo, listeners));
}
