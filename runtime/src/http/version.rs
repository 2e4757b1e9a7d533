//! The version of HTTP on a connection: the one that ALPN has negotiated, or else by its first bytes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::http::Extensions;
#[cfg(feature = "websocket")]
use hyper::upgrade::Upgraded;
#[cfg(feature = "websocket")]
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::BoxError;
use super::activity::{Activity, Version};
#[cfg(feature = "websocket")]
use super::activity::{Connection, Stream};
use crate::net::forward_write;

/// The first bytes of an HTTP/2 client, RFC 9113 section 3.4, over TLS as well. No request of HTTP/1.1 begins so.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream after its handshake.
#[derive(Debug)]
pub struct Shaken<I> {
    pub(super) io: I,
    /// The version that ALPN has negotiated, if it has negotiated one.
    pub(super) negotiated: Option<Version>,
    /// What each request of the connection has in its extensions.
    pub(super) extensions: Extensions,
}

/// The version of a protocol of ALPN, RFC 7301. The names are those of IANA's registry.
pub(super) fn negotiated(protocol: &[u8]) -> Result<Version, BoxError> {
    match protocol {
        b"h2" => Ok(Version::Http2),
        b"http/1.1" | b"http/1.0" => Ok(Version::Http1),
        other => Err(format!("ALPN has negotiated `{}`, which is not served", other.escape_ascii()).into()),
    }
}

/// The version of a connection that has negotiated one of the two or none, where a service may serve only one of them.
pub(super) fn served(
    negotiated: Option<Version>,
    only: Option<Version>,
) -> Result<Option<Version>, BoxError> {
    match (negotiated, only) {
        (Some(negotiated), Some(only)) if negotiated != only => {
            Err("ALPN has negotiated the version of HTTP that is not served".into())
        }
        _ => Ok(negotiated.or(only)),
    }
}

/// What the first bytes of a connection show.
pub(super) enum Detected<I> {
    Version(Version, Rewound<I>),
    /// The client has left without a byte.
    Ended,
    /// The connection is to move to the successor, with the bytes that were read.
    Leaves(I, Vec<u8>),
}

/// Reads until the version is clear.
///
/// The first bytes are read even if the version was negotiated: a client that sends none is waited for in the same way.
/// But they decide nothing then. hyper refuses bytes of another version, RFC 9113 section 3.4.
pub(super) async fn detect<I>(
    mut io: I,
    negotiated: Option<Version>,
    activity: Arc<Activity>,
) -> io::Result<Detected<I>>
where
    I: AsyncRead + Unpin,
{
    let mut head = [0; PREFACE.len()];
    let mut length = 0;
    while length < head.len() && PREFACE.starts_with(&head[..length]) {
        let read = poll_fn(|cx| {
            if activity.is_leaving() {
                return Poll::Ready(Ok(None));
            }
            let mut buffer = ReadBuf::new(&mut head[length..]);
            Pin::new(&mut io).poll_read(cx, &mut buffer).map_ok(|()| Some(buffer.filled().len()))
        });
        match read.await? {
            None => return Ok(Detected::Leaves(io, head[..length].to_vec())),
            Some(0) if length == 0 => return Ok(Detected::Ended),
            Some(0) => break,
            Some(read) => length += read,
        }
        activity.begin();
    }
    let seen = if head == *PREFACE { Version::Http2 } else { Version::Http1 };
    let version = negotiated.unwrap_or(seen);
    Ok(Detected::Version(version, Rewound { head, left: 0..length, io, activity }))
}

/// A stream whose first bytes have been read already. A read returns those bytes first, and notes every byte after them.
///
/// Of a connection that leaves it reads what comes after a request without a body only to notice the end of the stream: those
/// bytes are for the successor.
#[derive(Debug)]
pub(super) struct Rewound<I> {
    head: [u8; PREFACE.len()],
    left: std::ops::Range<usize>,
    io: I,
    activity: Arc<Activity>,
}

/// The stream that a managed listener has accepted, and what was read of it and not used, of a connection that has become
/// another protocol. A stream after a handshake is not among these.
#[cfg(feature = "websocket")]
pub(crate) fn accepted_stream<S: Stream>(upgraded: Upgraded) -> Result<(S, Vec<u8>), Upgraded> {
    let parts = upgraded.downcast::<TokioIo<Rewound<Connection<S>>>>()?;
    let (connection, rest) = parts.io.into_inner().into_parts();
    // hyper has read these bytes first.
    let unread = [&parts.read_buf[..], &rest].concat();
    let (stream, _activity) = connection.into_parts();
    Ok((stream, unread))
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewound<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.is_leaving() {
            return this.poll_read_leaving(cx, buffer);
        }
        this.poll_read_on(cx, buffer)
    }
}

impl<I> Rewound<I> {
    /// The stream, and the bytes that were read of it and not returned.
    pub(super) fn into_parts(self) -> (I, Vec<u8>) {
        let unread = self.head[self.left].to_vec();
        (self.io, unread)
    }
}

impl<I: AsyncRead + Unpin> Rewound<I> {
    fn poll_read_on(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self;
        if this.left.is_empty() {
            let before = buffer.filled().len();
            let polled = Pin::new(&mut this.io).poll_read(cx, buffer);
            if buffer.filled().len() > before {
                this.activity.begin();
            }
            return polled;
        }
        let count = this.left.len().min(buffer.remaining());
        buffer.put_slice(&this.head[this.left.start..][..count]);
        this.left.start += count;
        Poll::Ready(Ok(()))
    }

    fn poll_read_leaving(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let reader = self.activity.reader();
        let cx = &mut Context::from_waker(reader.as_ref().unwrap_or(cx.waker()));
        if !self.activity.reads_for_successor() {
            return self.poll_read_on(cx, buffer);
        }
        if self.left.is_empty() {
            let mut unread = ReadBuf::new(&mut self.head);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut unread))?;
            self.left = 0..unread.filled().len();
            if self.left.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewound<I> {
    forward_write!();

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.keeps_shutdown() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The version that is detected if `sent` arrives in pieces of at most `piece` bytes. Every byte can be read again.
    async fn detected(negotiated: Option<Version>, sent: &[u8], piece: usize) -> Option<Version> {
        let (client, mut server) = tokio::io::duplex(piece);
        let all = sent.to_vec();
        tokio::spawn(async move { server.write_all(&all).await });
        let detected = detect(client, negotiated, Arc::default()).await.unwrap();
        let Detected::Version(version, mut rewound) = detected else { return None };
        let mut read = Vec::new();
        rewound.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, sent);
        Some(version)
    }

    #[tokio::test]
    async fn the_preface_is_http_2_and_all_else_is_not() {
        for piece in [1, 5, 24, 64] {
            assert_eq!(detected(None, b"", piece).await, None);
            assert_eq!(
                detected(None, &[&PREFACE[..], b"frames"].concat(), piece).await,
                Some(Version::Http2)
            );
            for other in
                ["G", "PRI", "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\n\r\n"]
            {
                assert_eq!(detected(None, other.as_bytes(), piece).await, Some(Version::Http1), "{other:?}");
            }
        }
    }

    #[tokio::test]
    async fn e5_what_was_negotiated_holds_whatever_the_first_bytes_are() {
        for version in [Version::Http1, Version::Http2] {
            for piece in [1, 24, 64] {
                assert_eq!(detected(Some(version), b"", piece).await, None);
                for sent in
                    [&PREFACE[..], b"GET / HTTP/1.1\r\n\r\n", b"P", b"PRI * HTTP/2.0\r\n\r\nSN", b"\0"]
                {
                    assert_eq!(detected(Some(version), sent, piece).await, Some(version), "{sent:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_negotiated_must_be_served() {
        let all = [None, Some(Version::Http1), Some(Version::Http2)];
        for version in all {
            assert_eq!(served(version, None).unwrap(), version);
            assert_eq!(served(None, version).unwrap(), version);
            assert_eq!(served(version, version).unwrap(), version);
        }
        for (negotiated, only) in [(all[1], all[2]), (all[2], all[1])] {
            assert!(served(negotiated, only).is_err());
        }
    }

    #[test]
    fn e5_a_protocol_that_is_not_served_is_none_of_the_two() {
        assert_eq!(negotiated(b"h2").unwrap(), Version::Http2);
        assert_eq!(negotiated(b"http/1.1").unwrap(), Version::Http1);
        for other in [&b""[..], b"H2", b"h2c", b"h3", b"http/2", b"HTTP/1.1", b"acme-tls/1", b"\xff\0"] {
            let error = negotiated(other).unwrap_err().to_string();
            assert!(error.contains(&format!("`{}`", other.escape_ascii())), "{error}");
        }
    }
}
