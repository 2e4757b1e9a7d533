//! The same service by this crate and by ecdysis: it answers a request on each connection with its process ID.

use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;

use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures_util::StreamExt;
use tableflip::net::TcpListener;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use crate::Result;
use crate::flavor::Flavor;
use crate::service::{BACKLOG, service};

pub(crate) fn tableflip(address: &str) -> Result<ExitCode> {
    Ok(service(Flavor::MultiThread).listen("http", address).run(|start| {
        let listener: TcpListener = start.listener("http")?;
        Ok(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                answer(stream).await;
            }
        })
    }))
}

pub(crate) fn ecdysis(address: &str) -> Result<ExitCode> {
    let address: SocketAddr = address.parse()?;
    Flavor::MultiThread.runtime()?.block_on(async {
        let builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
        let listener = builder.build_listen_tcp(StopOnShutdown::Yes, address, |socket, address| {
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG as i32)?;
            Ok(socket.into())
        })?;
        let server = tokio::spawn(async move {
            let mut listener = pin!(listener);
            while let Some(Ok(stream)) = listener.next().await {
                answer(stream).await;
            }
        });
        let (_ecdysis, finished) = builder.ready()?;
        finished.await.map_err(|error| error.to_string())?;
        server.await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// One after the other, and so none is left when the listener ends.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|length| length > "\r\n".len()) {
        line.clear();
    }
    let answer = format!("HTTP/1.0 200 OK\r\n\r\n{}", std::process::id());
    // A client that is gone wants no answer.
    match stream.write_all(answer.as_bytes()).await {
        Ok(()) | Err(_) => {}
    }
}
