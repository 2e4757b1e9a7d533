//! A socket: how it is accepted, taken apart, and put together again.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::stream::FusedStream;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, NoCallback};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::frames::{Opcode, put};
use super::tracked::{Mode, Tracked};

/// A WebSocket of `tokio_tungstenite` that can be taken apart.
pub type Socket<S> = WebSocketStream<Tracked<S>>;

/// Accepts a WebSocket, as `tokio_tungstenite::accept_async` does.
///
/// # Errors
///
/// Those of the handshake.
pub async fn accept<S>(stream: S) -> Result<Socket<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_with(stream, NoCallback, None).await
}

/// Accepts a WebSocket, as `tokio_tungstenite::accept_hdr_async_with_config` does. The callback sees the request, and may refuse
/// it or change the response.
///
/// # Errors
///
/// Those of the handshake.
pub async fn accept_with<S, C>(
    stream: S,
    callback: C,
    config: Option<WebSocketConfig>,
) -> Result<Socket<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Callback + Unpin,
{
    let stream = Tracked::new(stream, Mode::Handshake, Vec::new());
    let mut socket = accept_hdr_async_with_config(stream, callback, config).await?;
    socket.get_mut().set_mode(Mode::Open);
    Ok(socket)
}

/// A WebSocket on a stream whose handshake has been made: on what [`into_parts`] has left, once the bytes that were read are
/// given back to the stream.
pub async fn resume<S>(stream: S, config: Option<WebSocketConfig>) -> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Parts { stream, unread: Vec::new() }.resume(config).await
}

/// What [`into_parts`] makes of a socket.
#[derive(Debug)]
#[non_exhaustive]
pub struct Parts<S> {
    /// The stream that was accepted.
    pub stream: S,
    /// What was read of the stream and has to be read again.
    pub unread: Vec<u8>,
}

impl<S> Parts<S> {
    /// A stream, and what has to be read before it.
    pub fn new(stream: S, unread: Vec<u8>) -> Self {
        Self { stream, unread }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Parts<S> {
    /// A socket that goes on where the other one has ended.
    pub async fn resume(self, config: Option<WebSocketConfig>) -> Socket<S> {
        open(Tracked::new(self.stream, Mode::Open, self.unread), config).await
    }
}

async fn open<S>(stream: Tracked<S>, config: Option<WebSocketConfig>) -> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    WebSocketStream::from_raw_socket(stream, Role::Server, config).await
}

/// Takes a socket apart, between two messages or in the midst of one. What was written is flushed first, for at most
/// `flush_within`. The caller may take every message before that, or leave any of them in the socket.
///
/// A call that is dropped drops the socket.
///
/// # Errors
///
/// A socket that cannot be taken apart, [see above](super), which goes on as before.
pub async fn into_parts<S>(socket: Socket<S>, flush_within: Duration) -> Result<Parts<S>, Socket<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = *socket.get_config();
    let mut stream = take_apart(socket)?;
    if stream.can_move() {
        let flush = poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx));
        if let Ok(Ok(())) = timeout(flush_within, flush).await {
            let (stream, unread) = stream.into_parts();
            return Ok(Parts { stream, unread });
        }
    }
    Err(open(stream, Some(config)).await)
}

/// Takes a socket apart without a wait: the stream that is returned has what the socket had read, and what it had written.
#[expect(clippy::result_large_err, reason = "the caller goes on with the socket")]
fn take_apart<S>(mut socket: Socket<S>) -> Result<Tracked<S>, Socket<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if socket.is_terminated() || socket.get_ref().is_closed() {
        return Err(socket);
    }
    // From here on tungstenite reads nothing, and all that it writes is put aside at once.
    socket.get_mut().set_mode(Mode::Leaving);
    let mut cx = Context::from_waker(Waker::noop());
    let flushed = Pin::new(&mut socket).poll_flush(&mut cx);
    // The bytes that tungstenite had not written may end a frame, or be a Close.
    if !matches!(flushed, Poll::Ready(Ok(()))) || !socket.get_ref().can_move() {
        socket.get_mut().set_mode(Mode::Open);
        return Err(socket);
    }
    let mut whole = Vec::new();
    let error = loop {
        match Pin::new(&mut socket).poll_next(&mut cx) {
            // tungstenite has tried to read, so it has no message that is whole.
            Poll::Pending => break None,
            Poll::Ready(Some(Ok(message))) => match message {
                Message::Text(text) => put(Opcode::Text, text.as_bytes(), &mut whole),
                Message::Binary(data) => put(Opcode::Binary, &data, &mut whole),
                Message::Pong(data) => put(Opcode::Pong, &data, &mut whole),
                // Its answer is put aside by the next read or flush. No Close was read, and a Frame is never read.
                Message::Ping(_) | Message::Close(_) | Message::Frame(_) => {}
            },
            Poll::Ready(Some(Err(error))) => break Some(error),
            Poll::Ready(None) => break Some(Error::ConnectionClosed),
        }
    };
    let error = match (error, Pin::new(&mut socket).poll_flush(&mut cx)) {
        (None, Poll::Ready(Err(error))) => Some(error),
        (error, _) => error,
    };
    let stream = socket.into_inner();
    Ok(match error {
        None => stream.renew(whole),
        Some(error) => stream.fail(whole, io::Error::other(error)),
    })
}
