//! A service behind nginx and behind HAProxy, over upgrades under load: the clients are the proxy's.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use load::{Http, Proxy, Service, Version, have};

fn service() -> Service {
    let command = Service::of(env!("CARGO_BIN_EXE_behind-nginx"));
    let socket = format!("{}?mode=600", command.path("socket").display());
    command.listen("http", &socket).start()
}

/// Clients of a proxy lose no request while the service behind the proxy is upgraded.
fn across_upgrades(start: impl FnOnce(&Path, &Path, SocketAddr) -> Proxy) {
    let (mut service, address) = (service(), Proxy::free().expect("a port"));
    let socket = service.path("socket");
    let directory = socket.parent().expect("that of the service");
    let proxy = start(directory, &socket, address);
    let http = Http::new(address, Version::Http1);
    load::across_uncounted_upgrades(&mut service, || http.clone());
    // The proxy closes its connections to the service when it ends.
    drop(proxy);
    service.stop();
}

#[test]
fn no_request_is_lost_behind_nginx() {
    if have("nginx") {
        across_upgrades(|directory, socket, address| {
            Proxy::nginx(directory, socket, address).expect("nginx listens")
        });
    }
}

#[test]
fn no_request_is_lost_behind_haproxy() {
    if have("haproxy") {
        across_upgrades(|directory, socket, address| {
            let configuration = format!(
                "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  retries 0\n\
                 listen service\n  bind {address}\n  http-reuse always\n  server one unix@{}\n",
                socket.display()
            );
            let path = directory.join("haproxy.cfg");
            fs::write(&path, configuration).expect("it can be written");
            let mut haproxy = Command::new("haproxy");
            haproxy.arg("-db").arg("-f").arg(path);
            Proxy::start(haproxy, directory, address).expect("HAProxy listens")
        });
    }
}
