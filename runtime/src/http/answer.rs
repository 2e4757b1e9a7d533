//! The user's service. Once the service is handed over or drains, its answers have `Connection: close`, except on a connection
//! that moves.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Buf, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::Extensions;
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;

use super::activity::{Activity, Unanswered};
use crate::between::drain::Shutdown;

/// The connection of an answer with this in its extensions does not move to the successor. An answer after the handover has
/// `Connection: close`, and an idle connection ends as the [module](super) says of one that the successor does not take.
///
/// This is for connections with a state in this process, for example of a login that belongs to the connection.
///
/// ```
/// use hyper::Response;
/// use tableflip::http::Stays;
///
/// let mut answer = Response::new("logged in".to_owned());
/// answer.extensions_mut().insert(Stays);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stays;

/// The service of one connection.
#[derive(Clone)]
pub(super) struct Answering<S> {
    service: S,
    shutdown: Shutdown,
    activity: Arc<Activity>,
    /// What each request has in its extensions.
    extensions: Extensions,
}

impl<S> Answering<S> {
    pub(super) fn new(
        service: S,
        shutdown: Shutdown,
        activity: Arc<Activity>,
        extensions: Extensions,
    ) -> Self {
        Self { service, shutdown, activity, extensions }
    }
}

impl<S, B> Service<Request<Incoming>> for Answering<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if request.extensions().get::<OnUpgrade>().is_some() {
            self.activity.set_asked_upgrade();
        }
        request.extensions_mut().extend(self.extensions.clone());
        let unanswered = Unanswered::new(&self.activity, !request.body().is_end_stream());
        // HTTP/2 has GOAWAY in the place of this header. GOAWAY comes before the answer, because a client that has its
        // answer sends the next request.
        let says_close = request.version() < Version::HTTP_2;
        if !says_close && self.shutdown.handed_over() {
            self.activity.give_notice();
        }
        Answer {
            answer: self.service.call(request),
            shutdown: says_close.then(|| self.shutdown.clone()),
            unanswered: Some(unanswered),
        }
    }
}

pin_project! {
    /// The answer to one request.
    pub(super) struct Answer<F> {
        #[pin]
        answer: F,
        shutdown: Option<Shutdown>,
        unanswered: Option<Unanswered>,
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<AnswerBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(cx))?;
        let unanswered = this.unanswered.take();
        if let (Some(shutdown), Some(unanswered)) = (this.shutdown, &unanswered) {
            let activity = unanswered.activity();
            if answer.extensions().get::<Stays>().is_some() {
                activity.stay();
            }
            // A connection that becomes another protocol carries no next request.
            if shutdown.handed_over()
                && answer.status() != StatusCode::SWITCHING_PROTOCOLS
                && !activity.can_move(shutdown.shared())
            {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Poll::Ready(Ok(answer.map(|body| AnswerBody { body, unanswered })))
    }
}

pin_project! {
    /// The body of an answer. The request is answered once the body has ended and each piece of it is written.
    pub(super) struct AnswerBody<B> {
        #[pin]
        body: B,
        unanswered: Option<Unanswered>,
    }
}

/// A piece of a body. hyper drops it once it is written: over HTTP/2 that may wait for the client's window.
pub(super) struct Piece<D> {
    data: D,
    _unanswered: Option<Unanswered>,
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.data.copy_to_bytes(length)
    }
}

impl<B: Body> Body for AnswerBody<B> {
    type Data = Piece<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx)?);
        Poll::Ready(
            frame
                .map(|frame| Ok(frame.map_data(|data| Piece { data, _unanswered: this.unanswered.clone() }))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
