#[tableflip::main]
fn service() {
    if std::env::args().count() == 1001 {
        // The function that the user wrote, not the one that starts the service.
        let () = service();
    }
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
