//! A client of WebSocket, which connects again after the notice of a restart.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::Client;
use crate::loss::{bad, lost};

/// A client that is sent back what it sends, or a Close of code 1012, Service Restart. Every third message it sends in fragments with
/// a Ping between them, and instead of every third one it asks how many messages of its connection were read. A clone has no
/// connection yet.
#[derive(Debug)]
pub struct WebSocket {
    server: SocketAddr,
    socket: Option<WebSocketStream<TcpStream>>,
    number: u64,
    /// The messages of this connection.
    sent: u64,
    connections: u32,
    all: Arc<Counts>,
}

/// What a client and all its clones have seen.
#[derive(Debug, Default)]
struct Counts {
    notices: AtomicU64,
    connections: AtomicU64,
}

impl Clone for WebSocket {
    fn clone(&self) -> Self {
        Self { all: self.all.clone(), ..Self::new(self.server) }
    }
}

impl WebSocket {
    /// A client of this server.
    pub fn new(server: SocketAddr) -> Self {
        Self { server, socket: None, number: 0, sent: 0, connections: 0, all: Arc::default() }
    }

    /// How many notices came, to it and all its clones.
    pub fn notices(&self) -> u64 {
        self.all.notices.load(Ordering::Relaxed)
    }

    /// How many connections it and all its clones have opened.
    pub fn all_connections(&self) -> u64 {
        self.all.connections.load(Ordering::Relaxed)
    }

    /// A connection that is opened.
    pub async fn connect(&self) -> io::Result<WebSocketStream<TcpStream>> {
        let stream = TcpStream::connect(self.server).await.map_err(lost("connecting"))?;
        Ok(client_async("ws://localhost/", stream).await.map_err(lost("opening"))?.0)
    }

    /// What it sends next, and what the server sends then.
    fn exchange(&self) -> (Vec<Message>, Vec<Message>) {
        let text = self.number.to_string();
        match self.number % 3 {
            0 => (vec![Message::text("count")], vec![Message::text(self.sent.to_string())]),
            1 => {
                let fragment = |is_last, opcode, text: &str| {
                    Message::Frame(Frame::message(text.to_owned(), OpCode::Data(opcode), is_last))
                };
                let (first, last) = text.split_at(text.len() / 2);
                let ping = Message::Ping(text.clone().into());
                let messages =
                    vec![fragment(false, Data::Text, first), ping, fragment(true, Data::Continue, last)];
                (messages, vec![Message::Pong(text.clone().into()), Message::text(text)])
            }
            _ => (vec![Message::text(text.clone())], vec![Message::text(text)]),
        }
    }
}

/// Whether the answers have come. `false` if the notice has come in the place of one.
async fn is_answered(
    socket: &mut WebSocketStream<TcpStream>,
    messages: Vec<Message>,
    answers: Vec<Message>,
) -> io::Result<bool> {
    let mut sent = Ok(());
    for message in messages {
        // Each is written for itself. What it fails by, the next read explains better.
        if sent.is_ok() {
            sent = socket.send(message).await;
        }
    }
    for expected in answers {
        match socket.next().await.unwrap_or(Err(Error::ConnectionClosed)) {
            Ok(Message::Close(Some(frame))) if frame.code == CloseCode::Restart => return Ok(false),
            Ok(answer) if answer == expected => {}
            Ok(other) => return Err(bad(format!("sent: {sent:?}, expected {expected:?}, then {other:?}"))),
            Err(error) => return Err(lost(format!("sent: {sent:?}, then"))(error)),
        }
    }
    Ok(true)
}

impl Client for WebSocket {
    async fn ask(&mut self) -> io::Result<()> {
        self.number += 1;
        loop {
            let mut socket = match self.socket.take() {
                Some(socket) => socket,
                None => {
                    self.connections += 1;
                    self.sent = 0;
                    self.all.connections.fetch_add(1, Ordering::Relaxed);
                    self.connect().await?
                }
            };
            self.sent += 1;
            let (messages, answers) = self.exchange();
            if is_answered(&mut socket, messages, answers).await? {
                self.socket = Some(socket);
                return Ok(());
            }
            self.all.notices.fetch_add(1, Ordering::Relaxed);
            // To the end, as the closing handshake asks for.
            while socket.next().await.is_some_and(|message| message.is_ok()) {}
        }
    }

    fn connections(&self) -> u32 {
        self.connections
    }
}
