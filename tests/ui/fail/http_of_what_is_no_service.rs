//! `http::serve` takes a service, and not what a handler returns.
use tableflip::net::TcpListener;

#[tableflip::main(listen = [web = "localhost:80"])]
async fn main(web: TcpListener) -> std::io::Result<()> {
    tableflip::http::serve(web, "hello").await
}
