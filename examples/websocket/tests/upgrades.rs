//! WebSockets over upgrades under load: every message is answered, or the notice comes in its place.

use load::{Service, WebSocket};

#[test]
fn every_message_is_answered_or_the_connection_gets_its_notice() {
    let mut service = Service::of(env!("CARGO_BIN_EXE_websocket")).listen("ws", "tcp://127.0.0.1:0").start();
    let client = WebSocket::new(service.address("ws"));
    let run = load::across_upgrades(&mut service, || client.clone());
    let notices = client.notices();
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
