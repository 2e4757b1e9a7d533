use tableflip::net::TcpListener;

#[tableflip::main(listen = ["127.0.0.1:7000"])]
async fn main(_: TcpListener) {}
