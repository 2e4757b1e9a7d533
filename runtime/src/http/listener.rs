//! Where connections come from: a managed listener, and what is put around it.

use std::fmt;
use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::sync::Arc;

use hyper::http::Extensions;
use tokio::io::{AsyncRead, AsyncWrite};

use super::BoxError;
use super::activity::{Connection, Stream, is_quiet};
use super::version::{Shaken, negotiated};
use crate::between::drain::Shutdown;
use crate::moving::session::Session;
use crate::net::{Offer, Resumed, TcpListener, TcpStream};
#[cfg(unix)]
use crate::net::{UnixListener, UnixStream};

/// The source of connections for [`serve`](super::serve): a managed listener, or one [`with_handshake`] or
/// [`with_connect_info`].
pub trait Listener: sealed::Listener {}

impl<L: sealed::Listener> Listener for L {}

pub(super) mod sealed {
    use super::*;

    pub trait Listener: Send + Sync + 'static {
        /// The stream that the managed listener accepts.
        type Stream: Stream;
        /// The address of a client.
        type Addr: Clone + Send + Sync + 'static;
        /// The stream that carries HTTP, after the handshakes.
        type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

        fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Addr)>> + Send;
        fn shake_hands(
            &self,
            connection: Connection<Self::Stream>,
            peer: Self::Addr,
        ) -> impl Future<Output = Result<Shaken<Self::Io>, BoxError>> + Send + 'static;
        fn shutdown(&self) -> Shutdown;

        /// Whether connections can move to the successor: no handshake comes before HTTP.
        const MOVES: bool;
        fn name(&self) -> &str;
        /// The connections of a kind that the predecessor hands over.
        fn resumed(&self, kind: &str) -> Resumed<Self::Stream>;
        /// Takes an offer. Returns the connection and the address of its client.
        fn take(
            offer: Offer<Self::Stream>,
        ) -> impl Future<Output = io::Result<(Self::Stream, Self::Addr)>> + Send + 'static;
        /// Hands a connection over to the successor. Returns it if the successor does not take it.
        fn hand_over(
            io: Self::Io,
            session: Session,
        ) -> impl Future<Output = Result<(), Self::Io>> + Send + 'static;
    }
}

/// The address of the client, in the extensions of each request: a `SocketAddr` of std, by TCP or Unix as the listener.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::io::{Read, Write};
/// use std::convert::Infallible;
/// use std::net::SocketAddr;
/// use hyper::{Request, Response, body::Incoming, service::service_fn};
/// use tableflip::http::{PeerAddr, serve};
/// use tableflip::{Service, net::TcpListener, testing};
///
/// async fn whoami(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
///     let PeerAddr(peer) = request.extensions().get::<PeerAddr<SocketAddr>>().unwrap();
///     Ok(Response::new(format!("you are {peer}")))
/// }
///
/// let service = testing::start(Service::new().listen("http", "tcp://127.0.0.1:0"), |start| {
///     let http: TcpListener = start.listener("http")?;
///     Ok(serve(http, service_fn(whoami)))
/// })?;
/// # let mut client = std::net::TcpStream::connect(service.address("http").unwrap())?;
/// # client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
/// # let mut answer = String::new();
/// # client.read_to_string(&mut answer)?;
/// # assert!(answer.ends_with(&format!("you are {}", client.local_addr()?)), "{answer}");
/// # service.stop();
/// # Ok(())
/// # }
/// ```
///
/// With the feature `axum-08` the requests also have axum's `ConnectInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr<A>(pub A);

/// The extensions of each request of this client.
fn extensions_of(peer: &(impl Clone + Send + Sync + 'static)) -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(PeerAddr(peer.clone()));
    #[cfg(feature = "axum-08")]
    extensions.insert(axum::extract::ConnectInfo(peer.clone()));
    extensions
}

macro_rules! listener {
    ($listener:ty, $stream:ty, $address:ty, $peer:expr) => {
        impl sealed::Listener for $listener {
            type Stream = $stream;
            type Addr = $address;
            type Io = Connection<$stream>;

            async fn accept(&self) -> io::Result<($stream, $address)> {
                <$listener>::accept(self).await
            }

            fn shake_hands(
                &self,
                connection: Connection<$stream>,
                peer: $address,
            ) -> impl Future<Output = Result<Shaken<Self::Io>, BoxError>> + Send + 'static {
                ready(Ok(Shaken { io: connection, negotiated: None, extensions: extensions_of(&peer) }))
            }

            fn shutdown(&self) -> Shutdown {
                <$listener>::shutdown(self)
            }

            const MOVES: bool = true;

            fn name(&self) -> &str {
                <$listener>::name(self)
            }

            fn resumed(&self, kind: &str) -> Resumed<$stream> {
                <$listener>::resumed(self, [kind])
            }

            async fn take(offer: Offer<$stream>) -> io::Result<($stream, $address)> {
                let peer = offer.peer_addr();
                let stream = offer.take().await?;
                let peer = ($peer)(&stream, peer)?;
                Ok((stream, peer))
            }

            async fn hand_over(io: Self::Io, session: Session) -> Result<(), Self::Io> {
                let (stream, activity) = io.into_parts();
                stream.hand_over(session).await.map_err(|stream| Connection::new(stream, activity))
            }
        }

        impl Stream for $stream {
            fn is_quiet(&self) -> bool {
                is_quiet(&**self)
            }
        }
    };
}

listener!(TcpListener, TcpStream, SocketAddr, |stream: &TcpStream, peer: Option<SocketAddr>| {
    peer.map_or_else(|| stream.peer_addr(), Ok)
});
#[cfg(unix)]
listener!(UnixListener, UnixStream, UnixSocketAddr, |stream: &UnixStream, _| {
    stream.peer_addr().map(UnixSocketAddr::from)
});

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
/// connection. A listener may have several: the inner handshake comes first, and the outer one gets its stream. An example is
/// the PROXY protocol before TLS.
///
/// For HTTP/2 the library has to offer `h2` by ALPN. `alpn` returns the protocol that a stream has negotiated, and this
/// decision holds: after `h2` the connection is HTTP/2, after `http/1.1` (or `http/1.0`) it is HTTP/1.1, whatever the
/// first bytes are. After any other protocol the connection ends. If no handshake has negotiated one, the first bytes show
/// which version the client speaks. For a handshake without ALPN, `alpn` is `|_| None`:
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
    F: Fn(L::Io) -> H,
    H: Future<Output = Result<T, E>> + Send + 'static,
    A: Fn(&T) -> Option<&[u8]>,
{
    WithHandshake { listener, step: Arc::new((handshake, alpn)) }
}

/// The listener that [`with_handshake`] makes.
#[must_use = "it accepts nothing until it is served"]
pub struct WithHandshake<L, F, A> {
    listener: L,
    step: Arc<(F, A)>,
}

impl<L, F, H, T, E, A> sealed::Listener for WithHandshake<L, F, A>
where
    L: Listener,
    F: Fn(L::Io) -> H + Send + Sync + 'static,
    H: Future<Output = Result<T, E>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Into<BoxError>,
    A: Fn(&T) -> Option<&[u8]> + Send + Sync + 'static,
{
    type Stream = L::Stream;
    type Addr = L::Addr;
    type Io = T;

    fn accept(&self) -> impl Future<Output = io::Result<(L::Stream, L::Addr)>> + Send {
        sealed::Listener::accept(&self.listener)
    }

    fn shake_hands(
        &self,
        connection: Connection<L::Stream>,
        peer: L::Addr,
    ) -> impl Future<Output = Result<Shaken<T>, BoxError>> + Send + 'static {
        let (before, step) = (self.listener.shake_hands(connection, peer), self.step.clone());
        async move {
            let (handshake, alpn) = &*step;
            let before = before.await?;
            let io = handshake(before.io).await.map_err(Into::into)?;
            let negotiated = alpn(&io).map(negotiated).transpose()?.or(before.negotiated);
            Ok(Shaken { io, negotiated, extensions: before.extensions })
        }
    }

    fn shutdown(&self) -> Shutdown {
        sealed::Listener::shutdown(&self.listener)
    }

    const MOVES: bool = false;

    fn name(&self) -> &str {
        self.listener.name()
    }

    fn resumed(&self, kind: &str) -> Resumed<L::Stream> {
        self.listener.resumed(kind)
    }

    fn take(
        offer: Offer<L::Stream>,
    ) -> impl Future<Output = io::Result<(L::Stream, L::Addr)>> + Send + 'static {
        L::take(offer)
    }

    fn hand_over(io: T, _session: Session) -> impl Future<Output = Result<(), T>> + Send + 'static {
        ready(Err(io))
    }
}

/// A listener whose requests have the value of `info` in their extensions. `info` is called once for each connection, after
/// its handshakes, with the stream and the address of the client. Each type of value is there once: a later value takes the
/// place of an earlier one.
///
/// This is for frameworks that look for a type of their own, and for what the handshake has shown, such as a certificate of
/// the client.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::io::{Read, Write};
/// use std::net::SocketAddr;
/// use axum::{Extension, Router, routing::get};
/// use tableflip::http::{serve, with_connect_info};
/// use tableflip::{Service, net::TcpListener, testing};
///
/// /// The two ends of a connection.
/// #[derive(Clone, Debug)]
/// struct Ends(Option<SocketAddr>, SocketAddr);
///
/// let app = Router::new().route("/", get(async |ends: Extension<Ends>| format!("{:?}", *ends)));
/// let service = testing::start(Service::new().listen("http", "tcp://127.0.0.1:0"), |start| {
///     let http: TcpListener = start.listener("http")?;
///     let http = with_connect_info(http, |stream, peer| Ends(stream.local_addr().ok(), *peer));
///     Ok(serve(http, app))
/// })?;
/// # let mut client = std::net::TcpStream::connect(service.address("http").unwrap())?;
/// # client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
/// # let mut answer = String::new();
/// # client.read_to_string(&mut answer)?;
/// # let ends = format!("Ends(Some({}), {})", client.peer_addr()?, client.local_addr()?);
/// # assert!(answer.ends_with(&ends), "{answer}");
/// # service.stop();
/// # Ok(())
/// # }
/// ```
///
/// A service of tonic learns the address by `Request::remote_addr`:
///
/// ```ignore
/// use tonic::transport::server::TcpConnectInfo;
///
/// let grpc = tableflip::http::with_connect_info(grpc, |stream, peer| TcpConnectInfo {
///     local_addr: stream.local_addr().ok(),
///     remote_addr: Some(*peer),
/// });
/// tableflip::http::serve(grpc, GreeterServer::new(Greeter)).await
/// ```
///
/// For TLS it stands around the handshake:
///
/// ```ignore
/// let https = with_handshake(https, handshake, |stream| stream.get_ref().1.alpn_protocol());
/// let https = with_connect_info(https, |stream, _peer| Certificates::of(stream.get_ref().1.peer_certificates()));
/// ```
pub fn with_connect_info<L, F, C>(listener: L, info: F) -> WithConnectInfo<L, F>
where
    L: Listener,
    F: Fn(&L::Io, &L::Addr) -> C,
    C: Clone + Send + Sync + 'static,
{
    WithConnectInfo { listener, info: Arc::new(info) }
}

/// The listener that [`with_connect_info`] makes.
#[must_use = "it accepts nothing until it is served"]
pub struct WithConnectInfo<L, F> {
    listener: L,
    info: Arc<F>,
}

impl<L, F, C> sealed::Listener for WithConnectInfo<L, F>
where
    L: Listener,
    F: Fn(&L::Io, &L::Addr) -> C + Send + Sync + 'static,
    C: Clone + Send + Sync + 'static,
{
    type Stream = L::Stream;
    type Addr = L::Addr;
    type Io = L::Io;

    fn accept(&self) -> impl Future<Output = io::Result<(L::Stream, L::Addr)>> + Send {
        sealed::Listener::accept(&self.listener)
    }

    fn shake_hands(
        &self,
        connection: Connection<L::Stream>,
        peer: L::Addr,
    ) -> impl Future<Output = Result<Shaken<L::Io>, BoxError>> + Send + 'static {
        let (before, info) = (self.listener.shake_hands(connection, peer.clone()), self.info.clone());
        async move {
            let mut shaken = before.await?;
            shaken.extensions.insert(info(&shaken.io, &peer));
            Ok(shaken)
        }
    }

    fn shutdown(&self) -> Shutdown {
        sealed::Listener::shutdown(&self.listener)
    }

    const MOVES: bool = L::MOVES;

    fn name(&self) -> &str {
        self.listener.name()
    }

    fn resumed(&self, kind: &str) -> Resumed<L::Stream> {
        self.listener.resumed(kind)
    }

    fn take(
        offer: Offer<L::Stream>,
    ) -> impl Future<Output = io::Result<(L::Stream, L::Addr)>> + Send + 'static {
        L::take(offer)
    }

    fn hand_over(io: L::Io, session: Session) -> impl Future<Output = Result<(), L::Io>> + Send + 'static {
        L::hand_over(io, session)
    }
}

macro_rules! around {
    ($name:ident<$($generic:ident),*>, $part:ident) => {
        impl<L: Clone, $($generic),*> Clone for $name<L, $($generic),*> {
            fn clone(&self) -> Self {
                Self { listener: self.listener.clone(), $part: self.$part.clone() }
            }
        }

        impl<L: fmt::Debug, $($generic),*> fmt::Debug for $name<L, $($generic),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("listener", &self.listener).finish_non_exhaustive()
            }
        }
    };
}

around!(WithHandshake<F, A>, step);
around!(WithConnectInfo<F>, info);
