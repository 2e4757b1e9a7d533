//! WebSockets on the connections of [`http::serve`](crate::http::serve).

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::header::{HeaderValue, SEC_WEBSOCKET_VERSION};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::hand_over::sealed::{Managed, Tag};
use super::socket::{Parts, Socket};
use crate::http::accepted_stream;
use crate::moving::session::Session;
use crate::net::TcpStream;
#[cfg(unix)]
use crate::net::UnixStream;

/// Answers a request for a WebSocket, of hyper or of axum. The answer goes to the client, and the [`Opening`] to a task: the
/// socket opens when the answer has been sent.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::Router;
/// use axum::extract::Request;
/// use axum::response::Response;
/// use axum::routing::get;
/// use futures_util::{SinkExt, StreamExt};
/// use tableflip::websocket::{self, Opening};
/// use tableflip::{Service, http, net::TcpListener, testing};
/// use tokio_tungstenite::tungstenite::Error;
///
/// async fn echo(opening: Opening) -> Result<(), Error> {
///     let mut socket = opening.socket().await?;
///     while let Some(message) = socket.next().await.transpose()? {
///         if message.is_text() {
///             socket.send(message).await?;
///         }
///     }
///     Ok(())
/// }
///
/// async fn chat(mut request: Request) -> Response {
///     match websocket::upgrade(&mut request, None) {
///         Ok((answer, opening)) => {
///             tokio::spawn(echo(opening));
///             answer
///         }
///         Err(refusal) => refusal,
///     }
/// }
///
/// let service = testing::start(Service::new().listen("http", "tcp://127.0.0.1:0"), |start| {
///     let http: TcpListener = start.listener("http")?;
///     Ok(http::serve(http, Router::new().route("/chat", get(chat))))
/// })?;
/// # let address = service.address("http").unwrap().to_string();
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// #     let stream = tokio::net::TcpStream::connect(&address).await?;
/// #     let (mut client, _) = tokio_tungstenite::client_async("ws://localhost/chat", stream).await?;
/// #     client.send("hello".into()).await?;
/// #     assert_eq!(client.next().await.unwrap()?, "hello".into());
/// #     client.close(None).await
/// # })?;
/// # drop(runtime);
/// # service.stop();
/// # Ok(())
/// # }
/// ```
///
/// The answer may get more headers, such as `Sec-WebSocket-Protocol`.
///
/// # Errors
///
/// The answer to a request that is not the handshake of RFC 6455, section 4.2: 426 with the version that is spoken here if the
/// client speaks another one, else 400.
pub fn upgrade<B, A: Default>(
    request: &mut Request<B>,
    config: Option<WebSocketConfig>,
) -> Result<(Response<A>, Opening), Response<A>> {
    match create_response_with_body(request, A::default) {
        Ok(answer) => Ok((answer, Opening { upgrade: hyper::upgrade::on(request), config })),
        Err(error) => Err(refusal(&error)),
    }
}

fn refusal<A: Default>(error: &Error) -> Response<A> {
    let mut refusal = Response::new(A::default());
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    if let Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) = error {
        *refusal.status_mut() = StatusCode::UPGRADE_REQUIRED;
        refusal.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    refusal
}

/// A WebSocket whose handshake has been [answered](upgrade).
#[derive(Debug)]
#[must_use = "the socket opens only for a task that waits for it"]
pub struct Opening {
    upgrade: OnUpgrade,
    config: Option<WebSocketConfig>,
}

impl Opening {
    /// Waits until the answer has been sent.
    ///
    /// # Errors
    ///
    /// The connection has ended before, or the answer was another one.
    pub async fn socket(self) -> Result<Socket<Upgraded>, Error> {
        let upgraded = self.upgrade.await.map_err(io::Error::other)?;
        let (stream, unread) = Upgraded::new(upgraded);
        Ok(Parts::new(stream, unread).resume(self.config).await)
    }
}

/// The stream of a connection that was HTTP before. It moves if the listener is served without a handshake. [`resume`](super::resume) takes it too: it is made of a managed stream
/// by `From`.
#[derive(Debug)]
pub struct Upgraded {
    io: Io,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// After a handshake, or not of `http::serve`. The mutex makes it `Sync`, and is never locked.
    Other(Box<Mutex<TokioIo<hyper::upgrade::Upgraded>>>),
}

impl Upgraded {
    /// The stream below, and what was read of it.
    fn new(upgraded: hyper::upgrade::Upgraded) -> (Self, Vec<u8>) {
        let upgraded = match accepted_stream::<TcpStream>(upgraded) {
            Ok((stream, unread)) => return (stream.into(), unread),
            Err(upgraded) => upgraded,
        };
        #[cfg(unix)]
        let upgraded = match accepted_stream::<UnixStream>(upgraded) {
            Ok((stream, unread)) => return (stream.into(), unread),
            Err(upgraded) => upgraded,
        };
        (Self { io: Io::Other(Box::new(Mutex::new(TokioIo::new(upgraded)))) }, Vec::new())
    }
}

impl From<TcpStream> for Upgraded {
    fn from(stream: TcpStream) -> Self {
        Self { io: Io::Tcp(stream) }
    }
}

#[cfg(unix)]
impl From<UnixStream> for Upgraded {
    fn from(stream: UnixStream) -> Self {
        Self { io: Io::Unix(stream) }
    }
}

impl Managed for Upgraded {
    fn counted(&self) -> Option<Tag<'_>> {
        match &self.io {
            Io::Tcp(stream) => Managed::counted(stream),
            #[cfg(unix)]
            Io::Unix(stream) => Managed::counted(stream),
            Io::Other(_) => None,
        }
    }

    async fn hand_over(self, session: Session) -> Result<(), Self> {
        match self.io {
            Io::Tcp(stream) => stream.hand_over(session).await.map_err(Self::from),
            #[cfg(unix)]
            Io::Unix(stream) => stream.hand_over(session).await.map_err(Self::from),
            Io::Other(_) => Err(self),
        }
    }
}

macro_rules! on_stream {
    ($this:expr, $stream:ident => $call:expr) => {
        match &mut $this.get_mut().io {
            Io::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            #[cfg(unix)]
            Io::Unix($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Io::Other($stream) => {
                let $stream = Pin::new($stream.get_mut().unwrap_or_else(PoisonError::into_inner));
                $call
            }
        }
    };
}

impl AsyncRead for Upgraded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => stream.poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::{Read, Write};
    use std::sync::mpsc;
    use std::time::Duration;

    use futures_util::{SinkExt, StreamExt};
    use hyper::body::Incoming;
    use hyper::service::service_fn;

    use super::super::frames::{Opcode, put};
    use super::super::socket::into_parts;
    use super::*;
    use crate::http::{serve, with_handshake};
    use crate::net::{TcpListener, UnixListener};
    use crate::{Service, testing};

    const LIMIT: Duration = Duration::from_secs(10);

    /// Echoes, and takes the socket apart after each message.
    async fn echo(opening: Opening, kinds: mpsc::Sender<&'static str>) -> Result<(), Error> {
        let mut socket = opening.socket().await?;
        while let Some(message) = socket.next().await.transpose()? {
            if message.is_close() {
                break;
            }
            socket.send(message).await?;
            let parts = into_parts(socket, LIMIT).await.expect("it can be taken apart");
            let kind = match parts.stream.io {
                Io::Tcp(_) => "tcp",
                Io::Unix(_) => "unix",
                Io::Other(_) => "other",
            };
            kinds.send(kind).expect("the test waits");
            socket = parts.resume(None).await;
        }
        // The answer to the Close.
        while socket.next().await.transpose()?.is_some() {}
        Ok(())
    }

    async fn answer(
        mut request: Request<Incoming>,
        kinds: mpsc::Sender<&'static str>,
    ) -> Result<Response<String>, Infallible> {
        Ok(match upgrade(&mut request, None) {
            Ok((answer, opening)) => {
                tokio::spawn(async move { echo(opening, kinds).await.expect("the client is polite") });
                answer
            }
            Err(refusal) => refusal,
        })
    }

    const HANDSHAKE: &[u8] =
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    /// A client that does not wait for the answer to its handshake.
    fn converse(
        mut client: impl Read + Write,
        first: &[u8],
        kinds: &mpsc::Receiver<&'static str>,
        kind: &str,
    ) {
        let mut wire = [first, HANDSHAKE].concat();
        put(Opcode::Text, b"one", &mut wire);
        put(Opcode::Text, b"two", &mut wire);
        let (now, later) = wire.split_at(wire.len() - 2);
        client.write_all(now).unwrap();
        assert_eq!(kinds.recv_timeout(LIMIT).unwrap(), kind);
        client.write_all(later).unwrap();
        assert_eq!(kinds.recv_timeout(LIMIT).unwrap(), kind);
        client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        // The example of RFC 6455, section 1.3.
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        assert!(text.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{text}");
        assert!(answer.ends_with(b"\r\n\r\n\x81\x03one\x81\x03two\x88\x00"), "{text}");
    }

    #[test]
    fn the_stream_below_is_that_of_the_listener_and_nothing_is_lost() {
        let (kinds, taken) = mpsc::channel();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let service = Service::new()
            .listen("tcp", "tcp://127.0.0.1:0")
            .listen("unix", format!("unix://{}", path.display()))
            .listen("shaken", "tcp://127.0.0.1:0");
        let service = testing::start(service, |start| {
            let tcp: TcpListener = start.listener("tcp")?;
            let unix: UnixListener = start.listener("unix")?;
            let shaken: TcpListener = start.listener("shaken")?;
            // The handshake is one byte.
            let handshake = |mut stream: crate::http::Connection<TcpStream>| async move {
                tokio::io::AsyncReadExt::read_u8(&mut stream).await?;
                io::Result::Ok(tokio::io::BufReader::new(stream))
            };
            let shaken = with_handshake(shaken, handshake, |_| None);
            let app = service_fn(move |request| answer(request, kinds.clone()));
            Ok(async move {
                let (tcp, unix, shaken) =
                    tokio::join!(serve(tcp, app.clone()), serve(unix, app.clone()), serve(shaken, app));
                tcp.and(unix).and(shaken)
            })
        })
        .unwrap();
        let connect =
            |name| std::net::TcpStream::connect(service.address(name).unwrap().to_string()).unwrap();
        converse(connect("tcp"), b"", &taken, "tcp");
        converse(std::os::unix::net::UnixStream::connect(&path).unwrap(), b"", &taken, "unix");
        converse(connect("shaken"), b"!", &taken, "other");
        service.stop();
    }

    #[test]
    fn a_request_that_is_no_handshake_is_refused() {
        let request = |change: &str, by: &str| {
            let text = String::from_utf8(HANDSHAKE.to_vec()).unwrap().replace(change, by);
            let mut lines = text.lines();
            let method = lines.next().unwrap().split(' ').next().unwrap();
            let mut request = Request::builder().method(method);
            for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
                request = request.header(name, value);
            }
            request.body(()).unwrap()
        };
        let status = |change, by| match upgrade::<_, String>(&mut request(change, by), None) {
            Ok((answer, _)) => answer.status().as_u16(),
            Err(refusal) => {
                let version = refusal.headers().get(SEC_WEBSOCKET_VERSION).is_some_and(|value| value == "13");
                assert_eq!(version, refusal.status() == StatusCode::UPGRADE_REQUIRED);
                refusal.status().as_u16()
            }
        };
        assert_eq!(status("", ""), 101);
        assert_eq!(status("Version: 13", "Version: 8"), 426);
        for (change, by) in [
            ("GET", "POST"),
            ("keep-alive, Upgrade", "keep-alive"),
            ("websocket\r\n", "h2c\r\n"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        ] {
            assert_eq!(status(change, by), 400, "{change}");
        }
    }
}
