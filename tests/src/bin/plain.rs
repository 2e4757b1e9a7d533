//! A service as a user writes it, without a subscriber of `tracing`: complaints of the crate are lines on stderr.
//!
//! Options of the attribute that the environment overrides are set, to values that a test can tell from its own.
//! Each process says `PID GENERATION ADDRESS` on stdout, and writes `NAME PID` into each file that it inherits. A client
//! sends lines; `answer` has what can be asked for. A request of HTTP gets one answer of HTTP. With `PLAIN_MUTE` set, a successor is never ready.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tableflip::blocking::{TcpListener, TcpStream, UnixListener};
use tableflip::{Inherited, Shutdown, UpgradeError, Upgraded, Upgrader};

#[tableflip::main(
    pidfile = "declared.pid",
    upgrade_timeout = "1h",
    probation = Duration::from_millis(10),
    drain_timeout = "59m",
    upgrade_signal = "SIGUSR1",
    overlap = "wait",
    listen = [talk = "tcp://127.0.0.1:0", other_talk = format!("unix:@tableflip-plain-{}", std::process::id())],
)]
fn main(
    talk: TcpListener,
    other_talk: UnixListener,
    upgrader: Upgrader,
    shutdown: Shutdown,
    inherited: Inherited,
) -> io::Result<()> {
    // Its end is that of the test, even of one that was killed.
    thread::spawn(|| {
        io::copy(&mut io::stdin(), &mut io::sink()).expect("stdin can be read");
        std::process::abort();
    });
    let pid = std::process::id();
    for (name, fd) in inherited.iter() {
        writeln!(File::from(fd.try_clone_to_owned()?), "{name} {pid}")?;
    }
    drop(inherited);
    println!("{pid} {} {}", upgrader.generation(), talk.local_addr()?);
    if std::env::var_os("PLAIN_MUTE").is_some() && upgrader.has_predecessor() {
        loop {
            thread::park();
        }
    }
    let plain = Arc::new(Plain { upgrader, shutdown, pipes: Mutex::default() });
    thread::spawn(move || other_talk.accept());
    for stream in talk.incoming() {
        let (stream, plain) = (stream?, plain.clone());
        thread::spawn(move || plain.converse(stream));
    }
    Ok(())
}

struct Plain {
    upgrader: Upgrader,
    shutdown: Shutdown,
    pipes: Mutex<HashMap<String, BufReader<PipeReader>>>,
}

impl Plain {
    fn converse(&self, stream: TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(&stream);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            if line.starts_with("GET ") {
                return self.get(lines);
            }
            let answer = self.answer(line.trim_end()) + "\n";
            (&stream).write_all(answer.as_bytes())?;
            line.clear();
        }
        Ok(())
    }

    /// Answers a request of HTTP whose first line has been read: with 500 if there is a file `sick`.
    fn get(&self, mut lines: BufReader<&TcpStream>) -> io::Result<()> {
        let mut line = String::new();
        while lines.read_line(&mut line)? > 2 {
            line.clear();
        }
        let status = if std::path::Path::new("sick").exists() { "500 Sick" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\n\r\n{}", self.upgrader.generation());
        lines.into_inner().write_all(answer.as_bytes())
    }

    fn answer(&self, line: &str) -> String {
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "who" => format!("{} {}", self.upgrader.generation(), std::process::id()),
            "arguments" => format!("{:?}", std::env::args_os().skip(1).collect::<Vec<_>>()),
            "drain-timeout" => format!("{:?}", self.shutdown.drain_timeout()),
            // Waits in a future, which needs no runtime of tokio but here has one.
            "upgrade" => {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                outcome(runtime.block_on(self.upgrader.upgrade()))
            }
            "upgrade-blocking" => outcome(self.upgrader.upgrade_blocking()),
            "status" => serde_json::to_string(&self.upgrader.status_blocking()).expect("it is JSON"),
            // Something that is never finished.
            "hold" => {
                std::mem::forget(self.shutdown.guard());
                "held".to_owned()
            }
            // Takes std's lock of stderr in a thread that never gives it back.
            "lock-stderr" => {
                let (locked, is_locked) = std::sync::mpsc::channel();
                thread::spawn(move || {
                    let _lock = io::stderr().lock();
                    locked.send(()).expect("somebody waits for it");
                    loop {
                        thread::park();
                    }
                });
                is_locked.recv().expect("the thread lives");
                "locked".to_owned()
            }
            // Passes on the writing end of a pipe, and keeps the other.
            "pass" => {
                let (reader, writer) = io::pipe().expect("a pipe");
                self.upgrader.pass_on(argument, writer).expect("the name is short");
                self.pipes.lock().expect("unpoisoned").insert(argument.to_owned(), BufReader::new(reader));
                "passed".to_owned()
            }
            // A line that a successor has written into it.
            "read" => {
                let mut pipes = self.pipes.lock().expect("unpoisoned");
                let mut line = String::new();
                pipes.get_mut(argument).expect("it was passed on").read_line(&mut line).expect("a line");
                line.trim_end().to_owned()
            }
            _ => format!("there is no verb `{verb}`"),
        }
    }
}

fn outcome(outcome: Result<Upgraded, UpgradeError>) -> String {
    match outcome {
        Ok(upgraded) => format!("ok {} {}", upgraded.generation, upgraded.pid),
        Err(error) => format!("err {error}"),
    }
}
