#![no_implicit_prelude]

#[::tableflip::main(listen = [echo = "127.0.0.1:7000", dns = "udp://127.0.0.1:53"], probation = "1s")]
async fn service(echo: ::tableflip::net::TcpListener, dns: Datagrams, shutdown: ::tableflip::Shutdown) {
    ::std::mem::drop((echo, dns, shutdown));
}

type Datagrams = ::tokio::net::UdpSocket;

#[::tableflip::main]
fn other() {}

fn main() {
    // A test that is run opens no socket.
    if ::std::iter::Iterator::count(::std::env::args()) > 1000 {
        service();
        other();
    }
}
