use tableflip::net::TcpListener;

struct Settings;

#[tableflip::main(listen = [http = "tcp://127.0.0.1:7000"])]
async fn main(settings: Settings, http: TcpListener) {
    drop((settings, http));
}
