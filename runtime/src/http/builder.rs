//! The builder, and the loop that accepts.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;

use super::BoxError;
use super::activity::{Activity, Connection, HTTP_1, Version};
use super::connection::{self, Parts};
use super::listener::{Listener, sealed};
use super::service::IntoService;
use super::settings::{Http1, Http2, Settings};
use crate::base::report::tell;
use crate::between::drain::Shutdown;
use crate::net::{Offer, Resumed};

/// The settings of [`serve`](super::serve), by the names that they have in hyper.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::io::{Read, Write};
/// use std::time::Duration;
/// use tableflip::http::Builder;
/// use tableflip::{Service, net::TcpListener, testing};
///
/// let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// let service = testing::start(Service::new().listen("http", "tcp://127.0.0.1:0"), |start| {
///     let http: TcpListener = start.listener("http")?;
///     let mut builder = Builder::new();
///     builder.header_read_timeout(Duration::from_secs(5));
///     builder.http1().max_headers(50).max_buf_size(32 * 1024);
///     builder.http2().max_concurrent_streams(100).keep_alive_interval(Duration::from_secs(20));
///     Ok(builder.serve(http, app))
/// })?;
/// # let mut client = std::net::TcpStream::connect(service.address("http").unwrap())?;
/// # let headers: String = (0..60).map(|number| format!("X-{number}: 1\r\n")).collect();
/// # client.write_all(format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes())?;
/// # let mut answer = String::new();
/// # client.read_to_string(&mut answer)?;
/// # assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
/// # service.stop();
/// # Ok(())
/// # }
/// ```
///
/// The end of a connection at a drain has no settings: see [the module](super).
#[derive(Clone, Debug)]
#[must_use = "it serves nothing until `serve` is awaited"]
pub struct Builder {
    pub(super) settings: Settings,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// The settings of [`serve`](super::serve).
    pub fn new() -> Self {
        Self { settings: Settings::new() }
    }

    /// The settings of HTTP/1.1.
    pub fn http1(&mut self) -> &mut Http1 {
        &mut self.settings.http1
    }

    /// The settings of HTTP/2.
    pub fn http2(&mut self) -> &mut Http2 {
        &mut self.settings.http2
    }

    /// Serves only HTTP/1.1. A connection of HTTP/2 ends.
    pub fn http1_only(&mut self) -> &mut Self {
        self.settings.only = Some(Version::Http1);
        self
    }

    /// Serves only HTTP/2. A connection of HTTP/1.1 ends.
    pub fn http2_only(&mut self) -> &mut Self {
        self.settings.only = Some(Version::Http2);
        self
    }

    /// How long a client has for its handshake, and, from its first byte on, for the head of each request of HTTP/1.1 or
    /// the preface of HTTP/2. After that the connection is closed. `None` sets no limit. The default is 30 s.
    ///
    /// Unlike hyper's setting of this name it does not close a connection that is idle between two requests: that would
    /// lose a request that crosses the close.
    pub fn header_read_timeout(&mut self, timeout: impl Into<Option<Duration>>) -> &mut Self {
        self.settings.head_limit = timeout.into();
        self
    }

    /// Whether open connections of HTTP/1.1 move to the successor, and this process takes those of its predecessor. The
    /// default is true.
    ///
    /// With false the connections of a process end with it, as the [module](super) says. This is for a service that keeps a
    /// state of each connection. [`Stays`](super::Stays) is for single connections.
    pub fn move_connections(&mut self, yes: bool) -> &mut Self {
        self.settings.moves = yes;
        self
    }

    /// [`serve`](super::serve) with these settings. Later changes of this builder change nothing of it.
    ///
    /// # Errors
    ///
    /// An error of accept(2) after which the listener cannot accept any more.
    pub fn serve<L, S, Kind>(
        &self,
        listener: L,
        service: S,
    ) -> impl Future<Output = io::Result<()>> + use<L, S, Kind>
    where
        L: Listener,
        S: IntoService<L::Addr, Kind>,
    {
        serve(listener, service, Arc::new(self.settings.clone()))
    }
}

async fn serve<L, S, Kind>(listener: L, service: S, settings: Arc<Settings>) -> io::Result<()>
where
    L: Listener,
    S: IntoService<L::Addr, Kind>,
{
    let mut shutdown = sealed::Listener::shutdown(&listener);
    shutdown.shared().set_serves_http();
    let moves = L::MOVES && settings.move_http_1();
    let name = moves.then(|| Arc::<str>::from(listener.name()));
    // Before the first accept, which may make the service ready: the predecessor then learns what this process takes.
    let mut resumed = moves.then(|| listener.resumed(HTTP_1));
    // Each connection has a sender, and no sender sends. So the channel ends when the last connection has ended.
    let (open, mut all_ended) = mpsc::channel::<Infallible>(1);
    let listener = Arc::new(listener);
    let common = Common { service, settings, shutdown: shutdown.clone(), name };
    let mut is_turn_of_moved = false;
    loop {
        let arrived = {
            let mut accepted = pin!(sealed::Listener::accept(&*listener));
            let mut moved = pin!(next_of(resumed.as_mut()));
            poll_fn(|cx| {
                // The shutdown first: after it there is nothing to accept.
                if Pin::new(&mut shutdown).poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                // In turn, so that neither keeps the other waiting.
                for _ in 0..2 {
                    is_turn_of_moved = !is_turn_of_moved;
                    let polled = if is_turn_of_moved {
                        moved.as_mut().poll(cx).map(|offer| Ok(Arrived::Moved(offer)))
                    } else {
                        accepted.as_mut().poll(cx).map_ok(|(stream, peer)| Arrived::Accepted(stream, peer))
                    };
                    if polled.is_ready() {
                        return polled.map(Some);
                    }
                }
                Poll::Pending
            })
            .await
        };
        let arrived = match arrived {
            Some(arrived) => arrived?,
            None => break,
        };
        let (common, open) = (common.clone(), open.clone());
        match arrived {
            Arrived::Accepted(stream, peer) => {
                let served = common.serve(&*listener, stream, peer);
                tokio::spawn(async move {
                    served.await;
                    drop(open);
                });
            }
            Arrived::Moved(offer) => {
                let listener = listener.clone();
                tokio::spawn(async move {
                    match L::take(offer).await {
                        Ok((stream, peer)) => {
                            let served = common.serve(&*listener, stream, peer);
                            drop(listener);
                            served.await;
                        }
                        Err(error) => {
                            let error = BoxError::from(error);
                            tell!(common.shutdown.shared(), DEBUG, error, "a connection has not moved here");
                        }
                    }
                    drop(open);
                });
            }
        }
    }
    drop((listener, open));
    match all_ended.recv().await {
        None => Ok(()),
        Some(never) => match never {},
    }
}

/// A connection of a client, or of the predecessor.
enum Arrived<S, A> {
    Accepted(S, A),
    Moved(Offer<S>),
}

/// The next connection of the predecessor. Pending for ever if none is taken.
async fn next_of<S>(resumed: Option<&mut Resumed<S>>) -> Offer<S> {
    match resumed {
        Some(resumed) => resumed.next().await,
        None => pending().await,
    }
}

/// What all connections of a listener have in common.
#[derive(Clone)]
struct Common<S> {
    service: S,
    settings: Arc<Settings>,
    shutdown: Shutdown,
    /// The name of a listener whose connections can move.
    name: Option<Arc<str>>,
}

impl<S> Common<S> {
    /// Serves one connection.
    fn serve<L, Kind>(
        self,
        listener: &L,
        stream: L::Stream,
        peer: L::Addr,
    ) -> impl Future<Output = ()> + Send + 'static + use<'_, S, L, Kind>
    where
        L: Listener,
        S: IntoService<L::Addr, Kind>,
    {
        let activity = Arc::new(Activity::new(self.name));
        let connection = Connection::new(stream, activity.clone());
        let parts = Parts {
            io: listener.shake_hands(connection, peer.clone()),
            service: self.service.into_service(peer),
            activity,
            settings: self.settings,
            hand_over: L::hand_over,
        };
        connection::serve(parts, self.shutdown)
    }
}
