//! actix-web over upgrades under load.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use load::{Command, Http, Service, Version};

/// It cannot see whether a connection is open, and waits for 5 s in any case.
fn command() -> Command {
    let command = Service::of(env!("CARGO_BIN_EXE_actix-hello")).listen("http", "tcp://127.0.0.1:0");
    command.grace(Duration::from_secs(5))
}

#[test]
fn no_request_is_lost() {
    let mut service = command().start();
    let http = Http::new(service.address("http"), Version::Http1);
    load::across_uncounted_upgrades(&mut service, || http.clone());
    service.stop();
}

#[test]
fn an_idle_connection_is_closed_before_a_short_deadline() {
    let mut service = command().drain_timeout("6s").start();
    let server = service.address("http");
    let mut idle = TcpStream::connect(server).expect("it accepts");
    idle.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
    assert!(idle.read(&mut [0; 512]).expect("an answer") > 0);
    service.upgrade();
    service.stop();
}
