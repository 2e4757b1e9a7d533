//! A service behind nginx and behind HAProxy, over upgrades under load: the clients are the proxy's.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use load::{Http, Service, Version, have, wait_until};

struct Proxy {
    child: Child,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // SIGTERM, for a worker does not outlive its master then.
        let pid = self.child.id().to_string();
        Command::new("kill").arg(pid).status().map(drop).unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

impl Proxy {
    /// Runs it until it listens.
    fn start(service: &Service, mut command: Command, address: SocketAddr) -> Self {
        let log = fs::File::create(service.path("proxy")).expect("a log");
        let log = [log.try_clone().expect("a descriptor"), log];
        let [stdout, stderr] = log;
        let child =
            command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().expect("the proxy runs");
        let mut proxy = Self { child };
        wait_until("the proxy listens", || {
            let ended = proxy.child.try_wait().expect("it is a child");
            let log = || fs::read_to_string(service.path("proxy")).unwrap_or_default();
            assert!(ended.is_none(), "{ended:?}: {}", log());
            TcpStream::connect(address).is_ok()
        });
        proxy
    }
}

fn service() -> Service {
    let command = Service::of(env!("CARGO_BIN_EXE_behind-nginx"));
    let socket = format!("{}?mode=666", command.path("socket").display());
    command.listen("http", &socket).start()
}

/// A port that was free a moment ago: a proxy cannot be asked which one it got.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

#[test]
fn no_request_is_lost_behind_nginx() {
    if !have("nginx") {
        return;
    }
    let (mut service, address) = (service(), free());
    let given = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/nginx.conf")).expect("it is there");
    let path = |name: &str| service.path(name).display().to_string();
    let configuration = given
        .replace("/run/behind-nginx/http.sock", &path("socket"))
        .replace("/run/behind-nginx.nginx.pid", &path("nginx.pid"))
        .replace("127.0.0.1:8088", &address.to_string());
    fs::write(service.path("nginx.conf"), configuration).expect("it can be written");
    let mut nginx = Command::new("nginx");
    nginx.arg("-c").arg(service.path("nginx.conf")).args(["-e", "stderr"]);
    let _proxy = Proxy::start(&service, nginx, address);
    let http = Http::new(address, Version::Http1);
    load::across_upgrades(&mut service, || http.clone());
    service.stop();
}

#[test]
fn no_request_is_lost_behind_haproxy() {
    if !have("haproxy") {
        return;
    }
    let (mut service, address) = (service(), free());
    let socket = service.path("socket");
    let configuration = format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  retries 0\n\
         listen service\n  bind {address}\n  http-reuse always\n  server one unix@{}\n",
        socket.display()
    );
    fs::write(service.path("haproxy.cfg"), configuration).expect("it can be written");
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-db").arg("-f").arg(service.path("haproxy.cfg"));
    let _proxy = Proxy::start(&service, haproxy, address);
    let http = Http::new(address, Version::Http1);
    load::across_upgrades(&mut service, || http.clone());
    service.stop();
}
