//! A thread for each connection and no async runtime: `fn main`, and the types of `tableflip::blocking`.
//!
//! Run it with `cargo run -p threads`, talk to it with `nc 127.0.0.1 7001`, and replace it with
//! `kill -HUP $(cat threads.pid)`. A line comes back in capital letters, and `count` gets the number of lines before it. The
//! same `nc` then talks to the new process, and its count goes on.

use std::io::{self, Read, Write};
use std::{mem, thread};
use tableflip::blocking::{TcpListener, TcpStream, Woken};
use tableflip::{Session, Shutdown};

/// The protocol, and the version of its state: the number of lines, in eight bytes.
const KIND: &str = "lines/1";
/// A longer line comes back in pieces.
const LONGEST: usize = 64 << 10;

fn next_line(text: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = text.iter().take(LONGEST).position(|byte| *byte == b'\n').map(|at| at + 1);
    end.or((text.len() >= LONGEST).then_some(LONGEST)).map(|end| text.drain(..end).collect())
}

fn converse(mut stream: TcpStream, mut lines: u64, shutdown: &Shutdown) -> io::Result<()> {
    let (mut piece, mut text, mut stays) = (vec![0; LONGEST], Vec::new(), false);
    loop {
        if !stays && stream.wait(shutdown)? == Woken::Shutdown {
            let session = Session::new(KIND).state(lines.to_be_bytes());
            match stream.hand_over(session.unread(mem::take(&mut text))) {
                Ok(()) => return Ok(()),
                // It is served until the client leaves. What was unread comes out of the stream again.
                Err(kept) => (stream, stays) = (kept, true),
            }
        }
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => text.extend(&piece[..length]),
        }
        while let Some(line) = next_line(&mut text) {
            match line.trim_ascii() {
                b"count" => writeln!(stream, "{lines}")?,
                _ => stream.write_all(&line.to_ascii_uppercase())?,
            }
            lines += 1;
        }
    }
}

#[tableflip::main(pidfile = "threads.pid", drain_timeout = "5m", listen = [lines = "tcp://127.0.0.1:7001"])]
fn main(lines: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    let (resumed, second) = (lines.resumed([KIND]), shutdown.clone());
    thread::spawn(move || {
        for offer in resumed {
            let shutdown = second.clone();
            thread::spawn(move || {
                // An offer that is dropped goes back to the old process.
                let Ok(lines) = offer.state().try_into() else { return Ok(()) };
                converse(offer.take()?, u64::from_be_bytes(lines), &shutdown)
            });
        }
    });
    for stream in lines.incoming() {
        let (stream, shutdown) = (stream?, shutdown.clone());
        thread::spawn(move || converse(stream, 0, &shutdown));
    }
    Ok(())
}
