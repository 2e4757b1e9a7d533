struct Starter;

impl Starter {
    #[tableflip::main]
    async fn start() {}
}

fn service() {
    #[tableflip::main]
    async fn nested() {}
    nested();
    Starter::start();
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
