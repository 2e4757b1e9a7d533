use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = r"127.0.0.1:7000?backlog=many"])]
async fn main(echo: TcpListener) {
    drop(echo);
}
