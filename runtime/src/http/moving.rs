//! A connection of HTTP/1.1 that leaves hyper between two requests, to move to the successor.
//!
//! hyper gives the stream of a connection back with the bytes that it has read and not used. But only hyper knows whether the
//! body of the last request is read to its end: without that the rest of the body would be the next request of the successor.
//! A graceful shutdown shows it, because an idle connection ends by it at once. Any other connection ends by it later, so hyper
//! is asked only when it waits for nothing but bytes of the client: in the middle of a body it also waits for the reader of the
//! body. [`Watch`] shows that.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1::UpgradeableConnection;
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::BoxError;
use super::activity::Activity;
use super::version::Rewound;

/// What hyper gives back of a connection that leaves.
pub(super) struct Left<I, S> {
    pub(super) io: I,
    /// The bytes that were read and not used.
    pub(super) unread: Vec<u8>,
    pub(super) service: S,
}

/// Runs a connection until it ends, or leaves. Begins its graceful shutdown once it is to be closed.
pub(super) async fn until_left<I, S, B>(
    mut connection: UpgradeableConnection<TokioIo<Rewound<I>>, S>,
    activity: &Activity,
) -> hyper::Result<Option<Left<I, S>>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    B: Body<Error: Into<BoxError>> + 'static,
{
    let mut is_closing = false;
    let ended = poll_fn(|cx| {
        let mut http = Pin::new(&mut connection);
        if !is_closing && activity.is_closing() {
            http.as_mut().graceful_shutdown();
            is_closing = true;
        }
        if is_closing || !activity.is_leaving() {
            return http.poll(cx).map_ok(|()| false);
        }
        let watch = Arc::new(Watch { waker: cx.waker().clone(), is_woken: AtomicBool::new(false) });
        activity.set_reader(Some(cx.waker().clone()));
        let polled = http.as_mut().poll(&mut Context::from_waker(&Waker::from(watch.clone())));
        activity.set_reader(None);
        if polled.is_ready() {
            return polled.map_ok(|()| false);
        }
        if !activity.is_at_boundary() || !watch.is_untouched() {
            return Poll::Pending;
        }
        if activity.is_idle_without_hyper() {
            return Poll::Ready(Ok(true));
        }
        activity.part();
        http.as_mut().graceful_shutdown();
        is_closing = true;
        let ended = http.as_mut().poll(cx);
        if activity.end_parting() {
            ready!(ended)?;
            return Poll::Ready(Ok(true));
        }
        // It was not idle. The graceful shutdown goes on, and this poll registers for what it waits for.
        activity.stay();
        if ended.is_pending() { http.poll(cx).map_ok(|()| false) } else { ended.map_ok(|()| false) }
    })
    .await;
    if !ended? {
        return Ok(None);
    }
    Ok(connection.into_parts().map(|parts| {
        let (io, unread) = parts.io.into_inner().into_parts();
        Left { io, unread: [&parts.read_buf[..], &unread].concat(), service: parts.service }
    }))
}

/// A waker that shows whether a future waits for anything but the stream, whose reads have a waker of their own.
struct Watch {
    waker: Waker,
    is_woken: AtomicBool,
}

impl Watch {
    /// Whether nothing has kept this waker, and nothing has woken it: something that wakes may have no need to keep it.
    fn is_untouched(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && !self.is_woken.load(Ordering::Acquire)
    }
}

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }
}

#[cfg(all(test, upgrades))]
mod tests;
