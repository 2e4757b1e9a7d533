use std::io;
use tableflip::{FromListener, ListenerSocket, address::Kind, net::TcpListener};

struct Tls(TcpListener);

impl FromListener for Tls {
    const KINDS: &'static [Kind] = TcpListener::KINDS;

    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
        TcpListener::from_listener(socket).map(Self)
    }
}

fn main() {}

#[tableflip::main(listen = ["tcp://127.0.0.1:7000"])]
pub async fn serve(port: u16, https: Tls) {
    drop((port, https.0));
}
