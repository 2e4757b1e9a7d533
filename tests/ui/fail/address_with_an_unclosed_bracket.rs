use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = "tcp://[::1:7000"])]
async fn main(echo: TcpListener) {
    drop(echo);
}
