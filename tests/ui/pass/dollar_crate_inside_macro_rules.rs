pub mod reexport {
    pub use tableflip::*;
}

#[macro_export]
macro_rules! service {
    ($name:ident) => {
        #[tableflip::main(crate = $crate::reexport, listen = ["tcp://127.0.0.1:7000"])]
        async fn $name(echo: $crate::reexport::net::TcpListener) {
            drop(echo);
        }
    };
}

service!(service);

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
