use tableflip::{Ready, Shutdown, Upgrader};

#[tableflip::main]
fn service(shutdown: Shutdown, ready: Ready, upgrader: Upgrader) {
    drop((shutdown, ready, upgrader));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
