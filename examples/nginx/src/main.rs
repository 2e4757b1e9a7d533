//! A service behind nginx as its reverse proxy, over a Unix socket and kept connections; `nginx.conf` is the other half. nginx
//! needs no notice of an upgrade: a connection ends with `Connection: close`, and the next connection reaches the successor.
//!
//! The socket is for nginx alone. It has mode 660, and its directory gives it the group of nginx, `www-data` or `nginx`. Make
//! the directory with `sudo install -d -m 2750 -o $USER -g www-data /run/behind-nginx`. Under systemd the unit has
//! `RuntimeDirectory=behind-nginx`, `RuntimeDirectoryMode=2750` and `Group=www-data` instead.
//!
//! Run it with `cargo run -p behind-nginx`, nginx with `nginx -c $PWD/examples/nginx/nginx.conf`, ask it with
//! `curl http://127.0.0.1:8088/`, and replace it with `kill -HUP $(cat behind-nginx.pid)`.

use std::io;

use axum::{Router, routing::get};
use tableflip::net::UnixListener;

#[tableflip::main(pidfile = "behind-nginx.pid", listen = [http = "/run/behind-nginx/http.sock?mode=660"])]
async fn main(http: UnixListener) -> io::Result<()> {
    let app = Router::new().route("/", get(|| async { "Hello, World!" }));
    tableflip::http::serve(http, app).await
}
