//! Asks a control socket for one thing, prints what it answers, and waits for the outcome: `ask upgrade PIDFILE`, as an
//! `ExecReload=` that waits.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

fn main() -> io::Result<ExitCode> {
    let [command, pidfile] = [1, 2].map(|at| env::args().nth(at).expect("a command and a pid file"));
    let mut stream = UnixStream::connect(Path::new(&pidfile).with_extension("control"))?;
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
