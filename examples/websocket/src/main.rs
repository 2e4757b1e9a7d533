//! WebSockets that go on over an upgrade, each with its count of messages: the client notices nothing.
//!
//! Run it with `cargo run -p websocket`, and replace it with `kill -HUP $(cat websocket.pid)`. It echoes every message, and answers
//! `count` with the number of messages of the connection. A socket that cannot move gets a Close of code 1012, Service Restart, and
//! its client connects again.
//!
//! A release that changes the state changes the kind, here `echo/1`. A state that is none is refused: `go_on` drops the offer, and the
//! predecessor sends the Close. A client that breaks off ends only its own connection.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tableflip::net::{Offer, TcpListener, TcpStream};
use tableflip::websocket::{self, Socket};
use tableflip::{Session, Shutdown};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};

#[tableflip::main(pidfile = "websocket.pid", listen = [ws = "tcp://127.0.0.1:9001"])]
async fn main(ws: TcpListener, mut shutdown: Shutdown) -> io::Result<()> {
    let mut resumed = ws.resumed(["echo/1"]);
    loop {
        tokio::select! {
            accepted = ws.accept() => drop(tokio::spawn(converse(accepted?.0, shutdown.clone()))),
            offer = resumed.next() => drop(tokio::spawn(go_on(offer, shutdown.clone()))),
            () = &mut shutdown => return Ok(()), // The drain waits for the sockets.
        }
    }
}

pub(crate) async fn converse(stream: TcpStream, shutdown: Shutdown) -> Result<(), Error> {
    let accepted = timeout(patience(&shutdown), websocket::accept(stream)).await;
    echo(accepted.map_err(io::Error::from)??, 0, shutdown).await
}

async fn go_on(offer: Offer<TcpStream>, shutdown: Shutdown) -> Result<(), Error> {
    let count = u64::from_le_bytes(offer.state().try_into().map_err(io::Error::other)?);
    echo(websocket::resume(offer.take().await?, None).await, count, shutdown).await
}

async fn echo(mut socket: Socket<TcpStream>, mut count: u64, mut shutdown: Shutdown) -> Result<(), Error> {
    while let Some(message) =
        tokio::select! { it = socket.next() => it, () = &mut shutdown => None }.transpose()?
    {
        if let message @ (Message::Text(_) | Message::Binary(_)) = message {
            count += 1;
            let asks = matches!(&message, Message::Text(text) if text.as_str() == "count");
            socket.send(if asks { count.to_string().into() } else { message }).await?;
        }
    }
    let session = Session::new("echo/1").state(count.to_le_bytes());
    let Err(mut socket) = websocket::hand_over(socket, session).await else { return Ok(()) };
    let farewell = async {
        let reason = "upgrade: connect again".into();
        socket.close(Some(CloseFrame { code: CloseCode::Restart, reason })).await?;
        while socket.next().await.transpose()?.is_some() {} // Sent before the client read the Close.
        Ok(())
    };
    timeout(patience(&shutdown), farewell).await.map_err(io::Error::from)?
}

fn patience(shutdown: &Shutdown) -> Duration {
    (shutdown.drain_timeout() / 2).min(Duration::from_secs(5))
}
