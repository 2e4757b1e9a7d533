use tableflip::net::TcpListener;

#[tableflip::main]
async fn main(echo: TcpListener) {
    drop(echo);
}
