use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = "127.0.0.1:7000"])]
async fn main(#[cfg(unix)] echo: TcpListener) {
    drop(echo);
}
