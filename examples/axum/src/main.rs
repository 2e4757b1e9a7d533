//! An axum application: HTTP/1.1 and HTTP/2 on one port, and no request is lost at an upgrade.
//!
//! Run it with `cargo run -p axum-hello`, ask it with `curl http://127.0.0.1:8080/`, and replace it with
//! `kill -HUP $(cat axum-hello.pid)`.

use std::io;

use axum::{Router, routing::get};
use tableflip::net::TcpListener;

#[tableflip::main(pidfile = "axum-hello.pid", listen = [http = "tcp://127.0.0.1:8080"])]
async fn main(http: TcpListener) -> io::Result<()> {
    let app = Router::new().route("/", get(|| async { "Hello, World!" }));
    tableflip::http::serve(http, app).await
}
