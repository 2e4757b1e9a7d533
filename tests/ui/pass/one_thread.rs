#[tableflip::main(flavor = "current_thread")]
async fn service() {}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
