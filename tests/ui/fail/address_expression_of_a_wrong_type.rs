use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = std::time::Duration::from_secs(1)])]
async fn main(echo: TcpListener) {
    drop(echo);
}
