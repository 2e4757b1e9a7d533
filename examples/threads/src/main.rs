//! A thread for each connection and no async runtime: `fn main`, and the types of `tableflip::blocking`.
//!
//! Run it with `cargo run -p threads`, talk to it with `nc 127.0.0.1 7001`, and replace it with
//! `kill -HUP $(cat threads.pid)`. A line comes back in capital letters. A connected client is served until it leaves.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;

use tableflip::blocking::TcpListener;

pub(crate) fn converse(mut stream: &TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    // A longer line comes back in pieces.
    while lines.by_ref().take(64 << 10).read_until(b'\n', &mut line)? > 0 {
        stream.write_all(&line.to_ascii_uppercase())?;
        line.clear();
    }
    Ok(())
}

#[tableflip::main(pidfile = "threads.pid", drain_timeout = "5m", listen = [lines = "tcp://127.0.0.1:7001"])]
fn main(lines: TcpListener) -> io::Result<()> {
    while let Some((stream, peer)) = lines.accept()? {
        thread::spawn(move || {
            if let Err(error) = converse(&stream) {
                eprintln!("{peer}: {error}");
            }
        });
    }
    Ok(())
}
