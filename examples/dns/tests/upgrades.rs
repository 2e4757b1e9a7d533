//! DNS over upgrades under load.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use load::{Service, have};
use tokio::net::UdpSocket;

const QUERIES: usize = 4000;

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_dns"))
        .listen("udp", "udp://127.0.0.1:0")
        .listen("tcp", "tcp://127.0.0.1:0")
        .start()
}

/// A client that sends each query once, and takes one answer.
struct Stub {
    server: SocketAddr,
    socket: Option<UdpSocket>,
    number: u16,
}

impl Stub {
    async fn connected(&mut self) -> std::io::Result<&UdpSocket> {
        if self.socket.is_none() {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            socket.connect(self.server).await?;
            self.socket = Some(socket);
        }
        self.socket.as_ref().ok_or(std::io::ErrorKind::NotConnected.into())
    }

    async fn exchange(&mut self) -> std::io::Result<Result<(), String>> {
        self.number = self.number.wrapping_add(1);
        let id = self.number.to_be_bytes();
        let socket = self.connected().await?;
        // RFC 1035: recursion desired, one question, A, IN.
        let head = [id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        socket.send(&[&head[..], b"\x03www\x07example\x03org\0\0\x01\0\x01"].concat()).await?;
        let mut answer = [0; 512];
        let received = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut answer)).await;
        let Ok(length) = received else { return Ok(Err("no answer in 5 s".to_owned())) };
        let answer = &answer[..length?];
        // A second answer to an earlier query has its number.
        let is_right = answer.get(..2) == Some(&id) && answer.ends_with(&[192, 0, 2, 1]);
        Ok(if is_right { Ok(()) } else { Err(format!("to {id:?} it is answered {answer:?}")) })
    }
}

impl load::Client for Stub {
    async fn ask(&mut self) -> Result<(), String> {
        self.exchange().await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

#[test]
fn every_query_over_udp_is_answered_once() {
    let mut service = service();
    let server = service.address("udp");
    load::across_upgrades(&mut service, || Stub { server, socket: None, number: 0 });
    service.stop();
}

/// dig asks once for each, and waits for no more than 5 s.
fn dig(service: &mut Service, listener: &str, options: &[&str]) {
    if !have("dig") {
        return;
    }
    let names = service.path("names");
    fs::write(&names, "www.example.org\n".repeat(QUERIES)).expect("it can be written");
    let port = service.address(listener).port().to_string();
    let mut dig = Command::new("dig");
    dig.args(["@127.0.0.1", "-p", &port, "+tries=1", "+timeout=5", "+short"])
        .args(options)
        .arg("-f")
        .arg(&names);
    let dig = dig.stdout(Stdio::piped()).spawn().expect("dig runs");
    for _ in 0..load::upgrades() {
        service.upgrade();
    }
    let output = dig.wait_with_output().expect("it is a child");
    let answers = String::from_utf8_lossy(&output.stdout);
    let right = answers.lines().filter(|line| *line == "192.0.2.1").count();
    assert_eq!((right, answers.lines().count()), (QUERIES, QUERIES), "dig: {}", output.status);
}

#[test]
fn dig_gets_every_answer_over_udp() {
    dig(&mut service(), "udp", &[]);
}

#[test]
fn dig_gets_every_answer_over_tcp() {
    dig(&mut service(), "tcp", &["+tcp"]);
}
