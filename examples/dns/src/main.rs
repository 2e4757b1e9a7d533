//! A DNS server for `example.org`, on UDP and TCP: every query is answered once, by one of the two processes.
//!
//! Run it with `cargo run -p dns`, ask it with `dig @127.0.0.1 -p 5300 www.example.org`, and replace it with
//! `kill -HUP $(cat dns.pid)`.

use std::{io, net::Ipv4Addr};

use hickory_proto::op::{Message, Metadata, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType, rdata::A};
use tableflip::Shutdown;
use tableflip::net::{TcpListener, TcpStream, UdpSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn answer(query: &[u8]) -> io::Result<Vec<u8>> {
    let query = Message::from_vec(query).map_err(io::Error::other)?;
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&query.metadata);
    answer.metadata.authoritative = true;
    for question in query.queries {
        if !question.name().to_ascii().to_ascii_lowercase().ends_with("example.org.") {
            answer.metadata.response_code = ResponseCode::Refused;
        } else if question.query_type() == RecordType::A {
            let address = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
            answer.add_answer(Record::from_rdata(question.name().clone(), 60, address));
        }
        answer.add_query(question);
    }
    answer.to_vec().map_err(io::Error::other)
}

async fn over_tcp(mut stream: TcpStream, shutdown: Shutdown) -> io::Result<()> {
    // RFC 7766: a connection may have any number of queries, and may be closed after any answer.
    while !shutdown.is_raised() {
        let mut query = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut query).await?;
        let answer = answer(&query)?;
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
    }
    Ok(())
}

#[tableflip::main(pidfile = "dns.pid", listen = [udp = "udp://127.0.0.1:5300", tcp = "tcp://127.0.0.1:5300"])]
async fn main(udp: UdpSocket, tcp: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    let mut packet = [0; 4096];
    loop {
        tokio::select! {
            accepted = tcp.accept() => drop(tokio::spawn(over_tcp(accepted?.0, shutdown.clone()))),
            received = udp.recv_from(&mut packet) => {
                // What has been received is answered, though the drain begins meanwhile.
                let _guard = shutdown.guard();
                let (length, client) = received?;
                // What is no query has no answer, and a client that is gone needs none.
                if let Ok(answer) = answer(&packet[..length]) {
                    udp.send_to(&answer, client).await.unwrap_or_default();
                }
            }
        }
    }
}
