use tableflip::net::TcpListener;

#[tableflip::main(listen = "tcp://127.0.0.1:7000")]
async fn main(echo: TcpListener) {
    drop(echo);
}
