//! A service behind nginx and behind HAProxy, over upgrades under load: the clients are the proxy's.

use std::fs;
use std::process::Command;

use load::{Http, Proxy, Service, Version, have};

fn service() -> Service {
    let command = Service::of(env!("CARGO_BIN_EXE_behind-nginx"));
    let socket = format!("{}?mode=600", command.path("socket").display());
    command.listen("http", &socket).start()
}

#[test]
fn no_request_is_lost_behind_nginx() {
    if !have("nginx") {
        return;
    }
    let (mut service, address) = (service(), Proxy::free().expect("a port"));
    let socket = service.path("socket");
    let directory = socket.parent().expect("that of the service");
    let proxy = Proxy::nginx(directory, &socket, address).expect("nginx listens");
    let http = Http::new(address, Version::Http1);
    load::across_uncounted_upgrades(&mut service, || http.clone());
    // With it go its connections to the service.
    drop(proxy);
    service.stop();
}

#[test]
fn no_request_is_lost_behind_haproxy() {
    if !have("haproxy") {
        return;
    }
    let (mut service, address) = (service(), Proxy::free().expect("a port"));
    let socket = service.path("socket");
    let configuration = format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  retries 0\n\
         listen service\n  bind {address}\n  http-reuse always\n  server one unix@{}\n",
        socket.display()
    );
    fs::write(service.path("haproxy.cfg"), configuration).expect("it can be written");
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-db").arg("-f").arg(service.path("haproxy.cfg"));
    let directory = socket.parent().expect("that of the service");
    let proxy = Proxy::start(haproxy, directory, address).expect("HAProxy listens");
    let http = Http::new(address, Version::Http1);
    load::across_uncounted_upgrades(&mut service, || http.clone());
    // With it go its connections to the service.
    drop(proxy);
    service.stop();
}
