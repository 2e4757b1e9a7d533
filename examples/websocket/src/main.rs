//! WebSockets with a notice of an upgrade: each gets a Close of code 1012, Service Restart, and comes back to the successor.
//!
//! Run it with `cargo run -p websocket`, and replace it with `kill -HUP $(cat websocket.pid)`. It echoes every message.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tableflip::{Shutdown, net::TcpListener, net::TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};

/// The time limit for a client's handshake, and for its answer to the Close.
const PATIENCE: Duration = Duration::from_secs(5);

#[tableflip::main(pidfile = "websocket.pid", listen = [ws = "tcp://127.0.0.1:9001"])]
async fn main(ws: TcpListener, mut shutdown: Shutdown) -> io::Result<()> {
    loop {
        let (stream, _peer) = tokio::select! {
            accepted = ws.accept() => accepted?,
            // The drain waits for the connections of the listener even then.
            () = &mut shutdown => return Ok(()),
        };
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            // A client that breaks off ends its own connection.
            converse(stream, shutdown).await.unwrap_or_default();
        });
    }
}

pub(crate) async fn converse(stream: TcpStream, mut shutdown: Shutdown) -> Result<(), Error> {
    let patience = PATIENCE.min(shutdown.drain_timeout() / 2);
    let mut socket = timeout(patience, accept_async(stream)).await.map_err(io::Error::from)??;
    loop {
        tokio::select! {
            message = socket.next() => match message.transpose()? {
                Some(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message).await?,
                // The library answers Ping and Close.
                Some(_) => {}
                None => return Ok(()),
            },
            () = &mut shutdown => break,
        }
    }
    let reason = "upgrade: connect again".into();
    let farewell = async {
        socket.close(Some(CloseFrame { code: CloseCode::Restart, reason })).await?;
        // The client sent these messages before it read the notice.
        while socket.next().await.transpose()?.is_some() {}
        Ok(())
    };
    timeout(patience, farewell).await.map_err(io::Error::from)?
}
