//! D11: the macro sees only the name of a type, and knows a handle by it.
use tableflip::Shutdown as Stop;
use tableflip::net::TcpListener;

#[tableflip::main(listen = [http = "localhost:80"])]
async fn main(http: TcpListener, stop: Stop) {
    stop.await;
    drop(http);
}
