use tableflip::net::TcpListener;

#[tableflip::main(listen = [admin = "127.0.0.1:7001", echo = "127.0.0.1:7000"])]
async fn main(ehco: TcpListener, admin: TcpListener) {
    drop((ehco, admin));
}
