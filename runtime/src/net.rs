//! The managed types of an `async fn main`: listeners and sockets that stop handing out connections and datagrams
//! when the service is replaced, and streams that a drain waits for.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use event_listener::listener;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::coop;

use crate::between::drain;
use crate::between::gate::{Gate, GateState};

mod datagram;
mod listener;
mod stream;

pub use datagram::{UdpSocket, UnixDatagram};
pub use listener::{TcpListener, UnixListener};
#[cfg(feature = "http")]
pub(crate) use stream::forward_write;
pub use stream::{OwnedReadHalf, OwnedWriteHalf, TcpStream, UnixStream};

/// How long to wait before a socket is looked at again that was shut down.
const RENEW_PAUSE: Duration = Duration::from_millis(20);

/// Does `attempt` on the descriptor of a gate, as soon as it is readable while the gate is open. Pending while it is
/// closed, and for ever once it is retired.
///
/// Where the socket was shut down by another process that has it, shutdown(2), tokio takes it for readable for ever after. Then
/// `renew` is called, which may register the socket anew, and there is a pause.
async fn read_through<T, R>(
    gate: &Gate<AsyncFd<T>>,
    renew: impl Fn(&Arc<AsyncFd<T>>) -> io::Result<()>,
    mut attempt: impl FnMut(&T) -> io::Result<R>,
) -> io::Result<R>
where
    T: AsFd + AsRawFd + Send + Sync,
{
    gate.ask();
    loop {
        // What is there already is taken without registering for changes. It costs the task of its budget what tokio's
        // own sockets cost: one that never finds the queue empty has others run all the same. Pending it has taken nothing.
        let taken = poll_fn(|cx| {
            let budget = ready!(coop::poll_proceed(cx));
            let attempted =
                gate.pass(|io| io.try_io(Interest::READABLE, |socket| gate.attempt(socket, &mut attempt)));
            let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
            let taken = attempted.filter(|result| !result.as_ref().is_err_and(would_block));
            if taken.is_some() {
                budget.made_progress();
            }
            Poll::Ready(taken)
        });
        if let Some(result) = taken.await {
            return result;
        }
        // Registered before the gate is looked at, so that no change is missed in between.
        listener!(gate.changed() => changed);
        let io = match gate.state() {
            GateState::Open(io) => io,
            GateState::Closed => {
                changed.await;
                continue;
            }
            GateState::Retired => drain::never(gate.shared()).await,
        };
        let mut readable = pin!(io.readable());
        let is_shut_down = poll_fn(|cx| {
            if let Poll::Ready(ready) = readable.as_mut().poll(cx) {
                // The attempt above clears the readiness, when there is nothing; this guard must leave it as it is.
                return Poll::Ready(ready.map(|mut guard| {
                    guard.retain_ready();
                    guard.ready().is_read_closed()
                }));
            }
            Pin::new(&mut changed).poll(cx).map(|()| Ok(false))
        })
        .await?;
        if is_shut_down {
            renew(&io)?;
            tokio::time::sleep(RENEW_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::between::gate::tests::{by_then, closes, goes_on};
    use crate::between::gate_control::GateControl;
    use crate::between::shared::Shared;

    /// They only look at the one datagram there is, so there is always one more. In company each waits for its turn inside.
    #[test]
    fn it_closes_to_tasks_that_never_find_the_queue_empty() {
        for accompanied in [false, true] {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_all().build().unwrap();
            let shared = Arc::new(Shared::new(1, accompanied, Duration::ZERO).unwrap());
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.send_to(&[0], socket.local_addr().unwrap()).unwrap();
            #[expect(
                deprecated,
                reason = "a socket of std keeps its descriptor, and this one needs no `unsafe`"
            )]
            let io = runtime.block_on(async { AsyncFd::with_interest(socket, Interest::READABLE) }).unwrap();
            let gate = Arc::new(Gate::new("dns".to_owned(), shared, Arc::new(io)));
            for _ in 0..8 {
                let gate = gate.clone();
                runtime.spawn(async move {
                    while read_through(&gate, |_| Ok(()), |socket| socket.peek(&mut [0])).await.is_ok() {}
                });
            }
            for _ in 0..10 {
                assert!(closes(&*gate), "accompanied: {accompanied}");
            }
            gate.open();
            assert!(goes_on(&*gate));
            gate.retire(by_then());
            assert!(gate.io().is_none(), "accompanied: {accompanied}");
        }
    }
}
