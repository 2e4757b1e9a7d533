//! Serve HTTP so that a drain loses no request (feature `http`).
//!
//! A connection stays open between requests, and whoever closes it cannot know that the next request is not on its
//! way. So this is how a connection ends here once a successor serves:
//!
//! * HTTP/1.1: its next answer says `Connection: close`, RFC 9112 section 9.6, and the client comes back to the
//!   successor. One that is idle is left open for a grace of 5 s from the beginning of the drain, but for no more than
//!   half of `drain_timeout`, in which nearly every client sends that next request or goes away by itself; only then is
//!   it closed, and not if something has arrived meanwhile. So a request may arrive slowly; one of which nothing more
//!   comes for a whole grace is given up.
//! * HTTP/2: the GOAWAYs of RFC 9113 section 6.8. The first one forbids no stream; it comes before its next answer, for a
//!   client that has its answer sends the next request, or a second after the drain has begun. The last one, a second
//!   later, when the client is known to have read the first and what it sent before has arrived, names the last stream
//!   that is served. What is open is served to its end. A client of which nothing is heard within 5 s of the PING
//!   between them, or half of what is left of a short drain, is taken for gone, and not waited for unless an answer is
//!   under way.
//! * One that was accepted and has sent nothing yet is served like any other: its first request is answered. If there
//!   is none in the grace, it is closed, and in mid-handshake of TLS as well; so it does not hold the drain. Nor does
//!   one that has sent a part of a handshake or of a request, and then nothing for a grace.
//! * One that has become another protocol, such as a WebSocket, and an answer that is still streaming, is counted, and
//!   has until `drain_timeout`. Its handler learns of the drain from [`Shutdown`].
//!
//! What is left at `drain_timeout` is aborted.
//!
//! A client that pipelines, as hardly any does, RFC 9112 section 9.3.2, has the requests behind the answer with `Connection: close` to
//! ask again: that answer says that they were not looked at.
//!
//! There is one limit besides: while the service serves, a client has 30 s for the handshake, and for the head of a
//! request of HTTP/1.1, or the preface of HTTP/2, from its first byte on. What is left half said is closed then, and costs
//! no descriptor for longer.
//!
//! A client may be idle for as long as the service serves, from its accept or its last answer on. A limit for that loses
//! what crosses the close, and is the business of a proxy or of a layer of the service. A peer that is gone without a word,
//! as with its network, is found by the kernel if the address of the listener says so: `tcp://[::]:80?keepalive=1`.

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

use crate::drain::Shutdown;
use crate::net::{TcpListener, TcpStream};
#[cfg(unix)]
use crate::net::{UnixListener, UnixStream};

pub use activity::Connection;
use activity::{Activity, is_quiet};
use answer::Answering;

type BoxError = Box<dyn Error + Send + Sync>;

/// Where [`serve`] gets its connections: a managed listener, or one [`with_handshake`].
pub trait Listener: sealed::Listener {}

impl<L: sealed::Listener> Listener for L {}

mod sealed {
    use super::*;

    pub trait Listener: Send + Sync {
        /// What a managed listener accepts.
        type Stream: Stream;
        /// What HTTP is spoken on.
        type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

        fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
        fn shake_hands(
            &self,
            connection: Connection<Self::Stream>,
        ) -> impl Future<Output = Result<Self::Io, BoxError>> + Send + 'static;
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
        /// Whether nothing has arrived that is not read yet, and nothing will have ended.
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
            ) -> impl Future<Output = Result<Self::Io, BoxError>> + Send + 'static {
                ready(Ok(connection))
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

/// A listener whose connections pass through `handshake` before HTTP is spoken on them: TLS, with the library of your
/// choice.
///
/// ```ignore
/// let tls = tokio_rustls::TlsAcceptor::from(config);
/// tableflip::http::serve(tableflip::http::with_handshake(https, move |stream| tls.accept(stream)), app).await
/// ```
///
/// The handshakes run beside each other and beside the accepts. For HTTP/2 the library has to offer `h2` by ALPN; which
/// version a client speaks is seen by its first bytes. A handshake that fails is that connection's end alone.
pub fn with_handshake<L, F, H, T, E>(listener: L, handshake: F) -> WithHandshake<L, F>
where
    L: Listener,
    F: Fn(Connection<L::Stream>) -> H,
    H: Future<Output = Result<T, E>> + Send + 'static,
{
    WithHandshake { listener, handshake }
}

/// Made by [`with_handshake`].
#[derive(Clone)]
pub struct WithHandshake<L, F> {
    listener: L,
    handshake: F,
}

impl<L, F, H, T, E> sealed::Listener for WithHandshake<L, F>
where
    L: Listener,
    F: Fn(Connection<L::Stream>) -> H + Send + Sync,
    H: Future<Output = Result<T, E>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Into<BoxError>,
{
    type Stream = L::Stream;
    type Io = T;

    fn accept(&self) -> impl Future<Output = io::Result<L::Stream>> + Send {
        sealed::Listener::accept(&self.listener)
    }

    fn shake_hands(
        &self,
        connection: Connection<L::Stream>,
    ) -> impl Future<Output = Result<T, BoxError>> + Send + 'static {
        let handshake = (self.handshake)(connection);
        async { handshake.await.map_err(Into::into) }
    }

    fn shutdown(&self) -> Shutdown {
        sealed::Listener::shutdown(&self.listener)
    }
}

impl<L: fmt::Debug, F> fmt::Debug for WithHandshake<L, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithHandshake").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// What [`serve`] serves: a `tower_service::Service` over hyper's requests, such as an `axum::Router`, or a
/// `hyper::service::Service`, such as a `service_fn`. It is cloned for each connection.
///
/// `Kind` is [`Tower`] or [`Hyper`], and is never written.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no service for HTTP",
    label = "not a service",
    note = "what is served is `Clone` and `Send`, and a `tower_service::Service` or a `hyper::service::Service` over \
            `Request<hyper::body::Incoming>`"
)]
pub trait IntoService<Kind>: sealed::IntoService<Kind> {}

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

/// Serves HTTP/1.1 and HTTP/2 on a managed listener: an `axum::Router`, or any other [service](IntoService). Which version
/// it is the first bytes of a connection tell.
///
/// Returns `Ok` once the service is replaced or stopped and every HTTP connection has ended. A connection that fails is
/// that connection's end alone.
///
/// # Errors
///
/// What makes the listener useless.
pub async fn serve<L, S, Kind>(listener: L, service: S) -> io::Result<()>
where
    L: Listener,
    S: IntoService<Kind>,
{
    let service = service.into_service();
    let mut shutdown = sealed::Listener::shutdown(&listener);
    shutdown.shared().note_http();
    // Every connection holds a sender, and nothing is ever sent: it ends when the last of them has ended.
    let (open, mut all_ended) = mpsc::channel::<Infallible>(1);
    loop {
        let accepted = {
            let mut accept = pin!(sealed::Listener::accept(&listener));
            // The shutdown is looked at first: from then on there is nothing to accept.
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
