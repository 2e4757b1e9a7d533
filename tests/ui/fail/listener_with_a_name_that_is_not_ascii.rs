use tableflip::net::TcpListener;

#[tableflip::main(listen = [écho = "127.0.0.1:7000"])]
async fn main(écho: TcpListener) {
    drop(écho);
}
