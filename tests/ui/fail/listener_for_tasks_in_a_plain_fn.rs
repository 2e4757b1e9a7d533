//! D11: a type of `net` in a plain `fn`, which runs without tokio.
use tableflip::net::{TcpListener, UnixListener};

#[tableflip::main(listen = [http = "localhost:80", admin = "/run/admin.sock"])]
fn main(http: tableflip::blocking::TcpListener, admin: UnixListener) {
    let _: Option<TcpListener> = None;
    drop((http, admin));
}
