//! The client of the services in `src/bin` and of their control sockets: one connection that speaks lines. Each read and write
//! blocks, and has a deadline.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;

use processes::{DEADLINE, wait_until};
use serde_json::Value;

/// Waits until nobody listens at an address. The drop of a listener of this process is not enough: a process that another test
/// starts at that moment has a copy of each descriptor until its exec.
pub fn wait_until_refused(address: impl ToSocketAddrs) {
    wait_until("the refusal of a client", || TcpStream::connect(&address).is_err());
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Stream>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// A new connection to a TCP listener.
    pub fn tcp(address: impl ToSocketAddrs + Display) -> Self {
        Self::over_tcp(
            TcpStream::connect(&address).unwrap_or_else(|error| panic!("connect to {address}: {error}")),
        )
    }

    /// A connection that is open.
    pub fn over_tcp(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        Self { stream: BufReader::new(Stream::Tcp(stream)) }
    }

    /// A new connection to a Unix listener.
    pub fn unix(path: &Path) -> Self {
        Self::over_unix(
            UnixStream::connect(path).unwrap_or_else(|error| panic!("connect to {path:?}: {error}")),
        )
    }

    /// A connection that is open.
    pub fn over_unix(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        Self { stream: BufReader::new(Stream::Unix(stream)) }
    }

    /// Sends a line.
    pub fn send(&mut self, line: &str) {
        let stream = self.stream.get_mut();
        stream
            .write_all(format!("{line}\n").as_bytes())
            .unwrap_or_else(|error| panic!("send `{line}`: {error}"));
    }

    /// The next line. An error is the end of the connection.
    pub fn receive(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Sends a line and returns the answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.receive().unwrap_or_else(|error| panic!("no answer to `{line}`: {error}"))
    }

    /// Sends a command to a control socket; `docs/control.md`.
    pub fn send_command(&mut self, command: &str) {
        self.send(&format!(r#"{{"command":"{command}"}}"#));
    }

    /// The next answer of a control socket.
    pub fn reply(&mut self) -> Value {
        let line = self.receive().unwrap_or_else(|error| panic!("no answer: {error}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Sends a command to a control socket and returns the first answer.
    pub fn ask_command(&mut self, command: &str) -> Value {
        self.send_command(command);
        self.reply()
    }

    /// Generation and process ID of the process that answers.
    pub fn who(&mut self) -> (u64, u32) {
        let answer = self.ask("who");
        let (generation, pid) = answer.split_once(' ').expect("two numbers");
        (generation.parse().expect("a generation"), pid.parse().expect("a process ID"))
    }

    /// Ends the conversation, and waits until the service has closed the connection as well.
    pub fn close(mut self) {
        match self.stream.get_mut() {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
        .expect("the connection is open");
        self.wait_for_the_end();
    }

    /// Waits for the other side to close the connection, or to be killed.
    pub fn wait_for_the_end(&mut self) {
        match self.receive() {
            Ok(line) => panic!("the connection goes on with `{line}`"),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("the connection stays open")
            }
            Err(_) => {}
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(data),
            Self::Unix(stream) => stream.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
