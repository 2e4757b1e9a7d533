//! A client of HTTP that keeps its connection, and knows when a request was lost.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, TE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Client;
use crate::loss::{bad, lost};

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
    /// What a method of gRPC is called with, in the frame that it has in a body.
    call: Option<Bytes>,
    tls: Option<TlsConnector>,
    sender: Option<Sender>,
    connections: u32,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    /// Not that of hyper, which does not say whether a request was sent that its h2 refused.
    Http2(h2::client::SendRequest<Bytes>),
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
        let Self { server, version, path, ref call, ref tls, .. } = *self;
        Self { call: call.clone(), tls: tls.clone(), ..Self::new(server, version).path(path) }
    }
}

impl Http {
    /// A client of this server, that asks for `/`.
    pub fn new(server: SocketAddr, version: Version) -> Self {
        Self { server, version, path: "/", call: None, tls: None, sender: None, connections: 0 }
    }

    /// A client of gRPC, over HTTP/2: each request calls this method, with this message.
    pub fn grpc(server: SocketAddr, method: &'static str, message: &[u8]) -> Self {
        // Not compressed, and its length.
        let length = u32::try_from(message.len()).expect("a message that is no longer than one may be");
        let frame = [&[0][..], &length.to_be_bytes(), message].concat();
        Self { call: Some(frame.into()), ..Self::new(server, Version::Http2).path(method) }
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

    async fn connect(&self) -> io::Result<Sender> {
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
    ) -> io::Result<Sender> {
        Ok(match self.version {
            Version::Http1 => {
                let stream = TokioIo::new(stream);
                let (sender, connection) = http1::handshake(stream).await.map_err(lost("beginning"))?;
                // What it ends by, the sender of the request learns.
                tokio::spawn(async { connection.await.unwrap_or_default() });
                Sender::Http1(sender)
            }
            Version::Http2 => {
                let (sender, connection) = h2::client::handshake(stream).await.map_err(lost("beginning"))?;
                tokio::spawn(async { connection.await.unwrap_or_default() });
                Sender::Http2(sender)
            }
        })
    }

    fn request<B>(&self, body: B) -> Request<B> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let builder = match self.version {
            Version::Http1 => Request::get(self.path).header(HOST, "localhost"),
            Version::Http2 => Request::get(format!("{scheme}://localhost{}", self.path)),
        };
        let builder = match self.call {
            Some(_) => builder.method("POST").header(CONTENT_TYPE, "application/grpc").header(TE, "trailers"),
            None => builder,
        };
        builder.body(body).expect("a request")
    }

    /// One request, and its whole answer.
    pub async fn get(&mut self) -> io::Result<Bytes> {
        loop {
            let (sender, is_new) = match self.sender.take() {
                Some(sender) => (sender, false),
                None => {
                    self.connections += 1;
                    (self.connect().await?, true)
                }
            };
            let sent = match sender {
                Sender::Http1(sender) => self.send_1(sender).await,
                Sender::Http2(sender) => self.send_2(sender).await,
            };
            match sent {
                Ok(answer) if answer.status() == StatusCode::OK => return Ok(answer.into_body()),
                Ok(answer) => return Err(bad(format!("the answer is {}", answer.status()))),
                Err(NotAnswered::NotSent(error)) if is_new => return Err(ended("new connection", &error)),
                // A GOAWAY had come. The server owes a new connection an answer.
                Err(NotAnswered::NotSent(_)) if self.version == Version::Http2 => {}
                // One that has said `Connection: close` was not kept. A client that is a moment slower would have
                // sent the request into the closed connection.
                Err(NotAnswered::NotSent(error)) => return Err(ended("closed without notice", &error)),
                Err(NotAnswered::Lost(error)) => return Err(error),
            }
        }
    }

    async fn send_1(
        &mut self,
        mut sender: http1::SendRequest<Empty<Bytes>>,
    ) -> Result<Response<Bytes>, NotAnswered> {
        // The outcome of the request shows whether the connection can be used.
        sender.ready().await.unwrap_or_default();
        let answer = match sender.try_send_request(self.request(Empty::new())).await {
            Ok(answer) => answer,
            Err(error) if error.message().is_some() => {
                return Err(NotAnswered::NotSent(error.into_error().to_string()));
            }
            Err(error) => return Err(NotAnswered::Lost(lost("sending")(error.into_error()))),
        };
        let closes = answer.headers().get(CONNECTION).is_some_and(|value| value == "close");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| NotAnswered::Lost(lost("reading")(error)))?;
        if !closes {
            self.sender = Some(Sender::Http1(sender));
        }
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    async fn send_2(
        &mut self,
        sender: h2::client::SendRequest<Bytes>,
    ) -> Result<Response<Bytes>, NotAnswered> {
        let not_sent = |error: h2::Error| NotAnswered::NotSent(error.to_string());
        let mut sender = sender.ready().await.map_err(not_sent)?;
        let (answer, mut request) =
            sender.send_request(self.request(()), self.call.is_none()).map_err(not_sent)?;
        let lost = |error| NotAnswered::Lost(lost("kept connection")(error));
        if let Some(call) = &self.call {
            request.send_data(call.clone(), true).map_err(lost)?;
        }
        let (head, mut body) = answer.await.map_err(lost)?.into_parts();
        let mut whole = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(lost)?;
            body.flow_control().release_capacity(data.len()).map_err(lost)?;
            whole.extend(data);
        }
        if self.call.is_some() {
            let trailers = body.trailers().await.map_err(lost)?.unwrap_or_default();
            // Without a message it is in the head.
            let status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
            if status.is_none_or(|status| status != "0") {
                return Err(NotAnswered::Lost(bad(format!("the status of gRPC is {status:?}"))));
            }
        }
        self.sender = Some(Sender::Http2(sender));
        Ok(Response::from_parts(head, whole.into()))
    }
}

/// Why there is no answer.
enum NotAnswered {
    /// The request has not left this side.
    NotSent(String),
    Lost(io::Error),
}

/// The connection was at its end before the request was sent.
fn ended(when: &str, error: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("{when}: {error}"))
}

impl Client for Http {
    async fn ask(&mut self) -> io::Result<()> {
        self.get().await.map(drop)
    }

    fn connections(&self) -> u32 {
        self.connections
    }
}
