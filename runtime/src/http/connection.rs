//! One connection, from its first byte to its end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::BoxError;
use super::activity::Activity;
use super::answer::Answering;
use super::notice::Noticing;
use super::version::{Version, detect};
use crate::drain::Shutdown;

/// How long a connection without a request stays open once the drain has begun.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// How much of the drain is kept for the answers, whatever the grace.
const IDLE_GRACE_SHARE: u32 = 2;

/// How long an HTTP/2 connection has for a request to come with which it is told, and how long after that its last GOAWAY
/// comes.
const NOTICE: Duration = Duration::from_secs(1);

/// How far the end of a connection is.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Serving,
    /// The drain has begun, and it may have a request to come.
    Draining,
    /// It is HTTP/2, and has its first GOAWAY.
    Told,
    Closing,
}

/// Serves one connection to its end, which it brings about once the drain has begun.
pub(super) async fn serve<H, I, S, B>(
    io: H,
    service: Answering<S>,
    activity: Arc<Activity>,
    mut shutdown: Shutdown,
) where
    H: Future<Output = Result<I, BoxError>>,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let grace = IDLE_GRACE.min(shutdown.drain_timeout() / IDLE_GRACE_SHARE);
    let notice = NOTICE.min(grace / 2);
    let mut conversation = pin!(converse(io, service, &activity));
    let mut patience = pin!(tokio::time::sleep(grace));
    let mut phase = Phase::Serving;
    let mut watching: Option<Waker> = None;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = conversation.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            phase = match phase {
                // A request has come after the hand-over, and brought the notice about.
                Phase::Serving | Phase::Draining if activity.is_told() => {
                    patience.as_mut().reset(Instant::now() + notice);
                    Phase::Told
                }
                Phase::Serving => {
                    // Polled once for each waker, for that takes a lock which all connections share.
                    if !shutdown.is_raised()
                        && watching.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
                    {
                        return Poll::Pending;
                    }
                    watching = Some(cx.waker().clone());
                    ready!(Pin::new(&mut shutdown).poll(cx));
                    let wait = if activity.can_be_told() { notice } else { grace };
                    patience.as_mut().reset(Instant::now() + wait);
                    Phase::Draining
                }
                Phase::Draining => {
                    ready!(patience.as_mut().poll(cx));
                    // hyper looks for a request once more, and this time the socket itself is asked: a request that has
                    // arrived and of which tokio has not heard yet is served.
                    activity.probe();
                    if let Poll::Ready(ended) = conversation.as_mut().poll(cx) {
                        return Poll::Ready(ended);
                    }
                    match activity.version() {
                        Some(Version::Http2) => {
                            activity.tell();
                            Phase::Draining
                        }
                        // Its answer ends it. Should that be under way already, without `Connection: close`, it is idle
                        // next.
                        _ if !activity.is_idle() => {
                            patience.as_mut().reset(Instant::now() + grace);
                            Phase::Draining
                        }
                        None => return Poll::Ready(Ok(())),
                        Some(Version::Http1) => {
                            activity.close();
                            Phase::Closing
                        }
                    }
                }
                Phase::Told => {
                    ready!(patience.as_mut().poll(cx));
                    activity.close();
                    Phase::Closing
                }
                Phase::Closing => return Poll::Pending,
            };
        }
    })
    .await;
    // A client that goes away, or does not speak HTTP, ends its own connection.
    if let Err(error) = ended {
        tracing::debug!(target: "tableflip", error, "an HTTP connection ended early");
    }
}

/// Shakes hands, finds out which version of HTTP it is, and speaks it.
async fn converse<H, I, S, B>(io: H, service: Answering<S>, activity: &Arc<Activity>) -> Result<(), BoxError>
where
    H: Future<Output = Result<I, BoxError>>,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let io = io.await?;
    activity.shook_hands();
    let Some((version, io)) = detect(io).await? else { return Ok(()) };
    activity.speaks(version);
    match version {
        Version::Http1 => {
            let io = TokioIo::new(io);
            // Without a timer, and so without its limit for the head of a request, which counts from the last answer on: it
            // would close idle connections, and lose what crosses that.
            let connection = http1::Builder::new().serve_connection(io, service).with_upgrades();
            until_closed(connection, activity, http1::UpgradeableConnection::graceful_shutdown).await?;
        }
        Version::Http2 => {
            let io = TokioIo::new(Noticing::new(io, activity.clone()));
            let mut http = http2::Builder::new(TokioExecutor::new());
            // For WebSockets, RFC 8441.
            http.enable_connect_protocol();
            let connection = http.serve_connection(io, service);
            until_closed(connection, activity, http2::Connection::graceful_shutdown).await?;
        }
    }
    Ok(())
}

/// A connection, which is told when it is to end.
async fn until_closed<C: Future>(
    connection: C,
    activity: &Activity,
    close: impl Fn(Pin<&mut C>),
) -> C::Output {
    let mut connection = pin!(connection);
    let mut told = false;
    poll_fn(|cx| {
        if !told && activity.is_closing() {
            close(connection.as_mut());
            told = true;
        }
        connection.as_mut().poll(cx)
    })
    .await
}
