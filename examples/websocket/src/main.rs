//! WebSockets that go on over an upgrade, each with its session: the client notices nothing.
//!
//! Run it with `cargo run -p websocket`, and replace it with `kill -HUP $(cat websocket.pid)`. It echoes every message, and answers
//! `count` with the number of messages of the connection. A socket that cannot move gets a Close of code 1012, Service Restart, and
//! its client connects again.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tableflip::net::{Offer, TcpListener, TcpStream};
use tableflip::websocket::{self, Socket};
use tableflip::{Shutdown, State};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};

/// The time limit for a client's handshake, and for its answer to the Close.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the service knows of a connection. A release that changes it in a way that serde does not bridge changes the kind.
#[derive(Default, Deserialize, Serialize)]
struct Session {
    messages: u64,
}

impl State for Session {
    const KIND: &str = "echo/1";
}

#[tableflip::main(pidfile = "websocket.pid", listen = [ws = "tcp://127.0.0.1:9001"])]
async fn main(ws: TcpListener, mut shutdown: Shutdown) -> io::Result<()> {
    let mut resumed = ws.resumed([Session::KIND]);
    loop {
        // A client that breaks off ends its own connection.
        tokio::select! {
            accepted = ws.accept() => {
                let ((stream, _peer), shutdown) = (accepted?, shutdown.clone());
                tokio::spawn(async move { converse(stream, shutdown).await.unwrap_or_default() });
            }
            offer = resumed.next() => {
                let shutdown = shutdown.clone();
                tokio::spawn(async move { go_on(offer, shutdown).await.unwrap_or_default() });
            }
            // The drain waits for the connections of the listener even then.
            () = &mut shutdown => return Ok(()),
        }
    }
}

fn patience(shutdown: &Shutdown) -> Duration {
    PATIENCE.min(shutdown.drain_timeout() / 2)
}

pub(crate) async fn converse(stream: TcpStream, shutdown: Shutdown) -> Result<(), Error> {
    let accepted = timeout(patience(&shutdown), websocket::accept(stream)).await;
    echo(accepted.map_err(io::Error::from)??, Session::default(), shutdown).await
}

/// A socket that comes from the predecessor.
async fn go_on(offer: Offer<TcpStream>, shutdown: Shutdown) -> Result<(), Error> {
    // An offer that is dropped is refused, and the predecessor sends the Close.
    let session = offer.decode().map_err(io::Error::other)?;
    let socket = websocket::resume(offer.take().await?, None).await;
    echo(socket, session, shutdown).await
}

async fn echo(
    mut socket: Socket<TcpStream>,
    mut session: Session,
    mut shutdown: Shutdown,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            message = socket.next() => match message.transpose()? {
                Some(message @ (Message::Text(_) | Message::Binary(_))) => {
                    session.messages += 1;
                    let is_count = matches!(&message, Message::Text(text) if text.as_str() == "count");
                    socket.send(if is_count { session.messages.to_string().into() } else { message }).await?;
                }
                // The library answers Ping and Close.
                Some(_) => {}
                None => return Ok(()),
            },
            () = &mut shutdown => break,
        }
    }
    let patience = patience(&shutdown);
    let session = tableflip::Session::of(&session).map_err(io::Error::other)?;
    let Err(mut socket) = websocket::hand_over(socket, session).await else { return Ok(()) };
    let reason = "upgrade: connect again".into();
    let farewell = async {
        socket.close(Some(CloseFrame { code: CloseCode::Restart, reason })).await?;
        // The client sent these messages before it read the notice.
        while socket.next().await.transpose()?.is_some() {}
        Ok(())
    };
    timeout(patience, farewell).await.map_err(io::Error::from)?
}
