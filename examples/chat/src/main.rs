//! A chat with a service that remembers its client: each connection has a state, which moves with it to the new process.
//!
//! Run it with `cargo run -p chat`, talk to it with `nc 127.0.0.1 7004`, and replace it with `kill -HUP $(cat chat.pid)`: it still
//! knows your name.

use std::io;

use serde::{Deserialize, Serialize};
use tableflip::net::{TcpListener, TcpStream};
use tableflip::{Session, Shutdown, State};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// What the service knows of a client. serde bridges a new field with a default; any other change of this type needs a new kind.
#[derive(Default, Deserialize, Serialize)]
struct Chat {
    /// Its first line.
    name: Option<String>,
    lines: u64,
}

impl State for Chat {
    const KIND: &str = "chat/1";
}

async fn converse(stream: TcpStream, mut chat: Chat, mut shutdown: Shutdown) -> io::Result<()> {
    let (mut stream, mut line) = (BufReader::new(stream), Vec::new());
    loop {
        let mut most = (&mut stream).take(1024);
        tokio::select! {
            read = most.read_until(b'\n', &mut line) => if read? == 0 { return Ok(()) },
            // Every line is answered. A part of one is in `line`, and what follows it is in the buffer.
            () = &mut shutdown => break,
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        chat.lines += 1;
        let answer = match &chat.name {
            Some(name) => format!("{name}, that is line {}: {text}\n", chat.lines),
            None => format!("Hello {}\n", chat.name.insert(text)),
        };
        line.clear();
        stream.write_all(answer.as_bytes()).await?;
    }
    let unread = [&line[..], stream.buffer()].concat();
    match stream.into_inner().hand_over(Session::of(&chat)?.unread(unread)).await {
        Ok(()) => Ok(()),
        Err(mut stream) => stream.write_all(b"Goodbye, please come back\n").await,
    }
}

#[tableflip::main(pidfile = "chat.pid", listen = [chat = "tcp://127.0.0.1:7004"])]
async fn main(chat: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    let mut resumed = chat.resumed([Chat::KIND]);
    loop {
        let shutdown = shutdown.clone();
        tokio::select! {
            accepted = chat.accept() => tokio::spawn(converse(accepted?.0, Chat::default(), shutdown)),
            offer = resumed.next() => tokio::spawn(async move {
                // A state that is no `Chat` goes back with its connection.
                let chat = offer.decode()?;
                converse(offer.take().await?, chat, shutdown).await
            }),
        };
    }
}
