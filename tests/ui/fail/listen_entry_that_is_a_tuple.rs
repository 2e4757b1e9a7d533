use tableflip::net::TcpListener;

#[tableflip::main(listen = [("http", "localhost:80")])]
async fn main(http: TcpListener) {
    drop(http);
}
