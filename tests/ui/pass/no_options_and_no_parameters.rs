#[tableflip::main]
async fn service() {}

#[tableflip::main()]
fn other() {}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        other();
    }
}
