#![deny(unused_variables, dead_code)]

use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = "127.0.0.1:7000"])]
#[allow(unused_variables)]
async fn service(echo: TcpListener) {
    #![allow(dead_code)]
    fn never_called() {}
}

#[tableflip::main(listen = [echo = "127.0.0.1:7000"])]
#[expect(unused_variables, reason = "it is told of the function, and found in the body")]
fn other(echo: std::net::TcpListener, ready: tableflip::Ready) {}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        other();
    }
}
