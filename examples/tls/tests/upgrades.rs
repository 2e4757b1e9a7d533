//! HTTPS over upgrades under load, and certificates that change.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use load::{Certificate, Http, Service, Version};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

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

/// E5. What ALPN has decided holds, whatever the client sends then.
#[test]
fn e5_a_client_speaks_what_it_has_negotiated() {
    let mut https = Https::start();
    let server = https.service.address("https");
    let sends = |alpn: &[&str], sent: &[u8]| tls_answer(server, &https.first, alpn, sent);
    let get = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    // The preface of HTTP/2 and an empty SETTINGS.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let is_http_2 = |answer: &[u8]| answer.get(3) == Some(&4) && !answer.starts_with(b"HTTP");
    // Without ALPN the first bytes decide.
    for alpn in [&[][..], &["http/1.1"], &["h2"], &["h2", "http/1.1"]] {
        let is_h2 = alpn.contains(&"h2");
        let (to_get, to_preface) = (sends(alpn, get), sends(alpn, preface));
        assert_eq!(to_get.starts_with(b"HTTP/1.1 200"), !is_h2, "{alpn:?}: {}", to_get.escape_ascii());
        let expected = is_h2 || alpn.is_empty();
        assert_eq!(is_http_2(&to_preface), expected, "{alpn:?}: {}", to_preface.escape_ascii());
    }
    https.service.stop();
}

/// The first bytes of the answer, or what was sent until the end of the connection.
fn tls_answer(server: SocketAddr, trusted: &Path, alpn: &[&str], sent: &[u8]) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).expect("a certificate")).expect("it can be trusted");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(connection, TcpStream::connect(server).expect("somebody listens"));
    stream.write_all(sent).expect("the connection is open");
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer).unwrap_or_default();
    answer.truncate(length);
    answer
}
