//! Sockets behind a gate, registered with the runtime by their descriptor.

use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use event_listener::listener;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::resumed::Resumed;
use super::within_budget;
use crate::base::address::Address;
use crate::between::gate::{self, Gate, GateState};
use crate::between::managed::{ListeningSocket, gated};
use crate::between::params::ListenerSocket;
use crate::between::resumed::Source;
use crate::between::shared::{Counted, Shared};
use crate::outside::sockets::{self, StdDatagram, StdListener};

/// A listening socket behind a gate, of this type of std.
pub(super) struct Acceptor<L> {
    pub(super) gate: Arc<Gate<AsyncFd<OwnedFd>>>,
    address: Address,
    kind: PhantomData<fn() -> L>,
}

impl<L: StdListener> Acceptor<L> {
    pub(super) fn new(socket: ListenerSocket<'_>) -> io::Result<Self> {
        let io = register(socket.duplicate()?, Interest::READABLE)?;
        let address = socket.address().clone();
        Ok(Self { gate: gated(socket, Arc::new(io)), address, kind: PhantomData })
    }

    /// The next connection. Pending while the gate is closed, and `None` once it is retired.
    pub(super) async fn accept<S>(&self) -> io::Result<Option<(S, L::Address, Counted)>>
    where
        S: TryFrom<L::Stream, Error = io::Error>,
    {
        loop {
            // Another descriptor of the same socket is registered anew.
            let renew = |io: &Arc<AsyncFd<OwnedFd>>| {
                self.gate.replace(io, Arc::new(register(io.get_ref().try_clone()?, Interest::READABLE)?));
                Ok(())
            };
            let injected = || self.gate.take_injected(true);
            let accepted = accept_through(&self.gate, renew, injected, |listener| {
                let (stream, peer) = sockets::accept_nonblocking(listener.as_fd())?;
                // Counted inside the gate: a drain that begins next sees this connection.
                Ok((stream, peer, self.gate.count()))
            });
            match accepted.await {
                Ok(None) => return Ok(None),
                Ok(Some((stream, peer, counted))) => {
                    let Some((stream, peer)) = L::accepted(stream, &peer) else { continue };
                    match stream.try_into() {
                        Ok(stream) => return Ok(Some((stream, peer, counted))),
                        // epoll_ctl(2) has no memory for it, and tokio has closed it.
                        Err(error) => self.wait_for_resources(error).await?,
                    }
                }
                Err(error) => self.wait_for_resources(error).await?,
            }
        }
    }

    async fn wait_for_resources(&self, error: io::Error) -> io::Result<()> {
        let io = self.gate.io();
        let pause = self.gate.recover(io.as_ref().map(|io| io.get_ref().as_fd()), &self.address, error)?;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    pub(super) fn resumed<S, K: Into<String>>(&self, kinds: impl IntoIterator<Item = K>) -> Resumed<S> {
        Resumed::new(Source::new(self.gate.shared(), self.gate.listener(), &self.address, kinds))
    }

    pub(super) fn socket(&self) -> io::Result<ListeningSocket> {
        self.gate.io().map(ListeningSocket::new).ok_or_else(gate::given_up)
    }

    pub(super) fn local_addr(&self) -> io::Result<L::Address> {
        let io = self.gate.io().ok_or_else(gate::given_up)?;
        L::bound_to(&SockRef::from(io.get_ref()).local_addr()?)
    }
}

/// A datagram socket of std behind a gate.
pub(super) struct Datagrams<S: AsRawFd> {
    gate: Arc<Gate<AsyncFd<S>>>,
    /// For sending, which needs no gate.
    io: Arc<AsyncFd<S>>,
}

impl<S: StdDatagram + AsRawFd> Datagrams<S> {
    pub(super) fn new(socket: ListenerSocket<'_>) -> io::Result<Self> {
        let io = register(S::from(socket.duplicate()?), Interest::READABLE | Interest::WRITABLE)?;
        let io = Arc::new(io);
        Ok(Self { gate: gated(socket, io.clone()), io })
    }

    /// The next datagram. `None` if there is none, or the gate is not open.
    pub(super) fn try_recv_from(&self, buffer: &mut [u8]) -> Option<io::Result<(usize, S::Address)>> {
        attempt_through(&self.gate, |socket| socket.recv_from(buffer))
    }

    /// Waits until the socket is readable and the gate open. Returns false once the gate is retired.
    pub(super) async fn readable(&self) -> io::Result<bool> {
        readable_through(&self.gate, |_| Ok(())).await
    }

    pub(super) fn try_send_to(&self, data: &[u8], target: &S::Address) -> io::Result<usize> {
        self.io.try_io(Interest::WRITABLE, |socket| socket.send_to(data, target))
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        // Only an attempt that finds the socket full clears its readiness.
        self.io.writable().await.map(|mut guard| guard.retain_ready())
    }

    pub(super) fn shared(&self) -> &Shared {
        self.gate.shared()
    }

    pub(super) fn socket(&self) -> &S {
        self.io.get_ref()
    }

    pub(super) fn local_addr(&self) -> io::Result<S::Address> {
        self.io.get_ref().local_addr()
    }
}

/// Registers a socket with the runtime.
fn register<S: AsRawFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    // `register_with_interest` is missing in tokio 1.51.0 to 1.51.5, and in 1.52. The call of before it is sound for an `OwnedFd`
    // and a socket of std: each is one descriptor until `AsyncFd` drops it, which has deregistered it by then.
    #[allow(deprecated)]
    AsyncFd::with_interest(socket, interest)
}

/// The pause before the next look at a socket that was shut down.
const RENEW_PAUSE: Duration = Duration::from_millis(20);

/// Does `attempt` on the descriptor of a gate, as soon as it is readable while the gate is open. Pending while it is
/// closed, and `None` once it is retired.
///
/// A connection that `injected` takes from the gate goes first, also while the gate is closed.
async fn accept_through<T, R>(
    gate: &Gate<AsyncFd<T>>,
    renew: impl Fn(&Arc<AsyncFd<T>>) -> io::Result<()>,
    injected: impl Fn() -> Option<R>,
    mut attempt: impl FnMut(&T) -> io::Result<R>,
) -> io::Result<Option<R>>
where
    T: AsFd + AsRawFd + Send + Sync,
{
    loop {
        if let Some(injected) = injected() {
            return Ok(Some(injected));
        }
        // The first attempt needs no registration for changes.
        if let Some(result) = poll_fn(|cx| within_budget(cx, || attempt_through(gate, &mut attempt))).await {
            return result.map(Some);
        }
        if !readable_through(gate, &renew).await? {
            return Ok(None);
        }
    }
}

/// Does `attempt` once, if the gate is open. `None` if the attempt would block, or the gate is not open.
fn attempt_through<T, R>(
    gate: &Gate<AsyncFd<T>>,
    attempt: impl FnMut(&T) -> io::Result<R>,
) -> Option<io::Result<R>>
where
    T: AsFd + AsRawFd + Send + Sync,
{
    gate.ask();
    let attempted = gate.pass(|io| io.try_io(Interest::READABLE, |socket| gate.attempt(socket, attempt)))?;
    let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    Some(attempted).filter(|result| !result.as_ref().is_err_and(would_block))
}

/// Waits until the descriptor of a gate is readable and the gate open. Returns false once the gate is retired.
///
/// After another process has shut the socket down, shutdown(2), tokio takes the socket for readable for ever. Then
/// `renew` may register the socket anew, and a pause follows.
async fn readable_through<T>(
    gate: &Gate<AsyncFd<T>>,
    renew: impl Fn(&Arc<AsyncFd<T>>) -> io::Result<()>,
) -> io::Result<bool>
where
    T: AsFd + AsRawFd + Send + Sync,
{
    gate.ask();
    loop {
        // Registered before the look at the gate, so that no change is missed in between.
        listener!(gate.changed() => changed);
        if gate.has_injected() {
            return Ok(true);
        }
        let io = match gate.state() {
            GateState::Open(io) => io,
            GateState::Closed => {
                changed.await;
                continue;
            }
            GateState::Retired => return Ok(false),
        };
        let mut readable = pin!(io.readable());
        let is_shut_down = poll_fn(|cx| {
            if let Poll::Ready(ready) = readable.as_mut().poll(cx) {
                // The attempt clears the readiness of an empty queue; this guard must leave it as it is.
                return Poll::Ready(ready.map(|mut guard| {
                    guard.retain_ready();
                    Some(guard.ready().is_read_closed())
                }));
            }
            Pin::new(&mut changed).poll(cx).map(|()| Ok(None))
        })
        .await?;
        match is_shut_down {
            None => {}
            Some(false) => return Ok(true),
            Some(true) => {
                renew(&io)?;
                tokio::time::sleep(RENEW_PAUSE).await;
                return Ok(true);
            }
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

    /// They only peek at the one datagram, so the queue is never empty. If another process has the socket, each task waits for its
    /// turn inside.
    #[test]
    fn it_closes_to_tasks_that_never_find_the_queue_empty() {
        for accompanied in [false, true] {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_all().build().unwrap();
            let shared = Arc::new(Shared::new(1, accompanied, Duration::ZERO).unwrap());
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.send_to(&[0], socket.local_addr().unwrap()).unwrap();
            #[allow(
                deprecated,
                reason = "a socket of std keeps its descriptor, and this one needs no `unsafe`"
            )]
            let io = runtime.block_on(async { AsyncFd::with_interest(socket, Interest::READABLE) }).unwrap();
            let gate = Arc::new(Gate::new("dns".to_owned(), shared, Arc::new(io)));
            for _ in 0..8 {
                let gate = gate.clone();
                runtime.spawn(async move {
                    let take = || accept_through(&gate, |_| Ok(()), || None, |socket| socket.peek(&mut [0]));
                    while take().await.is_ok_and(|taken| taken.is_some()) {}
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
