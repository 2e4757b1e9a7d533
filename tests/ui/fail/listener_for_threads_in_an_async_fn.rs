//! D11: a type of `blocking` in an `async fn`: its accept would block a thread of the runtime.
use tableflip::blocking::TcpListener;

#[tableflip::main(listen = [http = "localhost:80"])]
async fn main(http: TcpListener) -> std::io::Result<()> {
    for stream in http.incoming() {
        drop(stream?);
    }
    Ok(())
}
