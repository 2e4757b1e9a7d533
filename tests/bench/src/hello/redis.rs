//! The Redis protocol over TCP.

use std::io;
use std::process::ExitCode;

use tableflip::net::TcpListener;
use tableflip::{Service, Upgrader};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::service::{ANY_PORT, Accept, announce};

#[path = "../../../../examples/redis/src/resp.rs"]
mod resp;

/// On either side.
pub(super) async fn serve(listener: impl Accept) -> io::Result<()> {
    loop {
        tokio::spawn(converse(listener.accept().await?));
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        let mut replies = String::new();
        resp::answer(&mut received, &mut replies)?;
        stream.write_all(replies.as_bytes()).await?;
        received.reserve(8 << 10);
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
}

pub(super) fn managed(service: Service) -> ExitCode {
    service.listen("tcp", ANY_PORT).run(|start| {
        let upgrader: Upgrader = start.handle()?;
        let listener: TcpListener = start.listener("tcp")?;
        Ok(async move {
            announce(listener.local_addr()?, &upgrader);
            serve(listener).await
        })
    })
}
