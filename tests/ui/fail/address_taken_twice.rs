use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:7000", admin = "127.0.0.1:7000?backlog=16"])]
async fn main(echo: TcpListener, admin: TcpListener) {
    drop((echo, admin));
}
