//! A client of WebSocket, which connects again after the notice of a restart.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::Client;
use crate::loss::{bad, lost};

/// A client that is sent back what it sends, or a Close of code 1012, Service Restart. A clone has no connection yet.
#[derive(Debug)]
pub struct WebSocket {
    server: SocketAddr,
    socket: Option<WebSocketStream<TcpStream>>,
    number: u64,
    connections: u32,
    notices: Arc<AtomicU64>,
}

impl Clone for WebSocket {
    fn clone(&self) -> Self {
        Self { notices: self.notices.clone(), ..Self::new(self.server) }
    }
}

impl WebSocket {
    /// A client of this server.
    pub fn new(server: SocketAddr) -> Self {
        Self { server, socket: None, number: 0, connections: 0, notices: Arc::default() }
    }

    /// How many notices came, to it and all its clones.
    pub fn notices(&self) -> u64 {
        self.notices.load(Ordering::Relaxed)
    }

    /// A connection that is opened.
    pub async fn connect(&self) -> io::Result<WebSocketStream<TcpStream>> {
        let stream = TcpStream::connect(self.server).await.map_err(lost("connecting"))?;
        Ok(client_async("ws://localhost/", stream).await.map_err(lost("opening"))?.0)
    }
}

impl Client for WebSocket {
    async fn ask(&mut self) -> io::Result<()> {
        self.number += 1;
        let message = Message::text(self.number.to_string());
        loop {
            let mut socket = match self.socket.take() {
                Some(socket) => socket,
                None => {
                    self.connections += 1;
                    self.connect().await?
                }
            };
            // What the message fails by, the next read explains better.
            let sent = socket.send(message.clone()).await;
            match socket.next().await.unwrap_or(Err(Error::ConnectionClosed)) {
                Ok(Message::Close(Some(frame))) if frame.code == CloseCode::Restart => {
                    self.notices.fetch_add(1, Ordering::Relaxed);
                    // To the end, as the closing handshake asks for.
                    while socket.next().await.is_some_and(|message| message.is_ok()) {}
                }
                Ok(answer) if answer == message => {
                    self.socket = Some(socket);
                    return Ok(());
                }
                Ok(other) => return Err(bad(format!("sent: {sent:?}, then {other:?}"))),
                Err(error) => return Err(lost(format!("sent: {sent:?}, then"))(error)),
            }
        }
    }

    fn connections(&self) -> u32 {
        self.connections
    }
}
