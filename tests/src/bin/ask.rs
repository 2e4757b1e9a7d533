//! Asks a control socket for one thing, prints what it answers, and waits for the outcome: `ask SOCKET upgrade`, as an
//! `ExecReload=` that waits.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> io::Result<ExitCode> {
    let [socket, command] = [1, 2].map(|at| env::args().nth(at).expect("a socket and a command"));
    let mut stream = UnixStream::connect(socket)?;
    writeln!(stream, r#"{{"command":"{command}"}}"#)?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        println!("{line}");
        match serde_json::from_str::<serde_json::Value>(&line)?["reply"].as_str() {
            Some("phase" | "stopping") => {}
            Some("error") => return Ok(ExitCode::FAILURE),
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
    // The end of the connection is the outcome of a stop.
    Ok(if command == "stop" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
