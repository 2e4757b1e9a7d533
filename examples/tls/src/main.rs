//! HTTPS, HTTP/1.1 and HTTP/2. A new certificate takes an upgrade: the successor reads it. If it cannot, the predecessor
//! serves on with the old certificate.
//!
//! `cert.pem` and `key.pem` are in the working directory. `cargo run -p tls`, `curl --insecure https://127.0.0.1:8443/`,
//! `kill -HUP $(cat tls.pid)`.

use std::error::Error;
use std::sync::Arc;

use axum::{Router, routing::get};
use tableflip::http::{serve, with_handshake};
use tableflip::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

pub(crate) fn tls() -> Result<TlsAcceptor, Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter("cert.pem")?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file("key.pem")?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

#[tableflip::main(pidfile = "tls.pid", listen = [https = "tcp://127.0.0.1:8443"])]
async fn main(https: TcpListener) -> Result<(), Box<dyn Error>> {
    let tls = tls()?;
    let app = Router::new().route("/", get(|| async { "Hello, World!" }));
    let handshake = move |stream| tls.accept(stream);
    Ok(serve(with_handshake(https, handshake, |stream| stream.get_ref().1.alpn_protocol()), app).await?)
}
