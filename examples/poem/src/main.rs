//! A poem application: HTTP/1.1 and HTTP/2 on one port, and no request is lost at an upgrade.
//!
//! poem's own server closes idle connections at the drain, so `tableflip::http::serve` serves its endpoint here. Run it
//! with `cargo run -p poem-hello`, ask it with `curl http://127.0.0.1:8080/`, and replace it with
//! `kill -HUP $(cat poem-hello.pid)`.

use std::{convert::Infallible, io, sync::Arc};

use hyper::{Request, Response, body::Incoming, http::uri::Scheme, service::service_fn};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Endpoint, Route, get, handler};
use tableflip::net::TcpListener;

#[handler]
fn hello() -> &'static str {
    "Hello, World!"
}

#[tableflip::main(pidfile = "poem-hello.pid", listen = [http = "tcp://127.0.0.1:8080"])]
async fn main(http: TcpListener) -> io::Result<()> {
    let app = Arc::new(Route::new().at("/", get(hello)));
    let serve = move |request: Request<Incoming>| {
        let app = app.clone();
        let request = (request, LocalAddr::default(), RemoteAddr::default(), Scheme::HTTP).into();
        async move { Ok::<_, Infallible>(Response::from(app.get_response(request).await)) }
    };
    tableflip::http::serve(http, service_fn(serve)).await
}
