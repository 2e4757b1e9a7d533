use tableflip::blocking::TcpListener;

#[tableflip::main(listen = [http = "tcp://127.0.0.1:7000"], probe = "htpp GET /healthz")]
fn main(http: TcpListener) {
    drop(http);
}
