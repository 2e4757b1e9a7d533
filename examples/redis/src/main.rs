//! The Redis protocol, RESP2, on TCP and on a Unix socket: PING and ECHO.
//!
//! The protocol has no notice that a connection is about to end. So the service ends none: it serves a connected client until
//! the client leaves, or `drain_timeout` is over. `cargo run -p redis-line`, `redis-cli -p 7002 ping`, `kill -HUP $(cat redis-line.pid)`.

use std::io;

use tableflip::net::{TcpListener, UnixListener};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream,
};

async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = String::new();
    stream.take(64 << 10).read_line(&mut line).await?;
    let whole = line.is_empty() || line.ends_with('\n');
    let line = (!line.is_empty()).then(|| line.trim_end().to_owned());
    if whole { Ok(line) } else { Err(io::Error::other("a line that is too long, or has no end")) }
}

/// A command and its arguments: an array of bulk strings, or words on a line.
async fn command(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<String>>> {
    let Some(first) = line(stream).await? else { return Ok(None) };
    let Some(count) = first.strip_prefix('*') else {
        return Ok(Some(first.split_whitespace().map(str::to_owned).collect()));
    };
    let count: u8 = count.parse().map_err(io::Error::other)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let head = line(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let length: u16 = head.trim_start_matches('$').parse().map_err(io::Error::other)?;
        let mut word = vec![0; usize::from(length) + 2];
        stream.read_exact(&mut word).await?;
        words.push(String::from_utf8_lossy(&word[..usize::from(length)]).into_owned());
    }
    Ok(Some(words))
}

pub(crate) async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    while let Some(words) = command(&mut stream).await? {
        let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        let reply = match (name.as_str(), words.get(1)) {
            ("PING", None) => "+PONG\r\n".to_owned(),
            ("PING" | "ECHO", Some(word)) => format!("${}\r\n{word}\r\n", word.len()),
            _ => format!("-ERR unknown command {name:?}\r\n"),
        };
        stream.write_all(reply.as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}

#[tableflip::main(
    pidfile = "redis-line.pid", drain_timeout = "10m", listen = [tcp = "tcp://127.0.0.1:7002", unix = "/tmp/redis-line.sock"],
)]
async fn main(tcp: TcpListener, unix: UnixListener) -> io::Result<()> {
    loop {
        tokio::select! {
            tcp = tcp.accept() => drop(tokio::spawn(converse(tcp?.0))),
            unix = unix.accept() => drop(tokio::spawn(converse(unix?.0))),
        }
    }
}
