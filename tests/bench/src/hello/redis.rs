//! The Redis protocol over TCP.

use std::io;
use std::process::ExitCode;

use tableflip::net::TcpListener;
use tableflip::{Service, Upgrader};

use crate::service::{ANY_PORT, Accept, announce};

#[allow(dead_code, reason = "its own main")]
#[path = "../../../../examples/redis/src/main.rs"]
mod example;

/// On either side.
pub(super) async fn serve(listener: impl Accept) -> io::Result<()> {
    loop {
        tokio::spawn(example::converse(listener.accept().await?));
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
