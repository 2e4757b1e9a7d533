//! DNS over UDP.

use std::io;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use tableflip::net::UdpSocket;
use tableflip::{Service, Shutdown, Upgrader};

use crate::service::announce;

#[allow(dead_code, reason = "its own main, and what it does over TCP")]
#[path = "../../../../examples/dns/src/main.rs"]
mod example;

pub(super) async fn plain() -> io::Result<()> {
    let udp = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", udp.local_addr()?);
    let mut packet = [0; 4096];
    loop {
        let (length, client) = udp.recv_from(&mut packet).await?;
        if let Ok(answer) = example::answer(&packet[..length]) {
            udp.send_to(&answer, client).await?;
        }
    }
}

pub(super) fn managed(service: Service) -> ExitCode {
    service.listen("udp", "udp://127.0.0.1:0").run(|start| {
        let upgrader: Upgrader = start.handle()?;
        let shutdown: Shutdown = start.handle()?;
        let udp: UdpSocket = start.listener("udp")?;
        Ok(async move {
            announce(udp.local_addr()?, &upgrader);
            let mut packet = [0; 4096];
            loop {
                tokio::select! {
                    () = shutdown.clone() => return io::Result::Ok(()),
                    received = udp.recv_from(&mut packet) => {
                        let _guard = shutdown.guard();
                        let (length, client) = received?;
                        if let Ok(answer) = example::answer(&packet[..length]) {
                            udp.send_to(&answer, client).await?;
                        }
                    }
                }
            }
        })
    })
}
