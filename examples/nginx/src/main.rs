//! A service behind nginx as its reverse proxy, over a Unix socket and kept connections; `nginx.conf` is the other half. nginx
//! is told of nothing: a connection ends with `Connection: close`, and the next one is the new process's.
//!
//! The socket is for nginx alone: what is put into its directory belongs to the group that nginx is in, `www-data` or `nginx`,
//! and has mode 660. `sudo install -d -m 2750 -o $USER -g www-data /run/behind-nginx` makes it so, or under systemd the service's
//! `RuntimeDirectory=behind-nginx`, `RuntimeDirectoryMode=2750` and `Group=www-data`.
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
