//! A task that never finds the queue of a managed socket empty gives others their turns, as one with a socket of tokio
//! does: each connection and each datagram costs it a part of its budget, `tokio::task::coop`.
#![cfg(feature = "tokio")]

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tableflip::{Flavor, Ready, Service, net, testing};
use tokio::task::{LocalSet, spawn_local, yield_now};

/// How many wait in the queue: more than a task may take in one turn.
const WAITING: usize = 200;

/// Runs `body` with a listener of `address`, on one thread.
fn on_one_thread<L, R>(address: &str, body: impl AsyncFnOnce(L) -> R + Send + 'static) -> R
where
    L: tableflip::FromListener + 'static,
    R: Send + 'static,
{
    let service = Service::new().listen("busy", address).flavor(Flavor::CurrentThread);
    let running = testing::start(service, |start| {
        let listener = start.listener("busy")?;
        let ready: Ready = start.handle()?;
        Ok(async move {
            ready.notify();
            LocalSet::new().run_until(body(listener)).await
        })
    });
    running.unwrap().wait().expect("the body returns")
}

/// How many turns another task has while `take` takes all that waits. Before the first of them tokio is waited for.
async fn turns_of_another(mut take: impl AsyncFnMut()) -> usize {
    take().await;
    let turns = Rc::new(Cell::new(0));
    let counted = turns.clone();
    let other = spawn_local(async move {
        loop {
            counted.set(counted.get() + 1);
            yield_now().await;
        }
    });
    for _ in 1..WAITING {
        take().await;
    }
    other.abort();
    turns.get()
}

fn connect(address: SocketAddr) -> Vec<TcpStream> {
    (0..WAITING).map(|_| TcpStream::connect(address).unwrap()).collect()
}

fn send(address: SocketAddr) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..WAITING {
        client.send_to(&number.to_be_bytes(), address).unwrap();
    }
}

#[test]
fn another_task_has_its_turns_while_connections_wait() {
    let tokios = on_one_thread("tcp://127.0.0.1:0", async |listener: tokio::net::TcpListener| {
        let _clients = connect(listener.local_addr().unwrap());
        turns_of_another(async || drop(listener.accept().await.unwrap())).await
    });
    let managed = on_one_thread("tcp://127.0.0.1:0", async |listener: net::TcpListener| {
        let _clients = connect(listener.local_addr().unwrap());
        turns_of_another(async || drop(listener.accept().await.unwrap())).await
    });
    assert!(tokios > 0, "the test shows nothing");
    assert_eq!(managed, tokios);
}

#[test]
fn another_task_has_its_turns_while_datagrams_wait() {
    let tokios = on_one_thread("udp://127.0.0.1:0", async |socket: tokio::net::UdpSocket| {
        send(socket.local_addr().unwrap());
        turns_of_another(async || _ = socket.recv_from(&mut [0; 8]).await.unwrap()).await
    });
    let managed = on_one_thread("udp://127.0.0.1:0", async |socket: net::UdpSocket| {
        send(socket.local_addr().unwrap());
        turns_of_another(async || _ = socket.recv_from(&mut [0; 8]).await.unwrap()).await
    });
    assert!(tokios > 0, "the test shows nothing");
    assert_eq!(managed, tokios);
}

/// What one poll of `future` gives, which is dropped after it.
async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// A future that is pending for want of a budget has taken nothing, and can be dropped.
#[test]
fn what_waits_for_a_turn_is_not_lost_with_the_future() {
    on_one_thread("udp://127.0.0.1:0", async |socket: net::UdpSocket| {
        send(socket.local_addr().unwrap());
        let (mut taken, mut dropped) = (0_usize, 0);
        while taken < WAITING {
            let mut number = [0; 8];
            match poll_once(socket.recv_from(&mut number)).await {
                Poll::Ready(received) => {
                    received.unwrap();
                    assert_eq!(usize::from_be_bytes(number), taken);
                    taken += 1;
                }
                Poll::Pending => {
                    dropped += usize::from(taken > 0);
                    yield_now().await;
                }
            }
        }
        assert!(dropped > 0, "the test shows nothing");
    });
}
