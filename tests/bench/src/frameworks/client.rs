//! The clients: one connection, one request at a time.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::Result;
use crate::process::PATIENCE;

/// The message `name: "World"` of the example, uncompressed.
const CALL: &[u8] = b"\0\0\0\0\x07\x0a\x05World";
/// RFC 1035: www.example.org, A, IN; its number is 1, and the answer has the address of the example at its end.
const QUERY: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03org\0\0\x01\0\x01";
const ADDRESS: &[u8] = &[192, 0, 2, 1];

const HTTP: Lines = Lines { request: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", end: b"Hello, World!" };
const REDIS: Lines = Lines { request: b"*1\r\n$4\r\nPING\r\n", end: b"+PONG\r\n" };
const WORDS: Lines = Lines { request: b"Hello, World!\n", end: b"HELLO, WORLD!\n" };

/// A request of bytes, and what its answer ends with. All answers are of one size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    request: &'static [u8],
    end: &'static [u8],
}

/// Who asks a framework.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) framework: &'static str,
    pub(super) address: SocketAddr,
    pub(super) tls: TlsConnector,
}

/// One that trusts this certificate, and makes every handshake a whole one.
pub(super) fn trusting(certificate: &Path) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config).into())
}

impl Opener {
    /// A connection, by which the service has answered once.
    pub(super) async fn open(&self) -> Result<Client> {
        let mut client = match self.framework {
            "dns" => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                socket.connect(self.address).await?;
                Client::Dns(socket)
            }
            "redis" => return Client::lines(REDIS, Box::new(self.connect().await?)).await,
            "threads" => return Client::lines(WORDS, Box::new(self.connect().await?)).await,
            "tls" => {
                let name = ServerName::try_from("localhost")?;
                let stream = self.tls.connect(name, self.connect().await?).await?;
                return Client::lines(HTTP, Box::new(stream)).await;
            }
            "tonic" => {
                let stream = TokioIo::new(self.connect().await?);
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                // What it ends by, the sender of a request learns.
                tokio::spawn(async { connection.await.unwrap_or_default() });
                Client::Grpc(sender)
            }
            "websocket" => {
                let (socket, _answer) = client_async("ws://localhost/", self.connect().await?).await?;
                Client::WebSocket(Box::new(socket))
            }
            _ => return Client::lines(HTTP, Box::new(self.connect().await?)).await,
        };
        client.ask().await?;
        Ok(client)
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        // A reset leaves no TIME_WAIT behind, of which those of a connection for each request would fill the table.
        stream.set_zero_linger()?;
        Ok(stream)
    }
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection.
pub(super) enum Client {
    Lines { stream: Box<dyn Stream>, lines: Lines, answer: Vec<u8> },
    Grpc(http2::SendRequest<Full<Bytes>>),
    WebSocket(Box<WebSocketStream<TcpStream>>),
    Dns(UdpSocket),
}

impl Client {
    async fn lines(lines: Lines, mut stream: Box<dyn Stream>) -> Result<Self> {
        stream.write_all(lines.request).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(lines.end) {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err("the connection ended".into());
            }
        }
        Ok(Self::Lines { stream, lines, answer })
    }

    pub(super) async fn ask(&mut self) -> Result<()> {
        match self {
            Self::Lines { stream, lines, answer } => {
                stream.write_all(lines.request).await?;
                // TLS keeps a record back until there is room for it.
                stream.flush().await?;
                stream.read_exact(answer).await?;
                expect(answer.ends_with(lines.end), answer)
            }
            Self::Grpc(sender) => {
                let request = Request::post("http://localhost/greeter.Greeter/SayHello");
                let request = request.header(CONTENT_TYPE, "application/grpc").header("te", "trailers");
                sender.ready().await?;
                let answer = sender.send_request(request.body(Full::from(CALL))?).await?;
                let status = answer.status();
                let body = answer.into_body().collect().await?.to_bytes();
                expect(status == StatusCode::OK && body.ends_with(b"Hello, World!"), &body)
            }
            Self::WebSocket(socket) => {
                socket.send(Message::text("Hello, World!")).await?;
                let answer = socket.next().await.ok_or("the connection ended")??.into_data();
                expect(answer == b"Hello, World!"[..], &answer)
            }
            Self::Dns(socket) => {
                socket.send(QUERY).await?;
                let mut answer = [0; 512];
                let length = timeout(PATIENCE, socket.recv(&mut answer)).await??;
                expect(answer[..length].ends_with(ADDRESS), &answer[..length])
            }
        }
    }
}

fn expect(is_right: bool, answer: &[u8]) -> Result<()> {
    match is_right {
        true => Ok(()),
        false => Err(format!("the answer is {:?}", String::from_utf8_lossy(answer)).into()),
    }
}
