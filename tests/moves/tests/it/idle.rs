//! Many connections on which nothing happens. The test is their client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::chown;

use load::{DEADLINE, Service};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use processes::{is_slow_wanted, skip};

use crate::watched::{Watched, unless_held_up};

struct Idle {
    stream: BufReader<TcpStream>,
    port: u16,
}

impl Idle {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        let port = stream.local_addr().expect("it is connected").port();
        // One buffer of 8 KiB each would be 80 MB.
        Self { stream: BufReader::with_capacity(256, stream), port }
    }

    /// A request, and its answer. The error is how the connection ended.
    fn ask(&mut self, path: &str) -> std::io::Result<()> {
        // One write: the kernel would hold the second one back until the first is acknowledged.
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line != "HTTP/1.1 200 OK\r\n" {
            return Err(std::io::Error::other(format!("the answer begins with {line:?}")));
        }
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line)?;
        }
        let mut body = vec![0; path.len()];
        self.stream.read_exact(&mut body)?;
        assert_eq!(String::from_utf8_lossy(&body), path);
        Ok(())
    }
}

/// Each of so many connections has one request before an upgrade, and one after it, which the new process answers.
fn stay(mut watched: Watched, number: usize) -> Result<(), String> {
    let address = watched.service.address("http");
    let mut idle: Vec<_> = (0..number).map(|_| Idle::connect(address)).collect();
    for (number, idle) in idle.iter_mut().enumerate() {
        idle.ask(&format!("/whole/before/{number}")).expect("an answer");
    }
    let before = watched.service.pid();
    let pid = watched.service.upgrade();
    let mut closed = 0;
    for (number, idle) in idle.iter_mut().enumerate() {
        closed += usize::from(idle.ask(&format!("/whole/after/{number}")).is_err());
    }
    if closed > 0 {
        return Err(format!("{closed} of {number} connections were closed"));
    }
    let ports = idle.iter().map(|idle| idle.port).collect();
    assert_eq!(watched.journal.ports_of(before), ports);
    assert_eq!(watched.journal.ports_of(pid), ports);
    watched.journal.has_no_repeated_path();
    Ok(())
}

/// Lets this process have as many descriptors. `false` where it may not.
fn allow(descriptors: u64) -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < descriptors {
        skip(&format!("this process may have only {hard} descriptors"));
        return false;
    }
    if soft < descriptors {
        setrlimit(Resource::RLIMIT_NOFILE, descriptors, hard).expect("it is within the hard limit");
    }
    true
}

#[test]
fn a_thousand_idle_connections_stay() {
    if allow(2000) {
        unless_held_up(|| stay(Watched::start(), 1000));
    }
}

#[test]
fn ten_thousand_idle_connections_stay() {
    if !is_slow_wanted() {
        return skip("SLOW_TESTS=1 keeps 10,000 connections");
    }
    if allow(11_000) {
        unless_held_up(|| stay(Watched::start(), 10_000));
    }
}

/// The user `nobody`.
const USER: u32 = 65534;

/// The kernel counts the descriptors that are on their way, for a user without privileges.
#[test]
fn a_thousand_idle_connections_stay_with_few_descriptors_of_an_ordinary_user() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can start a service of another user");
    }
    if !load::have("setpriv") || !allow(2000) {
        return;
    }
    let script =
        "ulimit -n 1100 && exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \"$0\"";
    unless_held_up(|| {
        let command = Service::of("/bin/sh").args(["-c", script, env!("CARGO_BIN_EXE_moves")]);
        let command = command.listen("http", "tcp://127.0.0.1:0");
        chown(command.path(""), Some(USER), None).expect("root can");
        stay(Watched::start_as(command), 1000)
    });
}
