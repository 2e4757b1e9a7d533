//! D11: two attributes that each give the function a runtime.
use tableflip::net::TcpListener;

#[tableflip::main(listen = [http = "localhost:80"])]
#[tokio::main(flavor = "current_thread")]
async fn main(http: TcpListener) {
    drop(http);
}
