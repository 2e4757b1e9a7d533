//! actix-web, whose server accepts and closes by itself.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use actix_web::dev::Service as _;
use actix_web::http::ConnectionType;
use actix_web::{App, HttpServer, Responder};
use tableflip::{Ready, Service, Shutdown, Upgrader};

use super::HELLO;
use crate::service::{ANY_PORT, announce};

#[actix_web::get("/")]
async fn hello() -> impl Responder {
    HELLO
}

pub(super) async fn plain(listener: tokio::net::TcpListener) -> io::Result<()> {
    HttpServer::new(|| App::new().service(hello)).listen(listener.into_std()?)?.run().await
}

pub(super) fn managed(service: Service) -> ExitCode {
    service.listen("http", ANY_PORT).run(|start| {
        let upgrader: Upgrader = start.harness()?;
        let ready: Ready = start.harness()?;
        let shutdown: Shutdown = start.harness()?;
        let listener: std::net::TcpListener = start.listener("http")?;
        Ok(async move {
            announce(listener.local_addr()?, &upgrader);
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
            let server = HttpServer::new(app).listen(listener)?.disable_signals().run();
            let handle = server.handle();
            let grace = Duration::from_secs(5).min(shutdown.drain_timeout() / 2);
            tokio::spawn(async move {
                shutdown.await;
                handle.pause().await;
                tokio::time::sleep(grace).await;
                handle.stop(true).await;
            });
            ready.notify();
            server.await
        })
    })
}
