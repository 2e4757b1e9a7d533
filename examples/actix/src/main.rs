//! An actix-web application. Its server accepts and closes by itself, so this example does what `tableflip::http::serve` does
//! for the others. Once the successor is past its probation, the server accepts no more connections. Each answer then has
//! `Connection: close`, and idle connections end after a grace period.
//!
//! Run it with `cargo run -p actix-hello`, ask it with `curl http://127.0.0.1:8080/`, and replace it with
//! `kill -HUP $(cat actix-hello.pid)`.

use std::{io, net::TcpListener, time::Duration};

use actix_web::{App, HttpServer, Responder, dev::Service, get, http::ConnectionType};
use tableflip::{Ready, Shutdown};

const GRACE: Duration = Duration::from_secs(5);

#[get("/")]
pub(crate) async fn hello() -> impl Responder {
    "Hello, World!"
}

pub(crate) async fn serve(http: TcpListener, ready: Ready, shutdown: Shutdown) -> io::Result<()> {
    let drain = shutdown.clone();
    let app = move || {
        let drain = drain.clone();
        App::new().service(hello).wrap_fn(move |request, service| {
            let (answer, drain) = (service.call(request), drain.clone());
            async move {
                let mut answer = answer.await?;
                if drain.is_raised() {
                    answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
                }
                Ok(answer)
            }
        })
    };
    let server = HttpServer::new(app).listen(http)?.disable_signals().run();
    let handle = server.handle();
    let grace = GRACE.min(shutdown.drain_timeout() / 2);
    tokio::spawn(async move {
        shutdown.await;
        handle.pause().await;
        tokio::time::sleep(grace).await;
        handle.stop(true).await;
    });
    ready.notify();
    server.await
}

#[tableflip::main(pidfile = "actix-hello.pid", listen = [http = "tcp://127.0.0.1:8080"])]
async fn main(http: TcpListener, ready: Ready, shutdown: Shutdown) -> io::Result<()> {
    serve(http, ready, shutdown).await
}
