//! The Redis protocol, RESP2, on TCP and on a Unix socket: PING and ECHO.
//!
//! The protocol has no notice that a connection is about to end, and needs none: a connection moves to the new process, with the
//! part of a command that was read. One that cannot move is served until the client leaves, or `drain_timeout` is over.
//! `resp.rs` has the protocol. `cargo run -p redis-line`, `redis-cli -p 7002`, `kill -HUP $(cat redis-line.pid)`.

mod resp;

use std::{io, mem};

use tableflip::net::{HandOver, TcpListener, UnixListener};
use tableflip::{Session, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The kind of the connections that move. They have no state but the bytes that were read.
const KIND: &str = "resp/1";

async fn converse<S: HandOver>(mut stream: S, mut shutdown: Shutdown) -> io::Result<()> {
    let (mut received, mut stays) = (Vec::new(), false);
    loop {
        let mut replies = String::new();
        let answered = resp::answer(&mut received, &mut replies);
        stream.write_all(replies.as_bytes()).await?;
        answered?;
        received.reserve(8 << 10);
        tokio::select! {
            read = stream.read_buf(&mut received) => if read? == 0 { return Ok(()) },
            // What was received and not answered is a part of a command, and travels.
            () = &mut shutdown, if !stays => {
                match stream.hand_over(Session::new(KIND).unread(mem::take(&mut received))).await {
                    Ok(()) => return Ok(()),
                    // It is served until the client leaves. The part of a command comes out of the stream again.
                    Err(kept) => (stream, stays) = (kept, true),
                }
            }
        }
    }
}

#[tableflip::main(
    pidfile = "redis-line.pid", drain_timeout = "10m", listen = [tcp = "tcp://127.0.0.1:7002", unix = "/tmp/redis-line.sock"],
)]
async fn main(tcp: TcpListener, unix: UnixListener, shutdown: Shutdown) -> io::Result<()> {
    let (mut tcp_resumed, mut unix_resumed) = (tcp.resumed([KIND]), unix.resumed([KIND]));
    loop {
        let shutdown = shutdown.clone();
        tokio::select! {
            tcp = tcp.accept() => tokio::spawn(converse(tcp?.0, shutdown)),
            unix = unix.accept() => tokio::spawn(converse(unix?.0, shutdown)),
            tcp = tcp_resumed.next() => tokio::spawn(async { converse(tcp.take().await?, shutdown).await }),
            unix = unix_resumed.next() => tokio::spawn(async { converse(unix.take().await?, shutdown).await }),
        };
    }
}
