//! A reverse proxy in front of a service.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use processes::{DEADLINE, Signal, find_within, signal};
use rustix::process::geteuid;

/// That of the example, whose paths and port are replaced.
const NGINX: &str = include_str!("../../../examples/nginx/nginx.conf");

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // SIGTERM, for a worker does not outlive its master then.
        signal(self.child.id(), Signal::TERM).unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

impl Proxy {
    /// A port that was free a moment ago: a proxy cannot be asked which one it got.
    pub fn free() -> io::Result<SocketAddr> {
        TcpListener::bind("127.0.0.1:0")?.local_addr()
    }

    /// Runs nginx as the example has it, in front of the service at a Unix socket. Its files are put into the directory.
    pub fn nginx(directory: &Path, service: &Path, address: SocketAddr) -> io::Result<Self> {
        let configuration = NGINX
            .replace("/run/behind-nginx/http.sock", &service.display().to_string())
            .replace("/run/behind-nginx.nginx.pid", &directory.join("nginx.pid").display().to_string())
            .replace("127.0.0.1:8088", &address.to_string());
        let path = directory.join("nginx.conf");
        fs::write(&path, configuration)?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(path).args(["-e", "stderr"]);
        if geteuid().is_root() {
            // Its workers would be a user who may not enter the directory.
            nginx.args(["-g", "user root;"]);
        }
        Self::start(nginx, directory, address)
    }

    /// Runs a proxy until it listens. Its log is put into the directory.
    pub fn start(mut command: Command, directory: &Path, address: SocketAddr) -> io::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let path = directory.join("proxy.log");
        let log = File::create(&path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start {program}: {error}; is it installed?"))
        })?;
        let mut proxy = Self { child };
        let listens_or_ended = find_within(DEADLINE, || match TcpStream::connect(address) {
            Ok(_) => Some(None),
            Err(_) => proxy.child.try_wait().transpose().map(Some),
        });
        let why = match listens_or_ended {
            Some(None) => return Ok(proxy),
            Some(Some(ended)) => ended?.to_string(),
            None => format!("not within {DEADLINE:?}"),
        };
        let said = fs::read_to_string(&path).unwrap_or_default();
        Err(io::Error::other(format!("{program} does not listen ({why}): {said}")))
    }
}
