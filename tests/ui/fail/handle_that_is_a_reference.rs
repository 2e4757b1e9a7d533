use tableflip::Shutdown;
use tableflip::net::TcpListener;

#[tableflip::main(listen = [http = "localhost:80"])]
async fn main(http: TcpListener, shutdown: &mut Shutdown) {
    let _ = (http, shutdown);
}
