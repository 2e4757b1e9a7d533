use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = 7000])]
async fn main(echo: TcpListener) {
    drop(echo);
}
