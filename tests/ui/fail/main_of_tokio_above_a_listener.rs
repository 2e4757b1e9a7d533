//! D11: tokio's attribute reports the parameters of `main`, which nothing here can prevent.
use tableflip::net::TcpListener;

#[tokio::main]
#[tableflip::main(listen = [http = "localhost:80"])]
async fn main(http: TcpListener) {
    drop(http);
}
