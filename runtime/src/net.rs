//! The managed types of an `async fn main`: listeners and sockets that stop handing out connections and datagrams
//! when the service is replaced, and streams that a drain waits for.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::{Pin, pin};
use std::task::Poll;

use event_listener::listener;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::gate::{Gate, Passage};

mod datagram;
mod listener;
mod stream;

pub use datagram::{UdpSocket, UnixDatagram};
pub use listener::{TcpListener, UnixListener};
#[cfg(feature = "http")]
pub(crate) use stream::forward_write;
pub use stream::{OwnedReadHalf, OwnedWriteHalf, TcpStream, UnixStream};

/// Does `attempt` on the descriptor of a gate, as soon as it is readable while the gate is open. Pending while it is
/// closed, and for ever once it is retired.
async fn read_through<T, R>(
    gate: &Gate<AsyncFd<T>>,
    mut attempt: impl FnMut(&T) -> io::Result<R>,
) -> io::Result<R>
where
    T: AsFd + AsRawFd + Send + Sync,
{
    gate.ask();
    loop {
        // What is there already is taken without registering for changes.
        let attempted =
            gate.pass(|io| io.try_io(Interest::READABLE, |socket| gate.attempt(socket, &mut attempt)));
        match attempted {
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Some(result) => return result,
            None => {}
        }
        // Registered before the gate is looked at, so that no change is missed in between.
        listener!(gate.changed() => changed);
        let io = match gate.passage() {
            Passage::Open(io) => io,
            Passage::Closed => {
                changed.await;
                continue;
            }
            Passage::Retired => std::future::pending().await,
        };
        let mut readable = pin!(io.readable());
        poll_fn(|cx| {
            if let Poll::Ready(ready) = readable.as_mut().poll(cx) {
                // The attempt above clears the readiness, when there is nothing; this guard must leave it as it is.
                return Poll::Ready(ready.map(|mut guard| guard.retain_ready()));
            }
            Pin::new(&mut changed).poll(cx).map(Ok)
        })
        .await?;
    }
}
