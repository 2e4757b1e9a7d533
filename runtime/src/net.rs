//! The managed types of an `async fn main`: listeners and sockets that stop handing out connections and datagrams
//! when the service is replaced, and streams that a drain waits for.

mod datagram;
#[cfg_attr(not(upgrades), path = "portable/net/gated.rs")]
mod gated;
mod kept;
mod listener;
mod resumed;
mod stream;

use std::task::{Context, Poll, ready};

use tokio::task::coop;

use crate::between::params::BodyKind;

/// The types register with the runtime.
const BODY: BodyKind = BodyKind::Async;

pub use crate::between::resumed::Offer;
pub use datagram::UdpSocket;
#[cfg(unix)]
pub use datagram::UnixDatagram;
#[cfg(unix)]
pub use listener::UnixListener;
pub use listener::{Incoming, TcpListener};
pub use resumed::Resumed;
#[cfg(unix)]
pub use stream::UnixStream;
#[cfg(feature = "http")]
pub(crate) use stream::forward_write;
pub use stream::{HandOver, OwnedReadHalf, OwnedWriteHalf, ReuniteError, TcpStream};

/// An attempt to take something from a socket, which takes from the budget of the task as a socket of tokio does. So a task
/// that never finds the queue empty lets others run. While this is pending, it has taken nothing.
fn within_budget<R>(cx: &mut Context<'_>, attempt: impl FnOnce() -> Option<R>) -> Poll<Option<R>> {
    let budget = ready!(coop::poll_proceed(cx));
    let taken = attempt();
    if taken.is_some() {
        budget.made_progress();
    }
    Poll::Ready(taken)
}

#[cfg(test)]
mod tests;
