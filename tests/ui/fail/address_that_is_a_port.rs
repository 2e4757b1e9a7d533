use tableflip::net::TcpListener;

#[tableflip::main(listen = [http = "8080"])]
async fn main(http: TcpListener) {
    drop(http);
}
