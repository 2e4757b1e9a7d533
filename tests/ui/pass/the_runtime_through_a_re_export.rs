mod outer {
    pub mod inner {
        pub use tableflip::*;
    }
}

#[outer::inner::main(crate = crate::outer::inner, listen = [echo = "127.0.0.1:7000"], flavor = "current_thread")]
async fn service(echo: outer::inner::net::TcpListener) {
    drop(echo);
}

#[outer::inner::main(crate = "crate::outer::inner", listen = [echo = "127.0.0.1:7000"])]
fn quoted(echo: std::net::TcpListener, ready: outer::inner::Ready) {
    drop((echo, ready));
}

#[tableflip::main(crate = self::outer::inner)]
async fn relative_to_the_module() {}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        quoted();
        relative_to_the_module();
    }
}
