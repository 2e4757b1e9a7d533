//! A service with two listeners, each of which says its name.

use std::io::{self, Write};
use std::thread;

use tableflip::blocking::TcpListener;

#[tableflip::main(listen = [first = "tcp://127.0.0.1:7001", second = "tcp://127.0.0.1:7002"])]
fn main(first: TcpListener, second: TcpListener) -> io::Result<()> {
    thread::spawn(move || serve(&second, "second"));
    serve(&first, "first")
}

fn serve(listener: &TcpListener, name: &str) -> io::Result<()> {
    for stream in listener.incoming() {
        writeln!(&stream?, "{name}")?;
    }
    Ok(())
}
