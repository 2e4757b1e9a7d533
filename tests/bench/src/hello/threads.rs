//! A thread for each connection, without tokio.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::ExitCode;
use std::thread;

use tableflip::blocking::TcpListener;
use tableflip::{Service, Upgrader};

use crate::service::{ANY_PORT, announce};

/// On either side.
fn converse(mut stream: &TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        stream.write_all(&line.to_ascii_uppercase())?;
        line.clear();
    }
    Ok(())
}

pub(super) fn plain() -> io::Result<()> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _peer) = listener.accept()?;
        // A client that breaks off is no news here.
        thread::spawn(move || converse(&stream).unwrap_or_default());
    }
}

pub(super) fn managed(service: Service) -> ExitCode {
    service.listen("lines", ANY_PORT).run_blocking(|start| {
        let upgrader: Upgrader = start.handle()?;
        let listener: TcpListener = start.listener("lines")?;
        Ok(move || {
            announce(listener.local_addr()?, &upgrader);
            while let Some((stream, _peer)) = listener.accept()? {
                thread::spawn(move || converse(&stream).unwrap_or_default());
            }
            io::Result::Ok(())
        })
    })
}
