//! WebSockets over upgrades under load: every message is answered, or the notice comes in its place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt, StreamExt};
use load::Service;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

struct Client {
    server: SocketAddr,
    socket: Option<WebSocketStream<TcpStream>>,
    number: u64,
    /// How many notices came, to all clients.
    notices: Arc<AtomicU64>,
}

impl Client {
    async fn connect(&self) -> Result<WebSocketStream<TcpStream>, String> {
        let stream = TcpStream::connect(self.server).await.map_err(|error| format!("connecting: {error}"))?;
        let opened = client_async("ws://localhost/", stream).await;
        Ok(opened.map_err(|error| format!("opening: {error}"))?.0)
    }
}

impl load::Client for Client {
    async fn ask(&mut self) -> Result<(), String> {
        self.number += 1;
        let message = Message::text(self.number.to_string());
        loop {
            let mut socket = match self.socket.take() {
                Some(socket) => socket,
                None => self.connect().await?,
            };
            // What the message fails by, the next read explains better.
            let sent = socket.send(message.clone()).await;
            match socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Restart => {
                    self.notices.fetch_add(1, Ordering::Relaxed);
                    // To the end, as the closing handshake asks for.
                    while socket.next().await.is_some_and(|message| message.is_ok()) {}
                }
                Some(Ok(answer)) if answer == message => {
                    self.socket = Some(socket);
                    return Ok(());
                }
                other => return Err(format!("sent: {sent:?}, then {other:?}")),
            }
        }
    }
}

#[test]
fn every_message_is_answered_or_the_connection_gets_its_notice() {
    let mut service = Service::of(env!("CARGO_BIN_EXE_websocket")).listen("ws", "tcp://127.0.0.1:0").start();
    let (server, notices) = (service.address("ws"), Arc::new(AtomicU64::new(0)));
    let client = || Client { server, socket: None, number: 0, notices: notices.clone() };
    let run = load::across_upgrades(&mut service, client);
    let notices = notices.load(Ordering::Relaxed);
    println!("websocket: {notices} notices");
    // Those that had been idle over two upgrades got one for each connection that they had.
    assert!(notices >= u64::from(run.upgrades * load::CLIENTS / 2), "only {notices} notices");
    service.stop();
}

#[test]
fn a_client_that_says_nothing_does_not_hold_an_upgrade_to_its_deadline() {
    let command = Service::of(env!("CARGO_BIN_EXE_websocket")).listen("ws", "tcp://127.0.0.1:0");
    let mut service = command.drain_timeout("4s").start();
    let server = service.address("ws");
    // One that has not begun, and one that has, and never reads the notice.
    let _silent = std::net::TcpStream::connect(server).expect("it accepts");
    load::block_on(async {
        let client = Client { server, socket: None, number: 0, notices: Arc::default() };
        let _deaf = client.connect().await.expect("it opens");
        load::wait_until("both are accepted", || service.taken("ws") == 2);
        // The runtime has a second thread, and nothing of this connection is polled.
        service.upgrade();
    });
    service.stop();
}
