use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = ""])]
async fn main(echo: TcpListener) {
    drop(echo);
}
