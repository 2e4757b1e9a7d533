//! A client of DNS over UDP.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

use crate::Client;
use crate::loss::bad;

/// A client that sends each query once, and takes one answer. A clone has no socket yet.
#[derive(Debug)]
pub struct Dns {
    server: SocketAddr,
    socket: Option<UdpSocket>,
    number: u16,
    queries: u32,
}

impl Clone for Dns {
    fn clone(&self) -> Self {
        Self::new(self.server)
    }
}

impl Dns {
    /// RFC 1035: what a query has set is that recursion is desired.
    pub const QUERY: u8 = 1;
    /// A response has the first bit as well.
    pub const RESPONSE: u8 = 0x81;

    /// A client of this server, that asks for the address of `www.example.org`.
    pub fn new(server: SocketAddr) -> Self {
        Self { server, socket: None, number: 0, queries: 0 }
    }

    /// One question, A, IN.
    pub fn message(number: u16, flags: u8, name: &[u8]) -> Vec<u8> {
        let number = number.to_be_bytes();
        let head = [number[0], number[1], flags, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        [&head[..], name, b"\0\x01\0\x01"].concat()
    }

    async fn connected(&mut self) -> io::Result<&UdpSocket> {
        if self.socket.is_none() {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            socket.connect(self.server).await?;
            self.socket = Some(socket);
        }
        self.socket.as_ref().ok_or(io::ErrorKind::NotConnected.into())
    }
}

impl Client for Dns {
    async fn ask(&mut self) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        self.queries += 1;
        let id = self.number.to_be_bytes();
        let query = Self::message(self.number, Self::QUERY, b"\x03www\x07example\x03org\0");
        let socket = self.connected().await?;
        socket.send(&query).await?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).await?;
        let answer = &answer[..length];
        // A second answer to an earlier query has its number.
        let is_right = answer.get(..2) == Some(&id) && answer.ends_with(&[192, 0, 2, 1]);
        if is_right { Ok(()) } else { Err(bad(format!("to {id:?} it is answered {answer:?}"))) }
    }

    /// Each query is one by itself: another process may answer it than the one before.
    fn connections(&self) -> u32 {
        self.queries
    }
}
