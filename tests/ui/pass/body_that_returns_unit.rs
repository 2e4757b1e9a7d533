#[tableflip::main]
async fn service() {}

#[tableflip::main]
fn explicitly() -> () {}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        explicitly();
    }
}
