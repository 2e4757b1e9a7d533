use tableflip::net::TcpListener;

struct Settings {
    port: u16,
}

impl Settings {
    fn load() -> Self {
        Self { port: 7000 }
    }
}

#[tableflip::main(config = Settings::load(), listen = [http = "tcp://127.0.0.1:7000"])]
async fn main(settings: Settings, http: TcpListener) {
    drop((settings.port, http));
}
