//! Datagrams across an upgrade: each is read by exactly one of the two services, in both flavours.
#![cfg(upgrades)]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tableflip::testing::{self, Running};
use tableflip::{Failure, Service, Start};

fn declared() -> Service {
    Service::new().listen("dns", "udp://127.0.0.1:0").probation("0s")
}

fn in_a_thread(generation: u8) -> impl FnOnce(&mut Start) -> Result<Body, Failure> {
    move |start| {
        let socket: tableflip::blocking::UdpSocket = start.listener("dns")?;
        Ok(Box::new(move || {
            let mut buffer = [0; 8];
            while let Some((length, from)) = socket.recv_from(&mut buffer)? {
                buffer[7] = generation;
                socket.send_to(&buffer[..length], &from)?;
            }
            Ok(())
        }))
    }
}

type Body = Box<dyn FnOnce() -> std::io::Result<()> + Send>;

/// Asks `count` numbered questions, and `half_way` calls for an upgrade. Every question is answered once, and after the
/// upgrade by the new generation alone.
fn ask(address: SocketAddr, count: u32, half_way: impl FnOnce()) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut half_way = Some(half_way);
    let mut newest = 1;
    for number in 0..count {
        if number == count / 2 {
            half_way.take().unwrap()();
        }
        let mut question = [0; 8];
        question[..4].copy_from_slice(&number.to_be_bytes());
        client.send_to(&question, address).unwrap();
        let mut answer = [0; 8];
        assert_eq!(client.recv(&mut answer).expect("the question is answered"), 8);
        assert_eq!(answer[..4], question[..4], "an answer to another question: one was answered twice");
        assert!(answer[7] >= newest, "the old service answers after the new one has");
        newest = answer[7];
    }
    assert_eq!(newest, 2);
    client.set_nonblocking(true).unwrap();
    assert!(client.recv(&mut [0; 8]).is_err(), "a question was answered twice");
}

#[test]
fn each_datagram_is_read_once_by_threads() {
    let old = testing::start_blocking(declared(), in_a_thread(1)).unwrap();
    let address = old.address("dns").unwrap();
    let mut new: Option<Running<_>> = None;
    ask(address, 2000, || new = Some(old.replace_blocking(declared(), in_a_thread(2)).unwrap()));
    old.wait().expect("it returned").unwrap();
    new.unwrap().stop().expect("it returned").unwrap();
}

#[cfg(feature = "tokio")]
#[test]
fn each_datagram_is_read_once_by_tasks() {
    use std::future::Future;

    type Prepared = std::pin::Pin<Box<dyn Future<Output = ()>>>;
    fn in_a_task(generation: u8) -> impl FnOnce(&mut Start) -> Result<Prepared, Failure> {
        move |start| {
            let socket: tableflip::net::UdpSocket = start.listener("dns")?;
            Ok(Box::pin(async move {
                let mut buffer = [0; 8];
                while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                    buffer[7] = generation;
                    socket.send_to(&buffer[..length], from).await.expect("loopback has room");
                }
            }))
        }
    }

    let old = testing::start(declared(), in_a_task(1)).unwrap();
    let address = old.address("dns").unwrap();
    let mut new = None;
    ask(address, 2000, || new = Some(old.replace(declared(), in_a_task(2)).unwrap()));
    assert!(old.wait().is_none(), "a body that receives for ever is dropped");
    new.unwrap().stop();
}
