//! The managed types of an `async fn main`: listeners and sockets that stop handing out connections and datagrams
//! when the service is replaced, and streams that a drain waits for.

mod datagram;
#[cfg_attr(not(upgrades), path = "portable/net/gated.rs")]
mod gated;
mod listener;
mod stream;

use crate::between::params::BodyKind;

/// The types register with the runtime.
const BODY: BodyKind = BodyKind::Async;

pub use datagram::UdpSocket;
#[cfg(unix)]
pub use datagram::UnixDatagram;
pub use listener::TcpListener;
#[cfg(unix)]
pub use listener::UnixListener;
#[cfg(unix)]
pub use stream::UnixStream;
#[cfg(feature = "http")]
pub(crate) use stream::forward_write;
pub use stream::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
