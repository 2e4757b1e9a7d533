use tableflip::net::TcpListener;

#[tableflip::main(listen = [echo = "127.0.0.1:7000"])]
async fn service(echo: TcpListener) {
    struct Holds<T>(T);
    impl<T: Send> Holds<T> {
        async fn get(self) -> T {
            self.0
        }
    }
    macro_rules! hold {
        ($value:expr) => {
            Holds($value)
        };
    }
    let held = hold!(echo).get::<>().await;
    drop::<TcpListener>(held);
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
