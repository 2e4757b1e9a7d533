use tableflip::net::TcpListener;

fn main() -> std::process::ExitCode {
    serve(7000)
}

#[tableflip::main(listen = [http = ([127, 0, 0, 1], port)])]
async fn serve(port: u16, htp: TcpListener) {
    drop((port, htp));
}
