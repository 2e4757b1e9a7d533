fn pair<A: Default, B>(_: B) -> A {
    A::default()
}

#[tableflip::main(pidfile = pair::<String, u8>(1), drain_timeout = "1s")]
async fn service() {}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
    }
}
