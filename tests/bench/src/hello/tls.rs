//! HTTPS, with `cert.pem` and `key.pem` of the working directory.

use std::process::ExitCode;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tableflip::http::{serve, with_handshake};
use tableflip::net::TcpListener;
use tableflip::{Service, Upgrader};

use super::web::router;
use crate::Result;
use crate::service::{ANY_PORT, announce};

#[allow(dead_code, reason = "its own main")]
#[path = "../../../../examples/tls/src/main.rs"]
mod example;

pub(super) async fn plain(listener: tokio::net::TcpListener) -> Result<()> {
    let (tls, app) = (example::tls()?, router());
    loop {
        let (stream, _peer) = listener.accept().await?;
        let (tls, app) = (tls.clone(), TowerToHyperService::new(app.clone()));
        tokio::spawn(async move {
            // A client that breaks off is no news here.
            let Ok(stream) = tls.accept(stream).await else { return };
            http1::Builder::new().serve_connection(TokioIo::new(stream), app).await.unwrap_or_default();
        });
    }
}

pub(super) fn managed(service: Service) -> ExitCode {
    service.listen("https", ANY_PORT).run(|start| {
        let upgrader: Upgrader = start.handle()?;
        let listener: TcpListener = start.listener("https")?;
        Ok(async move {
            announce(listener.local_addr()?, &upgrader);
            let tls = example::tls()?;
            let handshake = move |stream| tls.accept(stream);
            let listener = with_handshake(listener, handshake, |stream| stream.get_ref().1.alpn_protocol());
            Result::Ok(serve(listener, router()).await?)
        })
    })
}
