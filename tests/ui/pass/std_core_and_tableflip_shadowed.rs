use ::tableflip::main as attribute;

mod shadow {
    pub mod std {}
    pub mod core {}
    pub mod tableflip {}
}
use shadow::{core, std, tableflip};

#[attribute(pidfile = "/run/a.pid", flavor = "multi_thread", listen = [echo = "127.0.0.1:7000"])]
async fn service(echo: ::tableflip::net::TcpListener) {
    drop(echo);
}

fn main() {
    // A test that is run opens no socket.
    if ::std::env::args().count() > 1000 {
        service();
    }
}
