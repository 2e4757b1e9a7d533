#[tableflip::main]
async fn service() -> ! {
    loop {
        std::future::pending::<()>().await;
    }
}

#[tableflip::main]
async fn panics() -> ! {
    panic!();
}

#[tableflip::main]
fn parks() -> ! {
    loop {
        std::thread::park();
    }
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        panics();
        parks();
    }
}
