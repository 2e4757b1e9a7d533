//! Two listeners over upgrades under load, with and without the second one.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use load::{Command, Service, Version};

fn command() -> Command {
    Service::of(env!("CARGO_BIN_EXE_admin-hello")).listen("http", "tcp://127.0.0.1:0")
}

/// The head and the body of an answer.
fn ask(address: SocketAddr, method: &str, path: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(load::DEADLINE))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    Ok((head.to_owned(), body.to_owned()))
}

#[test]
fn no_request_is_lost_without_an_admin_listener() {
    let service = command().start();
    assert_eq!(service.status()["listeners"].as_array().map(Vec::len), Some(1));
    load::http_across_upgrades(service, Version::Http1);
}

#[test]
fn no_request_is_lost_while_the_service_is_upgraded_by_its_admin_listener() {
    let mut service = command().env("ADMIN", "127.0.0.1:0").start();
    let client = load::Http::new(service.address("http"), Version::Http1);
    load::across_upgrades(&mut service, || client.clone());

    let admin = service.address("admin");
    let (head, _) = ask(admin, "GET", "/ready").expect("it answers");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let generation = service.status()["generation"].as_u64().expect("a number");
    let (_, metrics) = ask(admin, "GET", "/metrics").expect("it answers");
    assert!(metrics.contains(&format!("\ntableflip_generation {generation}\n")), "{metrics}");

    let (_, upgraded) = load::find("an upgrade", || {
        let (head, body) = ask(admin, "POST", "/upgrade").expect("it answers");
        // The predecessor of the last upgrade may still be there.
        (!head.starts_with("HTTP/1.1 409")).then_some((head, body))
    });
    assert_eq!(upgraded, format!("process {} serves\n", service.pid()));
    let (_, metrics) = ask(admin, "GET", "/metrics").expect("it answers");
    assert!(metrics.contains(&format!("\ntableflip_generation {}\n", generation + 1)), "{metrics}");
    service.stop();
}
