//! A client of HTTP that keeps its connection, and knows when a request was lost.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Client;

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// With keep-alive.
    Http1,
    /// With prior knowledge, or by ALPN.
    Http2,
}

/// A client with one connection. A clone has none yet.
pub struct Http {
    server: SocketAddr,
    version: Version,
    path: &'static str,
    tls: Option<TlsConnector>,
    sender: Option<Sender>,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http")
            .field("server", &self.server)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Clone for Http {
    fn clone(&self) -> Self {
        let Self { server, version, path, ref tls, .. } = *self;
        Self { server, version, path, tls: tls.clone(), sender: None }
    }
}

impl Http {
    /// A client of this server, that asks for `/`.
    pub fn new(server: SocketAddr, version: Version) -> Self {
        Self { server, version, path: "/", tls: None, sender: None }
    }

    /// It asks for this.
    pub fn path(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    /// Over TLS, and it trusts these certificates.
    pub fn trusting(self, certificates: &[&Path]) -> Self {
        let mut roots = RootCertStore::empty();
        for path in certificates {
            let certificate = CertificateDer::from_pem_file(path).expect("a certificate");
            roots.add(certificate).expect("a certificate that can be trusted");
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = match self.version {
            Version::Http1 => vec![b"http/1.1".to_vec()],
            Version::Http2 => vec![b"h2".to_vec()],
        };
        Self { tls: Some(Arc::new(config).into()), ..self }
    }

    async fn connect(&self) -> Result<Sender, String> {
        let stream = TcpStream::connect(self.server).await.map_err(lost("connecting"))?;
        stream.set_nodelay(true).map_err(lost("setting TCP_NODELAY"))?;
        let Some(tls) = &self.tls else { return self.begin(stream).await };
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = tls.connect(name, stream).await.map_err(lost("shaking hands"))?;
        self.begin(stream).await
    }

    async fn begin(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Sender, String> {
        let stream = TokioIo::new(stream);
        Ok(match self.version {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.map_err(lost("beginning"))?;
                // What it ends by, the sender of the request learns.
                tokio::spawn(async { connection.await.unwrap_or_default() });
                Sender::Http1(sender)
            }
            Version::Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), stream);
                let (sender, connection) = handshake.await.map_err(lost("beginning"))?;
                tokio::spawn(async { connection.await.unwrap_or_default() });
                Sender::Http2(sender)
            }
        })
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let builder = match self.version {
            Version::Http1 => Request::get(self.path).header(HOST, "localhost"),
            Version::Http2 => Request::get(format!("{scheme}://localhost{}", self.path)),
        };
        builder.body(Empty::new()).expect("a request")
    }

    /// One request, and its whole answer.
    pub async fn get(&mut self) -> Result<Bytes, String> {
        loop {
            let (mut sender, is_new) = match self.sender.take() {
                Some(sender) => (sender, false),
                None => (self.connect().await?, true),
            };
            let answer = match sender.send(self.request()).await {
                Ok(answer) => answer,
                // It was not sent: the connection had been closed, as far as this side knew. The server owes a new one
                // an answer.
                Err(error) if error.message().is_some() && !is_new => continue,
                Err(error) => {
                    let what = if is_new { "new connection" } else { "kept connection" };
                    return Err(lost(what)(error.into_error()));
                }
            };
            if answer.status() != StatusCode::OK {
                return Err(format!("the answer is {}", answer.status()));
            }
            let closes = answer.headers().get(CONNECTION).is_some_and(|value| value == "close");
            let body = answer.into_body().collect().await.map_err(lost("reading the answer"))?;
            if !closes {
                self.sender = Some(sender);
            }
            return Ok(body.to_bytes());
        }
    }
}

impl Sender {
    async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Empty<Bytes>>>> {
        match self {
            Self::Http1(sender) => {
                // Whether it can be used is told by what becomes of the request.
                sender.ready().await.unwrap_or_default();
                sender.try_send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await.unwrap_or_default();
                sender.try_send_request(request).await
            }
        }
    }
}

impl Client for Http {
    async fn ask(&mut self) -> Result<(), String> {
        self.get().await.map(drop)
    }
}

/// How a request was lost, with what caused the error.
fn lost<E: std::error::Error>(what: impl Display) -> impl FnOnce(E) -> String {
    move |error| {
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}
