//! From the signal to the first answer from the new process, beside other tools for the same purpose.
//!
//! The same client asks the same service of each tool in turn: one request on each connection, whose answer is the process ID. A tool
//! that is not on this machine is left out, and the report says so.

pub(crate) mod services;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use processes::{Process, Signal, find_within, pidfile, proc};

use crate::options::Options;
use crate::process::{self, PATIENCE, wait_for_success};
use crate::report::{Row, SUMMARY, Section, Target, progress};
use crate::stats::{milliseconds, summarize};
use crate::{Result, clock};

/// The services of this program, under [`process::SERVICE`].
pub(crate) const TABLEFLIP: &str = "peer-tableflip";
pub(crate) const ECDYSIS: &str = "peer-ecdysis";
/// Between one's upgrade and its next: none refuses it then because it is not done with the last.
const REST: Duration = Duration::from_millis(50);

/// Whom the signal goes to, and who is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Each process starts the next one, and ends.
    Generations,
    /// So does the master of nginx, a daemon, but that it has to be told to end. One that is none ignores the signal.
    Nginx,
    /// The master of HAProxy stays, and its worker ends.
    HaProxy,
}

struct Peer {
    name: &'static str,
    kind: Kind,
    /// Where nginx writes down which master is the new one.
    pidfile: PathBuf,
    process: Process,
    address: SocketAddr,
    upgrades: Vec<Duration>,
    /// Requests of this client that got no answer.
    lost: usize,
}

impl Peer {
    fn start(
        name: &'static str,
        kind: Kind,
        directory: &Path,
        command: impl FnOnce(SocketAddr) -> Result<Command>,
    ) -> Result<Self> {
        // Of the system's choice, for those who cannot say which they got.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut child = command(address)?.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let nginx_pidfile = directory.join("nginx.pid");
        let pid = match kind {
            Kind::Nginx => {
                child.wait()?;
                pidfile(&nginx_pidfile)?
            }
            // Reaped by its pidfd, or with the family.
            Kind::Generations | Kind::HaProxy => child.id(),
        };
        let process = Process::open(pid)?;
        let mut peer =
            Self { name, kind, pidfile: nginx_pidfile, process, address, upgrades: Vec::new(), lost: 0 };
        if find_within(PATIENCE, || peer.ask().ok()).is_none() {
            return Err(format!("{name} does not serve: {:?}", peer.ask()).into());
        }
        // The worker of HAProxy answers before the master handles signals.
        std::thread::sleep(REST);
        // The first one finds cold caches.
        peer.upgrade()?;
        Ok(Self { upgrades: Vec::new(), lost: 0, ..peer })
    }

    /// The process that answers a connection.
    fn ask(&self) -> Result<u32> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{}: {answer:?}", self.name))?;
        Ok(body.trim().parse()?)
    }

    fn upgrade(&mut self) -> Result<()> {
        let old = self.ask()?;
        let signal = if self.kind == Kind::Generations { Signal::HUP } else { Signal::USR2 };
        let deadline = Instant::now() + PATIENCE;
        let signalled = clock::now();
        self.process.signal(signal)?;
        let (new, answered) = loop {
            match (self.ask(), clock::now()) {
                (Ok(pid), now) if pid != old => break (pid, now),
                (Ok(_), _) => {}
                (Err(_), _) => self.lost += 1,
            }
            if Instant::now() > deadline {
                return Err(format!("{}: no answer from a new process", self.name).into());
            }
        };
        self.upgrades.push(answered - signalled);
        match self.kind {
            Kind::Generations => self.follow(new)?,
            Kind::Nginx => {
                self.process.signal(Signal::QUIT)?;
                self.follow(pidfile(&self.pidfile)?)?;
            }
            Kind::HaProxy => {
                if find_within(PATIENCE, || (!proc::exists(old)).then_some(())).is_none() {
                    return Err(format!("{}: the old process does not end", self.name).into());
                }
            }
        }
        std::thread::sleep(REST);
        Ok(())
    }

    fn follow(&mut self, successor: u32) -> Result<()> {
        let successor = Process::open(successor)?;
        let old = std::mem::replace(&mut self.process, successor);
        wait_for_success(&old).map_err(|error| format!("{}: {error}", self.name).into())
    }
}

/// All that are here, this crate first.
fn start(directory: &Path) -> Result<Vec<Peer>> {
    let of_this_program = |service: &'static str, prefix: &'static str| {
        move |address: SocketAddr| {
            let mut command = process::this_program()?;
            command.args([process::SERVICE, service, &format!("{prefix}{address}")]);
            Ok(command)
        }
    };
    let mut peers = vec![
        Peer::start("tableflip", Kind::Generations, directory, of_this_program(TABLEFLIP, "tcp://"))?,
        Peer::start("ecdysis", Kind::Generations, directory, of_this_program(ECDYSIS, ""))?,
    ];
    match build_go(directory) {
        Ok(program) => peers.push(Peer::start("Go's tableflip", Kind::Generations, directory, |address| {
            let mut command = Command::new(program);
            command.arg(address.to_string());
            Ok(command)
        })?),
        Err(why) => left_out("Go's tableflip", &why.to_string()),
    }
    match found("nginx") {
        Ok(program) => {
            peers.push(Peer::start("nginx", Kind::Nginx, directory, |address| {
                nginx(program, directory, address)
            })?);
        }
        Err(why) => left_out("nginx", &why.to_string()),
    }
    match found("haproxy") {
        Ok(program) => {
            let haproxy = |address| haproxy(program, directory, address);
            peers.push(Peer::start("HAProxy", Kind::HaProxy, directory, haproxy)?);
        }
        Err(why) => left_out("HAProxy", &why.to_string()),
    }
    Ok(peers)
}

fn left_out(name: &str, why: &str) {
    eprintln!("  {name} is left out: {why}");
}

/// By the package of Debian, which has the sources where Go looked for them before there were modules.
fn build_go(directory: &Path) -> Result<PathBuf> {
    let program = directory.join("tableflip-go");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/peers/tableflip.go");
    let mut command = Command::new("go");
    command.arg("build").arg("-o").arg(&program).arg(source);
    command.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOCACHE", directory.join("go"));
    let built = command.output().map_err(|error| format!("go: {error}"))?;
    if !built.status.success() {
        return Err(String::from_utf8_lossy(&built.stderr).trim().into());
    }
    Ok(program)
}

fn nginx(program: PathBuf, directory: &Path, address: SocketAddr) -> Result<Command> {
    let path = directory.join("nginx.conf");
    let here = directory.display();
    let text = format!(
        "worker_processes 1; pid {here}/nginx.pid; error_log {here}/error.log crit;\n\
         events {{}}\n\
         http {{\n\
         access_log off;\n\
         client_body_temp_path {here}/a; proxy_temp_path {here}/b; fastcgi_temp_path {here}/c;\n\
         uwsgi_temp_path {here}/d; scgi_temp_path {here}/e;\n\
         server {{ listen {address}; location / {{ return 200 $pid; }} }}\n\
         }}\n"
    );
    fs::write(&path, text)?;
    // It finds itself again by its first argument.
    let mut command = Command::new(program);
    command.arg("-c").arg(path).arg("-p").arg(directory).arg("-e").arg(directory.join("error.log"));
    Ok(command)
}

fn haproxy(program: PathBuf, directory: &Path, address: SocketAddr) -> Result<Command> {
    let path = directory.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 2\n stats socket {}/haproxy.sock expose-fd listeners\n\
         defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
         frontend echo\n bind {address}\n http-request return status 200 content-type text/plain lf-string %pid\n",
        directory.display()
    );
    fs::write(&path, text)?;
    let mut command = Command::new(program);
    command.arg("-W").arg("-q").arg("-f").arg(path);
    Ok(command)
}

/// The path of a program, by PATH.
fn found(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|directory| directory.join(program));
    all.find(|path| path.exists()).ok_or_else(|| format!("{program} is not in PATH").into())
}

pub(crate) fn measure(options: &Options) -> Result<Section> {
    let directory = tempfile::tempdir()?;
    let mut peers = start(directory.path())?;
    for round in 1..=options.rounds {
        progress("round", round, options.rounds);
        for peer in &mut peers {
            peer.upgrade()?;
        }
    }
    let mut rows: Vec<_> = peers
        .iter()
        .map(|peer| Row::milliseconds(peer.name, milliseconds(peer.upgrades.iter().copied())))
        .collect();
    rows.extend(
        peers.iter().map(|peer| Row::count(format!("{}: requests that got no answer", peer.name), peer.lost)),
    );
    let (ours, others) = peers.split_first().ok_or("nothing was measured")?;
    rows.extend(others.iter().map(|peer| {
        let pairs = ours.upgrades.iter().zip(&peer.upgrades);
        let ratio = summarize(pairs.map(|(ours, theirs)| ours.as_secs_f64() / theirs.as_secs_f64()));
        Row::ratio(format!("tableflip over {}", peer.name), ratio)
            .with_target(Target::at_most(1.0, ratio.median))
    }));
    Ok(Section {
        title: "Signal to first answer, beside others",
        about: format!(
            "From the signal to the first answer from the new process, in the hands of a client that connects without pause. \
             {} upgrades of each, in turn. tableflip and ecdysis are this binary, on two workers of tokio.",
            options.rounds
        ),
        headings: SUMMARY,
        rows,
    })
}
