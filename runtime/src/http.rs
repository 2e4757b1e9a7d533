//! Serve HTTP so that a drain loses no request (feature `http`).
//!
//! A connection stays open between requests. The peer that closes it cannot know whether the next request is already on
//! its way. So once a successor serves, a connection ends as follows:
//!
//! * HTTP/1.1: the next answer has `Connection: close`, RFC 9112 section 9.6, and the client connects to the successor.
//!   An idle connection stays open for a grace of 5 s from the beginning of the drain, but for at most half of
//!   `drain_timeout`. In that time nearly every client sends its next request or goes away by itself. After the grace
//!   the connection is closed, unless something has arrived meanwhile. So a request may arrive slowly. A request of
//!   which nothing more arrives for a whole grace is given up.
//! * HTTP/2: the connection ends by the GOAWAYs of RFC 9113 section 6.8. The first GOAWAY forbids no stream. It comes
//!   before the next answer, because a client that has its answer sends the next request. Without an answer it comes a
//!   second after the beginning of the drain. A second after the first GOAWAY the client gets a PING. Its answer shows
//!   that it has read the first GOAWAY, and that everything it sent before has arrived. Then the last GOAWAY names the
//!   last stream that is served. Open streams are served to their end. A client counts as gone if nothing arrives from
//!   it within 5 s of that PING, or within half of the rest of a short drain. The drain then waits for it only if an
//!   answer is under way.
//! * A connection that was accepted and has sent nothing yet is served like any other: its first request is answered.
//!   If no request arrives in the grace, the connection is closed, also during a TLS handshake. So it does not delay
//!   the drain. The same is true of a connection that has sent a part of a handshake or of a request, and then nothing
//!   for a grace.
//! * A connection that has become another protocol, such as a WebSocket, is counted, and has until `drain_timeout`. So
//!   is an answer that is still streaming. The handler learns of the drain from [`Shutdown`].
//!
//! At `drain_timeout` every connection that is left is aborted.
//!
//! A client that pipelines may have sent more requests behind the one whose answer has `Connection: close`, RFC 9112
//! section 9.3.2. Hardly any client does. It has to send those requests again: that answer says that they were not
//! processed.
//!
//! There is one more limit, while the service serves. A client has 30 s, from its first byte on, for the handshake, and
//! for the head of a request of HTTP/1.1 or the preface of HTTP/2. After that the connection is closed, so an
//! incomplete one costs no descriptor for longer.
//!
//! A client may be idle for as long as the service serves, from its accept or its last answer on. A limit on idle time
//! would lose the requests that cross the close. Such a limit is the task of a proxy or of a layer of the service. A
//! peer may vanish without a word, for example with its network. The kernel finds it if the address of the listener
//! asks for that: `tcp://[::]:80?keepalive=1`.

mod activity;
mod answer;
mod connection;
mod notice;
mod version;

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::between::drain::Shutdown;
use crate::net::{TcpListener, TcpStream};
#[cfg(unix)]
use crate::net::{UnixListener, UnixStream};

pub use activity::Connection;
use activity::{Activity, is_quiet};
use answer::Answering;
use version::{Shaken, negotiated};

type BoxError = Box<dyn Error + Send + Sync>;

/// The source of connections for [`serve`]: a managed listener, or one [`with_handshake`].
pub trait Listener: sealed::Listener {}

impl<L: sealed::Listener> Listener for L {}

mod sealed {
    use super::*;

    pub trait Listener: Send + Sync {
        /// The stream that the managed listener accepts.
        type Stream: Stream;
        /// The stream that carries HTTP, after the handshake.
        type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

        fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
        fn shake_hands(
            &self,
            connection: Connection<Self::Stream>,
        ) -> impl Future<Output = Result<Shaken<Self::Io>, BoxError>> + Send + 'static;
        fn shutdown(&self) -> Shutdown;
    }

    pub trait IntoService<Kind> {
        type Service: hyper::service::Service<
                Request<Incoming>,
                Response = Response<Self::Body>,
                Error: Into<BoxError>,
                Future: Send + 'static,
            > + Clone
            + Send
            + 'static;
        type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;

        fn into_service(self) -> Self::Service;
    }

    pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
        /// Whether the body has read every byte that has arrived, and the peer has not ended the stream.
        fn is_quiet(&self) -> bool;
    }
}

macro_rules! listener {
    ($listener:ty, $stream:ty) => {
        impl sealed::Listener for $listener {
            type Stream = $stream;
            type Io = Connection<$stream>;

            async fn accept(&self) -> io::Result<$stream> {
                <$listener>::accept(self).await.map(|(stream, _peer)| stream)
            }

            fn shake_hands(
                &self,
                connection: Connection<$stream>,
            ) -> impl Future<Output = Result<Shaken<Self::Io>, BoxError>> + Send + 'static {
                ready(Ok(Shaken { io: connection, negotiated: None }))
            }

            fn shutdown(&self) -> Shutdown {
                <$listener>::shutdown(self)
            }
        }

        impl sealed::Stream for $stream {
            fn is_quiet(&self) -> bool {
                is_quiet(&**self)
            }
        }
    };
}

listener!(TcpListener, TcpStream);
#[cfg(unix)]
listener!(UnixListener, UnixStream);

/// A listener whose connections pass through `handshake` before they carry HTTP, for example TLS with a library of your
/// choice.
///
/// ```ignore
/// let tls = tokio_rustls::TlsAcceptor::from(config);
/// let handshake = move |stream| tls.accept(stream);
/// let https = tableflip::http::with_handshake(https, handshake, |stream| stream.get_ref().1.alpn_protocol());
/// tableflip::http::serve(https, app).await
/// ```
///
/// The handshakes run concurrently with each other and with the accepts. A failed handshake ends only its own
/// connection.
///
/// For HTTP/2 the library has to offer `h2` by ALPN. `alpn` returns the protocol that a stream has negotiated, and this
/// decision holds: after `h2` the connection is HTTP/2, after `http/1.1` (or `http/1.0`) it is HTTP/1.1, whatever the
/// first bytes are. After any other protocol the connection ends. If nothing was negotiated, the first bytes show which
/// version the client speaks. For a handshake without ALPN, `alpn` is `|_| None`:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io::{Read, Write};
/// use tableflip::http::{Connection, serve, with_handshake};
/// use tableflip::net::{TcpListener, TcpStream};
/// use tableflip::{Service, testing};
/// use tokio::io::AsyncReadExt;
///
/// let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// let service = testing::start(Service::new().listen("http", "tcp://127.0.0.1:0"), |start| {
///     let http: TcpListener = start.listener("http")?;
///     // The handshake is one byte.
///     let handshake = |mut stream: Connection<TcpStream>| async move {
///         stream.read_u8().await?;
///         std::io::Result::Ok(stream)
///     };
///     Ok(serve(with_handshake(http, handshake, |_| None), app))
/// })?;
/// let mut client = std::net::TcpStream::connect(service.address("http").unwrap())?;
/// client.write_all(b"!GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
/// let mut answer = String::new();
/// client.read_to_string(&mut answer)?;
/// assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"));
/// # service.stop();
/// # Ok(())
/// # }
/// ```
pub fn with_handshake<L, F, H, T, E, A>(listener: L, handshake: F, alpn: A) -> WithHandshake<L, F, A>
where
    L: Listener,
    F: Fn(Connection<L::Stream>) -> H,
    H: Future<Output = Result<T, E>> + Send + 'static,
    A: Fn(&T) -> Option<&[u8]>,
{
    WithHandshake { listener, handshake, alpn }
}

/// The listener that [`with_handshake`] makes.
#[derive(Clone)]
pub struct WithHandshake<L, F, A> {
    listener: L,
    handshake: F,
    alpn: A,
}

impl<L, F, H, T, E, A> sealed::Listener for WithHandshake<L, F, A>
where
    L: Listener,
    F: Fn(Connection<L::Stream>) -> H + Send + Sync,
    H: Future<Output = Result<T, E>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Into<BoxError>,
    A: Fn(&T) -> Option<&[u8]> + Clone + Send + Sync + 'static,
{
    type Stream = L::Stream;
    type Io = T;

    fn accept(&self) -> impl Future<Output = io::Result<L::Stream>> + Send {
        sealed::Listener::accept(&self.listener)
    }

    fn shake_hands(
        &self,
        connection: Connection<L::Stream>,
    ) -> impl Future<Output = Result<Shaken<T>, BoxError>> + Send + 'static {
        let (handshake, alpn) = ((self.handshake)(connection), self.alpn.clone());
        async move {
            let io = handshake.await.map_err(Into::into)?;
            let negotiated = alpn(&io).map(negotiated).transpose()?;
            Ok(Shaken { io, negotiated })
        }
    }

    fn shutdown(&self) -> Shutdown {
        sealed::Listener::shutdown(&self.listener)
    }
}

impl<L: fmt::Debug, F, A> fmt::Debug for WithHandshake<L, F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithHandshake").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// A service for [`serve`]: a `tower_service::Service` over hyper's requests, such as an `axum::Router`, or a
/// `hyper::service::Service`, such as a `service_fn`. It is cloned for each connection.
///
/// `Kind` is [`Tower`] or [`Hyper`]. The compiler infers it, so no code names it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no service for HTTP",
    label = "not a service",
    note = "what is served is `Clone` and `Send`, and a `tower_service::Service` or a `hyper::service::Service` over \
            `Request<hyper::body::Incoming>`",
    note = "a router with a state is given it first: `router.with_state(state)`"
)]
pub trait IntoService<Kind>: sealed::IntoService<Kind> {}

#[diagnostic::do_not_recommend]
impl<Kind, S: sealed::IntoService<Kind>> IntoService<Kind> for S {}

/// A `tower_service::Service`.
#[derive(Debug)]
pub enum Tower {}

/// A `hyper::service::Service`.
#[derive(Debug)]
pub enum Hyper {}

impl<S, B> sealed::IntoService<Tower> for S
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Service = TowerToHyperService<S>;
    type Body = B;

    fn into_service(self) -> Self::Service {
        TowerToHyperService::new(self)
    }
}

impl<S, B> sealed::IntoService<Hyper> for S
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Service = S;
    type Body = B;

    fn into_service(self) -> S {
        self
    }
}

/// Serves an `axum::Router`, or any other [service](IntoService), by HTTP/1.1 and HTTP/2 on a managed listener. The
/// first bytes of a connection show which version it speaks, unless a [handshake](with_handshake) has negotiated it.
///
/// Returns `Ok` once the service is replaced or stopped and every HTTP connection has ended. A failure on one
/// connection ends only that connection.
///
/// # Errors
///
/// An error of accept(2) after which the listener cannot accept any more.
pub async fn serve<L, S, Kind>(listener: L, service: S) -> io::Result<()>
where
    L: Listener,
    S: IntoService<Kind>,
{
    let service = service.into_service();
    let mut shutdown = sealed::Listener::shutdown(&listener);
    shutdown.shared().set_serves_http();
    // Each connection has a sender, and no sender sends. So the channel ends when the last connection has ended.
    let (open, mut all_ended) = mpsc::channel::<Infallible>(1);
    loop {
        let accepted = {
            let mut accept = pin!(sealed::Listener::accept(&listener));
            // The shutdown first: after it there is nothing to accept.
            poll_fn(|cx| match Pin::new(&mut shutdown).poll(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => accept.as_mut().poll(cx).map(Some),
            })
            .await
        };
        let stream = match accepted {
            Some(stream) => stream?,
            None => break,
        };
        let activity = Arc::new(Activity::default());
        let io = listener.shake_hands(Connection::new(stream, activity.clone()));
        let service = Answering::new(service.clone(), shutdown.clone(), activity.clone());
        let (shutdown, open) = (shutdown.clone(), open.clone());
        tokio::spawn(async move {
            connection::serve(io, service, activity, shutdown).await;
            drop(open);
        });
    }
    drop((listener, open));
    match all_ended.recv().await {
        None => Ok(()),
        Some(never) => match never {},
    }
}
