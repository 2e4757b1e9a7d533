use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = "http://127.0.0.1:80"])]
async fn main(echo: TcpListener) {
    drop(echo);
}
