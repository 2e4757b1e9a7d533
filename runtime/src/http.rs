//! Serve HTTP so that a drain loses no request (feature `http`).
//!
//! An HTTP/1.1 connection stays open between requests, and whoever closes it cannot know that the next request is
//! not on its way. So this is how a connection ends here once a successor serves:
//!
//! * its next answer says `Connection: close`, RFC 9112 section 9.6, and the client comes back to the successor;
//! * one that is idle is left open for a grace of 5 s from the beginning of the drain, in which nearly every client
//!   sends that next request or goes away by itself; only then is it closed, and not if a request has arrived that
//!   has not been read;
//! * one that was accepted and has sent nothing yet is served like any other.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower_service::Service;

use crate::drain::Shutdown;
use crate::net::{TcpListener, TcpStream};
#[cfg(unix)]
use crate::net::{UnixListener, UnixStream};

/// How long a connection without a request stays open once the drain has begun.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// How much of the drain is kept for the answers, whatever the grace.
const IDLE_GRACE_SHARE: u32 = 2;

/// A managed listener, whose connections [`serve`] serves.
pub trait Listener: sealed::Listener {}

impl Listener for TcpListener {}
#[cfg(unix)]
impl Listener for UnixListener {}

mod sealed {
    use super::*;

    pub trait Listener {
        type Stream: Stream;
        fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
        fn shutdown(&self) -> Shutdown;
    }

    pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
        /// Whether nothing has arrived that is not read yet.
        fn is_quiet(&self) -> bool;
    }

    macro_rules! listener {
        ($listener:ty, $stream:ty) => {
            impl Listener for $listener {
                type Stream = $stream;

                async fn accept(&self) -> io::Result<$stream> {
                    <$listener>::accept(self).await.map(|(stream, _peer)| stream)
                }

                fn shutdown(&self) -> Shutdown {
                    <$listener>::shutdown(self)
                }
            }

            impl Stream for $stream {
                fn is_quiet(&self) -> bool {
                    // The socket is asked, not tokio, which may not have heard of it yet.
                    let mut byte = [std::mem::MaybeUninit::uninit()];
                    let peeked = socket2::SockRef::from(&**self).peek(&mut byte);
                    // A byte is a request, and 0 is the client that closes by itself.
                    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
                }
            }
        };
    }

    listener!(TcpListener, TcpStream);
    #[cfg(unix)]
    listener!(UnixListener, UnixStream);
}

/// Serves HTTP/1.1 on a managed listener: any `tower_service::Service` over hyper's requests, an `axum::Router`
/// included.
///
/// Returns `Ok` once the service is replaced or stopped and every connection has ended. A connection that fails is
/// that connection's end alone.
///
/// # Errors
///
/// What makes the listener useless.
pub async fn serve<L, S, B>(listener: L, service: S) -> io::Result<()>
where
    L: Listener,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut shutdown = sealed::Listener::shutdown(&listener);
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
        let watched = Watched { stream, activity: activity.clone() };
        let service = Closing {
            service: TowerToHyperService::new(service.clone()),
            shutdown: shutdown.clone(),
            activity,
        };
        let shutdown = shutdown.clone();
        let open = open.clone();
        tokio::spawn(async move {
            connection(watched, service, shutdown).await;
            drop(open);
        });
    }
    drop((listener, open));
    match all_ended.recv().await {
        None => Ok(()),
        Some(never) => match never {},
    }
}

/// Serves one connection to its end.
async fn connection<I, S, B>(io: Watched<I>, service: Closing<S>, mut shutdown: Shutdown)
where
    I: sealed::Stream,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let grace = IDLE_GRACE.min(shutdown.drain_timeout() / IDLE_GRACE_SHARE);
    let activity = service.activity.clone();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new());
    let mut http = pin!(http.serve_connection(TokioIo::new(io), service).with_upgrades());
    let mut patience = pin!(tokio::time::sleep(grace));
    let (mut draining, mut closing) = (false, false);
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = http.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if closing {
                return Poll::Pending;
            }
            if !draining {
                ready!(Pin::new(&mut shutdown).poll(cx));
                draining = true;
                patience.as_mut().reset(Instant::now() + grace);
            }
            ready!(patience.as_mut().poll(cx));
            // hyper looks for a request once more, and this time the socket itself is asked: a request that has
            // arrived and of which tokio has not heard yet is served.
            activity.probe();
            if let Poll::Ready(ended) = http.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if activity.is_idle() {
                http.as_mut().graceful_shutdown();
                closing = true;
            } else {
                // Its answer ends it. Should that be under way already, without `Connection: close`, it is idle next.
                patience.as_mut().reset(Instant::now() + grace);
            }
        }
    })
    .await;
    // A client that goes away, or does not speak HTTP, ends its own connection.
    if let Err(error) = ended {
        tracing::debug!(target: "tableflip", %error, "an HTTP connection ended early");
    }
}

/// What is going on on one connection.
#[derive(Debug, Default)]
struct Activity {
    /// Requests that the service has not answered.
    unanswered: AtomicUsize,
    /// Something has been read since the last request or answer: the beginning of a request.
    begun: AtomicBool,
    /// The next read that finds nothing is to ask the socket itself, and to note the answer in `quiet`.
    probing: AtomicBool,
    quiet: AtomicBool,
}

impl Activity {
    fn probe(&self) {
        self.quiet.store(false, Ordering::Relaxed);
        self.probing.store(true, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
            && !self.begun.load(Ordering::Relaxed)
            && self.unanswered.load(Ordering::Acquire) == 0
    }
}

/// A stream that tells what is read from it.
struct Watched<I> {
    stream: I,
    activity: Arc<Activity>,
}

impl<I: sealed::Stream> AsyncRead for Watched<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if polled.is_ready() {
            if buffer.filled().len() > before {
                this.activity.begun.store(true, Ordering::Relaxed);
            }
        } else if this.activity.probing.swap(false, Ordering::Relaxed) {
            this.activity.quiet.store(this.stream.is_quiet(), Ordering::Relaxed);
        }
        polled
    }
}

impl<I: sealed::Stream> AsyncWrite for Watched<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The service of the user, which says `Connection: close` once somebody else serves.
struct Closing<S> {
    service: TowerToHyperService<S>,
    shutdown: Shutdown,
    activity: Arc<Activity>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Closing<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Answer<TowerToHyperServiceFuture<S, Request<Incoming>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.begun.store(false, Ordering::Relaxed);
        self.activity.unanswered.fetch_add(1, Ordering::AcqRel);
        Answer {
            answer: self.service.call(request),
            shutdown: self.shutdown.clone(),
            unanswered: Unanswered { activity: self.activity.clone() },
        }
    }
}

pin_project! {
    /// The answer to one request.
    struct Answer<F> {
        #[pin]
        answer: F,
        shutdown: Shutdown,
        unanswered: Unanswered,
    }
}

/// Dropped with the answer, which may be before it is ready.
struct Unanswered {
    activity: Arc<Activity>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.activity.begun.store(false, Ordering::Relaxed);
        self.activity.unanswered.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(cx))?;
        // A connection that becomes another protocol has no next request to send elsewhere.
        if this.shutdown.handed_over() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(answer))
    }
}
