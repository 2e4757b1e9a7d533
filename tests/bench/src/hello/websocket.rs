//! WebSockets that echo.

use std::io;
use std::process::ExitCode;

use futures_util::{SinkExt, StreamExt};
use tableflip::net::TcpListener;
use tableflip::{Service, Shutdown, Upgrader};
use tokio::net::TcpStream;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::service::{ANY_PORT, announce};

#[allow(dead_code, reason = "its own main")]
#[path = "../../../../examples/websocket/src/main.rs"]
mod example;

pub(super) async fn plain(listener: tokio::net::TcpListener) -> io::Result<()> {
    loop {
        let (stream, _peer) = listener.accept().await?;
        tokio::spawn(async move { converse(stream).await.unwrap_or_default() });
    }
}

async fn converse(stream: TcpStream) -> Result<(), Error> {
    let mut socket = accept_async(stream).await?;
    while let Some(message) = socket.next().await.transpose()? {
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            socket.send(message).await?;
        }
    }
    Ok(())
}

pub(super) fn managed(service: Service) -> ExitCode {
    service.listen("ws", ANY_PORT).run(|start| {
        let upgrader: Upgrader = start.handle()?;
        let mut shutdown: Shutdown = start.handle()?;
        let listener: TcpListener = start.listener("ws")?;
        Ok(async move {
            announce(listener.local_addr()?, &upgrader);
            loop {
                let (stream, _peer) = tokio::select! {
                    accepted = listener.accept() => accepted?,
                    () = &mut shutdown => return io::Result::Ok(()),
                };
                let shutdown = shutdown.clone();
                tokio::spawn(async move { example::converse(stream, shutdown).await.unwrap_or_default() });
            }
        })
    })
}
