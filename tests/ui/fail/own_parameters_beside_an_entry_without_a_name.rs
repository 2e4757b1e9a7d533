use tableflip::net::TcpListener;

fn main() -> std::process::ExitCode {
    serve(7000)
}

#[tableflip::main(listen = ["tcp://127.0.0.1:7000"])]
async fn serve(port: u16, http: TcpListener) {
    drop((port, http));
}
