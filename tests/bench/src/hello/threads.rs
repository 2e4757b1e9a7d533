//! A thread for each connection, without tokio.

use std::io;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::thread;

use tableflip::blocking::TcpListener;
use tableflip::{Service, Upgrader};

use crate::service::{ANY_PORT, announce};

#[allow(dead_code, reason = "its own main")]
#[path = "../../../../examples/threads/src/main.rs"]
mod example;

pub(super) fn plain() -> io::Result<()> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _peer) = listener.accept()?;
        // A client that breaks off is no news here.
        thread::spawn(move || example::converse(&stream).unwrap_or_default());
    }
}

pub(super) fn managed(service: Service) -> ExitCode {
    service.listen("lines", ANY_PORT).run_blocking(|start| {
        let upgrader: Upgrader = start.handle()?;
        let listener: TcpListener = start.listener("lines")?;
        Ok(move || {
            announce(listener.local_addr()?, &upgrader);
            while let Some((stream, _peer)) = listener.accept()? {
                thread::spawn(move || example::converse(&stream).unwrap_or_default());
            }
            io::Result::Ok(())
        })
    })
}
