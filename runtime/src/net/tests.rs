//! What the managed types do while their gate is open, closed and retired.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::*;
use crate::base::address::Address;
use crate::between::gate_control::GateControl;
use crate::between::params::{FromListener, make};
use crate::between::shared::Shared;
use crate::outside::sockets;

/// A managed type, and what the engine has of it.
struct Managed<T> {
    it: T,
    gate: Arc<dyn GateControl>,
    shared: Arc<Shared>,
}

impl<T: FromListener> Managed<T> {
    fn new(address: &str) -> Self {
        let shared = Arc::new(Shared::new(1, false, Duration::ZERO).unwrap());
        let address: Address = address.parse().unwrap();
        let (socket, mut gates) = (sockets::bind("it", &address).unwrap(), Vec::new());
        let it = make(&socket, &shared, &mut gates).unwrap();
        Self { it, gate: gates.pop().unwrap(), shared }
    }

    /// The gate as in a probation.
    fn pause(&self) {
        assert!(self.gate.close(by_then()));
    }

    /// The gate as in a drain.
    fn retire(&self) {
        assert!(self.gate.retire(by_then()));
    }
}

fn by_then() -> Instant {
    Instant::now() + Duration::from_secs(2)
}

fn tcp() -> Managed<TcpListener> {
    Managed::new("tcp://127.0.0.1:0")
}

fn connect(managed: &Managed<TcpListener>) -> std::net::TcpStream {
    std::net::TcpStream::connect(managed.it.local_addr().unwrap()).unwrap()
}

/// Polls once. tokio has taken note before of what has happened.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    tokio::task::yield_now().await;
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

async fn is_pending<F: Future>(future: F) -> bool {
    poll_once(pin!(future)).await.is_pending()
}

/// The value of a future that must not wait for ever.
async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it is woken")
}

#[tokio::test]
async fn the_incoming_connections_end_at_a_drain_and_not_at_a_pause() {
    let managed = tcp();
    let mut incoming = managed.it.incoming();
    assert!(is_pending(incoming.next()).await);
    assert!(managed.gate.asked(), "the service is ready to serve it");
    managed.gate.open();
    let _first = connect(&managed);
    assert!(in_time(incoming.next()).await.unwrap().is_ok());

    managed.pause();
    let _second = connect(&managed);
    assert!(is_pending(incoming.next()).await, "a successor is on probation");
    // It has failed.
    managed.gate.open();
    assert!(in_time(incoming.next()).await.unwrap().is_ok());

    managed.pause();
    let waiting = tokio::spawn(async move { incoming.next().await.is_none() });
    tokio::task::yield_now().await;
    managed.retire();
    assert!(in_time(waiting).await.unwrap(), "it ends at the drain");
    assert!(in_time(managed.it.incoming().next()).await.is_none(), "so does another one");
    assert!(is_pending(managed.it.accept()).await, "accept has no end");
    assert!(is_pending(poll_fn(|cx| managed.it.poll_accept(cx))).await);
}

/// A `select!` may leave a wait behind, which nothing polls again.
#[tokio::test]
async fn a_wait_that_is_left_behind_does_not_keep_the_listener_open() {
    let managed = tcp();
    managed.gate.open();
    let address = managed.it.local_addr().unwrap();
    let mut incoming = managed.it.incoming();
    assert!(is_pending(incoming.next()).await);
    assert!(is_pending(poll_fn(|cx| managed.it.poll_accept(cx))).await);
    managed.retire();
    assert!(std::net::TcpStream::connect(address).is_err(), "a client waits in a queue that nothing serves");
    assert!(in_time(incoming.next()).await.is_none());
}

#[cfg(feature = "futures-03")]
#[tokio::test]
async fn the_incoming_connections_are_a_stream() {
    use futures_core::Stream;

    let managed = tcp();
    managed.gate.open();
    let mut incoming = pin!(managed.it.incoming());
    let _client = connect(&managed);
    let next = poll_fn(|cx| Stream::poll_next(incoming.as_mut(), cx));
    assert!(in_time(next).await.unwrap().is_ok());
    managed.retire();
    assert!(in_time(poll_fn(|cx| Stream::poll_next(incoming.as_mut(), cx))).await.is_none());
}

/// Each handle has a place of its own in the queues: a task does not lose its waker to another one.
#[tokio::test]
async fn what_polls_an_accept_is_woken_by_a_connection() {
    let managed = tcp();
    let accepts: Vec<_> = (0..3)
        .map(|_| {
            let listener = managed.it.clone();
            tokio::spawn(async move { poll_fn(|cx| listener.poll_accept(cx)).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(managed.gate.asked(), "the service is ready to serve it");
    let _clients = [(); 3].map(|()| connect(&managed));
    managed.gate.open();
    for accept in accepts {
        in_time(accept).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_socket_of_a_listener_is_there_until_the_listener_is_given_up() {
    let managed = tcp();
    let socket = managed.it.socket().unwrap();
    let address = socket2::SockRef::from(&socket).local_addr().unwrap();
    assert_eq!(address.as_socket(), Some(managed.it.local_addr().unwrap()));
    managed.retire();
    assert_eq!(managed.it.socket().unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    // It is a socket as long as it lives.
    assert!(socket2::SockRef::from(&socket).local_addr().is_ok());
}

/// Every receive passes the gate.
macro_rules! receives {
    ($name:ident, $type:ty, $address:expr, $send:expr) => {
        #[tokio::test]
        async fn $name() {
            let dir = tempfile::tempdir().unwrap();
            let managed: Managed<$type> = Managed::new(&($address)(dir.path()));
            let socket = &managed.it;
            let send = ($send)(socket);
            let would_block = |socket: &$type| {
                socket.try_recv_from(&mut [0; 8]).unwrap_err().kind() == std::io::ErrorKind::WouldBlock
            };
            async fn poll(socket: &$type) -> Vec<u8> {
                let (mut bytes, mut all) = ([0; 8], Vec::new());
                let mut buffer = ReadBuf::new(&mut bytes);
                // What is in the buffer already stays there.
                buffer.put_slice(b"<");
                poll_fn(|cx| socket.poll_recv_from(cx, &mut buffer)).await.unwrap();
                all.extend_from_slice(buffer.filled());
                all
            }
            send(b"1");
            assert!(would_block(socket), "the service does not serve yet");
            assert!(managed.gate.asked(), "the service is ready to serve it");
            assert!(is_pending(socket.readable()).await);
            assert!(is_pending(poll(socket)).await);

            managed.gate.open();
            in_time(socket.readable()).await.unwrap();
            assert_eq!(in_time(poll(socket)).await, b"<1");
            assert!(would_block(socket), "it is taken");
            assert!(is_pending(socket.readable()).await);
            send(b"2");
            in_time(socket.readable()).await.unwrap();
            let mut bytes = [0; 8];
            assert_eq!(socket.try_recv_from(&mut bytes).unwrap().0, 1);
            assert_eq!(bytes[0], b'2');

            managed.pause();
            send(b"3");
            assert!(would_block(socket), "a successor is on probation");
            assert!(is_pending(socket.readable()).await);
            assert!(is_pending(poll(socket)).await);
            let polls = tokio::spawn({
                let clone = socket.clone();
                async move { poll(&clone).await }
            });
            tokio::task::yield_now().await;
            managed.gate.open();
            assert_eq!(in_time(polls).await.unwrap(), b"<3");

            managed.retire();
            send(b"4");
            assert!(would_block(socket), "the process drains");
            assert!(is_pending(socket.readable()).await);
            assert!(is_pending(poll(socket)).await);
            assert!(is_pending(socket.recv_from(&mut [0; 8])).await);
        }
    };
}

receives!(
    a_udp_socket_receives_only_through_its_gate,
    UdpSocket,
    |_: &Path| "udp://127.0.0.1:0".to_owned(),
    |socket: &UdpSocket| {
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        move |data: &[u8]| assert_eq!(client.send_to(data, address).unwrap(), 1)
    }
);

#[cfg(unix)]
receives!(
    a_unix_datagram_socket_receives_only_through_its_gate,
    UnixDatagram,
    |dir: &Path| format!("unix-dgram://{}/socket", dir.display()),
    |socket: &UnixDatagram| {
        let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let address = socket.local_addr().unwrap();
        move |data: &[u8]| assert_eq!(client.send_to_addr(data, &address).unwrap(), 1)
    }
);

/// Three datagrams of this size are more than the send buffer has room for.
#[cfg(upgrades)]
#[tokio::test]
async fn a_socket_that_is_full_wakes_what_sends() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram as Socket};

    let managed: Managed<UnixDatagram> =
        Managed::new(&format!("unix-dgram:@tableflip-sends-{}", std::process::id()));
    let address = SocketAddr::from_abstract_name(format!("tableflip-full-{}", std::process::id())).unwrap();
    let receiver = Socket::bind_addr(&address).unwrap();
    let large = vec![7; 80_000];
    let mut sent = 0;
    // The gate is closed: a send needs none.
    in_time(managed.it.writable()).await.unwrap();
    let error = loop {
        match managed.it.try_send_to(&large, address.clone()) {
            Ok(length) => sent += usize::from(length == large.len()),
            Err(error) => break error,
        }
    };
    assert!((1..10).contains(&sent), "{sent}");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(is_pending(managed.it.writable()).await);
    let polled = tokio::spawn({
        let (socket, large, address) = (managed.it.clone(), large.clone(), address.clone());
        async move { poll_fn(|cx| socket.poll_send_to(cx, &large, address.clone())).await }
    });
    let sent_to = tokio::spawn({
        let (socket, large, address) = (managed.it.clone(), large.clone(), address.clone());
        async move { socket.send_to(&large, address).await }
    });
    tokio::task::yield_now().await;
    let mut buffer = vec![0; large.len()];
    for _ in 0..sent {
        assert_eq!(receiver.recv(&mut buffer).unwrap(), large.len());
    }
    assert_eq!(in_time(polled).await.unwrap().unwrap(), large.len());
    assert_eq!(in_time(sent_to).await.unwrap().unwrap(), large.len());
}

#[tokio::test]
async fn the_halves_of_a_stream_become_one_again() {
    let managed = tcp();
    managed.gate.open();
    let (mut client, _other) = (connect(&managed), connect(&managed));
    let (stream, other) = (managed.it.accept().await.unwrap().0, managed.it.accept().await.unwrap().0);
    assert_eq!(managed.shared.counted(), 2);
    let (read, write) = stream.into_split();
    let (other_read, other_write) = other.into_split();
    let error = read.reunite(other_write).unwrap_err();
    assert_eq!(error.to_string(), "the two halves are not of one stream");
    let ReuniteError(read, other_write) = error;
    assert_eq!(managed.shared.counted(), 2);
    drop(other_read.reunite(other_write).unwrap());
    assert_eq!(managed.shared.counted(), 1);

    // In the other order as well. A method of tokio that takes `&mut self` is there.
    std::io::Write::write_all(&mut client, b"hello").unwrap();
    let (mut read, mut write) = write.reunite(read).unwrap().into_split();
    assert_eq!(read.peek(&mut [0; 8]).await.unwrap(), 5);
    write.write_all(b"!").await.unwrap();
    let mut stream = read.reunite(write).unwrap();
    assert_eq!(managed.shared.counted(), 1, "a drain waits for it");
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");
    assert!(socket2::SockRef::from(&stream).tcp_nodelay().is_ok());
    let (read, write) = stream.into_split();
    let (inner, guard) = read.into_inner();
    drop((inner, write));
    assert_eq!(managed.shared.counted(), 1, "a drain waits for the guard");
    drop(guard);
    assert_eq!(managed.shared.counted(), 0);
}
