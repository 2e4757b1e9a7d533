//! hyper's `service_fn`: HTTP/1.1 and HTTP/2 on one port, and no request is lost at an upgrade.
//!
//! Run it with `cargo run -p hyper-hello`, ask it with `curl http://127.0.0.1:8080/`, and replace it with
//! `kill -HUP $(cat hyper-hello.pid)`.

use std::convert::Infallible;
use std::io;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, service::service_fn};
use tableflip::net::TcpListener;

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("Hello, World!")))
}

#[tableflip::main(pidfile = "hyper-hello.pid", listen = [http = "tcp://127.0.0.1:8080"])]
async fn main(http: TcpListener) -> io::Result<()> {
    tableflip::http::serve(http, service_fn(hello)).await
}
