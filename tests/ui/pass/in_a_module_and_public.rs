pub mod inner {
    use super::Connections;

    /// A service that another module starts.
    #[tableflip::main(listen = [echo = "127.0.0.1:7000"])]
    pub(crate) async fn service(echo: Connections) {
        drop(echo);
    }
}

use tableflip::net::TcpListener as Connections;

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        let _: std::process::ExitCode = inner::service();
    }
}
