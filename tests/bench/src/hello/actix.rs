//! actix-web, whose server accepts and closes by itself.

use std::io;
use std::process::ExitCode;

use actix_web::{App, HttpServer};
use tableflip::{Ready, Service, Shutdown, Upgrader};

use crate::service::{ANY_PORT, announce};

#[allow(dead_code, reason = "its own main")]
#[path = "../../../../examples/actix/src/main.rs"]
mod example;

pub(super) async fn plain(listener: tokio::net::TcpListener) -> io::Result<()> {
    HttpServer::new(|| App::new().service(example::hello)).listen(listener.into_std()?)?.run().await
}

pub(super) fn managed(service: Service) -> ExitCode {
    service.listen("http", ANY_PORT).run(|start| {
        let upgrader: Upgrader = start.handle()?;
        let ready: Ready = start.handle()?;
        let shutdown: Shutdown = start.handle()?;
        let listener: std::net::TcpListener = start.listener("http")?;
        Ok(async move {
            announce(listener.local_addr()?, &upgrader);
            example::serve(listener, ready, shutdown).await
        })
    })
}
