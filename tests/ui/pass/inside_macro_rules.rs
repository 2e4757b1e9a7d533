macro_rules! service {
    ($name:ident, $listener:ident: $ty:ty = $address:literal, $pidfile:expr, $drain:literal, $returned:ty, $body:block) => {
        #[tableflip::main(listen = [$listener = $address], pidfile = $pidfile, drain_timeout = $drain)]
        async fn $name($listener: $ty, shutdown: tableflip::Shutdown) -> $returned {
            drop(shutdown);
            $body
        }
    };
}

service!(service, echo: tableflip::net::TcpListener = "tcp://127.0.0.1:7000", "/run/a.pid", "1s", (), {});

macro_rules! whole {
    ($item:item) => {
        #[tableflip::main(listen = ["unix:///run/other.sock"])]
        $item
    };
}

whole! {
    /// Serves.
    async fn other(admin: tableflip::net::UnixListener) {
        drop(admin);
    }
}

macro_rules! body {
    ($ty:ty, $harness:ty, $block:block) => {
        #[tableflip::main(listen = ["tcp://127.0.0.1:7000"])]
        fn third(_listener: $ty, _ready: $harness) $block
    };
}

body!(std::os::fd::OwnedFd, tableflip::Ready, {});

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        other();
        third();
    }
}
