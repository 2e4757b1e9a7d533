use tableflip::net::TcpListener;

#[tableflip::main(config = 7000_u16 + 1, listen = [config = "tcp://127.0.0.1:7000"])]
async fn main(config: TcpListener) {
    drop(config);
}
