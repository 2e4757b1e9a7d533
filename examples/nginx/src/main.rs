//! A service behind nginx as its reverse proxy, over a Unix socket and kept connections; `nginx.conf` is the other half. nginx
//! is told of nothing: a connection ends with `Connection: close`, and the next one is the new process's.
//!
//! Run it with `cargo run -p behind-nginx`, nginx with `nginx -c $PWD/examples/nginx/nginx.conf`, ask it with
//! `curl http://127.0.0.1:8088/`, and replace it with `kill -HUP $(cat behind-nginx.pid)`.

use std::io;

use axum::{Router, routing::get};
use tableflip::net::UnixListener;

#[tableflip::main(pidfile = "behind-nginx.pid", listen = [http = "/tmp/behind-nginx.sock?mode=666"])]
async fn main(http: UnixListener) -> io::Result<()> {
    let app = Router::new().route("/", get(|| async { "Hello, World!" }));
    tableflip::http::serve(http, app).await
}
