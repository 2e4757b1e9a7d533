//! A socket that moves to the successor.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::socket::{Socket, into_parts, resume};
use crate::between::shared::Counted;
use crate::moving::session::Session;
use crate::net::TcpStream;
#[cfg(unix)]
use crate::net::UnixStream;

/// How long a client has to read what was written to it, but at most a share of the drain.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
const FLUSH_SHARE: u32 = 4;

/// The stream of a socket for [`hand_over`]: a stream of `net`, or what [`Opening::socket`](super::Opening::socket) opens. Only this
/// crate has such types.
pub trait Managed: sealed::Managed {}

impl<S: sealed::Managed> Managed for S {}

pub(super) mod sealed {
    use super::*;

    pub trait Managed: AsyncRead + AsyncWrite + Unpin + Sized {
        /// The count of its listener, if the stream can move.
        fn counted(&self) -> Option<Tag<'_>>;
        fn hand_over(self, session: Session) -> impl Future<Output = Result<(), Self>> + Send;
    }

    /// What a stream knows of its listener.
    #[derive(Debug)]
    pub struct Tag<'a>(pub(in crate::websocket) &'a Counted);
}

use sealed::Tag;

macro_rules! managed {
    ($stream:ty) => {
        impl sealed::Managed for $stream {
            fn counted(&self) -> Option<Tag<'_>> {
                Some(Tag(<$stream>::counted(self)))
            }

            fn hand_over(self, session: Session) -> impl Future<Output = Result<(), Self>> + Send {
                <$stream>::hand_over(self, session)
            }
        }
    };
}

managed!(TcpStream);
#[cfg(unix)]
managed!(UnixStream);

/// Hands a socket over to the successor, between two messages or in the midst of one. Call it once
/// [`Shutdown`](crate::Shutdown) has resolved.
///
/// Every message that was read and that nobody has taken goes along. So there is nothing to drain before. What was written is
/// flushed first, for at most 5 s or a quarter of `drain_timeout`. The unread bytes of the session are those of the socket.
///
/// `Ok` means that the successor has the connection: it gets the stream from `resumed` of the listener, and goes on with
/// [`resume`]. If the future is dropped, the successor may have the connection; if it has not, the connection is closed.
///
/// # Errors
///
/// The socket, which goes on as before. It [cannot be taken apart](super), or the [stream](crate::net::TcpStream::hand_over)
/// does not move. Then the client is told: a Close of code 1012, Service Restart, asks it to connect again.
pub async fn hand_over<S: Managed>(socket: Socket<S>, session: Session) -> Result<(), Socket<S>> {
    let (will_take, drain_timeout) = match sealed::Managed::counted(&**socket.get_ref()) {
        Some(Tag(counted)) => {
            let shared = counted.shared();
            (shared.moving.giving.will_take(counted.listener(), &session.kind), shared.drain_timeout)
        }
        None => (false, Duration::ZERO),
    };
    if !will_take {
        return Err(socket);
    }
    let config = *socket.get_config();
    let parts = into_parts(socket, FLUSH_TIMEOUT.min(drain_timeout / FLUSH_SHARE)).await?;
    match sealed::Managed::hand_over(parts.stream, session.unread(parts.unread)).await {
        Ok(()) => Ok(()),
        Err(stream) => Err(resume(stream, Some(config)).await),
    }
}
