//! WebSockets over upgrades under load: every connection stays, with its session, and every message is answered.

use futures_util::StreamExt;
use load::{Service, WebSocket};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

fn command() -> load::Command {
    Service::of(env!("CARGO_BIN_EXE_websocket")).listen("ws", "tcp://127.0.0.1:0")
}

#[test]
fn every_connection_goes_on_in_each_successor() {
    let mut service = command().start();
    let client = WebSocket::new(service.address("ws"));
    load::across_upgrades(&mut service, || client.clone());
    assert_eq!((client.notices(), client.all_connections()), (0, load::CLIENTS.into()));
    service.stop();
}

#[test]
fn a_client_that_says_nothing_does_not_hold_an_upgrade_to_its_deadline() {
    let mut service = command().drain_timeout("4s").start();
    let server = service.address("ws");
    // One that has not begun, and one that has, and reads nothing.
    let silent = std::net::TcpStream::connect(server).expect("it accepts");
    load::block_on(async {
        let _deaf = WebSocket::new(server).connect().await.expect("it opens");
        load::wait_until("both are accepted", || service.taken("ws") == 2);
        // The runtime has a second thread, and nothing of this connection is polled.
        service.upgrade();
    });
    drop(silent);
    service.stop();
}

/// A stop is no upgrade.
#[test]
fn a_stop_tells_each_client_to_connect_again() {
    let mut service = command().start();
    let client = WebSocket::new(service.address("ws"));
    load::block_on(async {
        let mut socket = client.connect().await.expect("it opens");
        let stop = tokio::task::spawn_blocking(move || service.stop_with_what_is_open());
        let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else { panic!("no Close") };
        assert_eq!(frame.code, CloseCode::Restart);
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        stop.await.expect("it ends at once");
    });
}
