//! HTTPS over upgrades under load, and certificates that change.

use std::fs;
use std::path::PathBuf;

use load::{Certificate, Http, Service, Version};

/// A service whose certificate is this one.
struct Https {
    service: Service,
    first: PathBuf,
}

impl Https {
    fn start() -> Self {
        let command = Service::of(env!("CARGO_BIN_EXE_tls")).listen("https", "tcp://127.0.0.1:0");
        let made = Certificate::make(&command.path("first")).expect("openssl makes it");
        fs::copy(&made.certificate, command.path("cert.pem")).expect("it is there");
        fs::copy(&made.key, command.path("key.pem")).expect("it is there");
        Self { service: command.start(), first: made.certificate }
    }

    /// Clients that trust the certificate lose no request.
    fn across_upgrades(mut self, version: Version) {
        let client = Http::new(self.service.address("https"), version).trusting(&[&self.first]);
        load::across_upgrades(&mut self.service, || client.clone());
        self.service.stop();
    }
}

#[test]
fn no_request_of_http_1_is_lost_over_tls() {
    Https::start().across_upgrades(Version::Http1);
}

#[test]
fn no_request_of_http_2_is_lost_over_tls() {
    Https::start().across_upgrades(Version::Http2);
}

#[test]
fn the_successor_reads_the_certificate_again() {
    let mut https = Https::start();
    let second = Certificate::make(&https.service.path("second")).expect("openssl makes it");
    let trusts = |certificate: &PathBuf| {
        let mut client = Http::new(https.service.address("https"), Version::Http1).trusting(&[certificate]);
        load::block_on(async move { client.get().await })
    };
    let (first, other) = (trusts(&https.first), trusts(&second.certificate));
    assert!(first.is_ok() && other.is_err(), "{first:?} {other:?}");
    fs::copy(&second.certificate, https.service.path("cert.pem")).expect("it is there");
    // Beside a key that is not its own: the new process cannot start, and the old one serves on.
    let refusal = https.service.refused_upgrade();
    assert!(refusal.contains("the successor could not start"), "{refusal}");
    fs::copy(&second.key, https.service.path("key.pem")).expect("it is there");
    https.service.upgrade();
    let server = https.service.address("https");
    let mut client = Http::new(server, Version::Http1).trusting(&[&second.certificate]);
    load::block_on(async move { client.get().await }).expect("the new certificate is shown");
    https.service.stop();
}
