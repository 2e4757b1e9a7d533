//! A DNS server for `example.org`, on UDP and TCP: every query is answered once, by one of the two processes.
//!
//! Run it with `cargo run -p dns`, ask it with `dig @127.0.0.1 -p 5300 www.example.org`, and replace it with
//! `kill -HUP $(cat dns.pid)`.

use std::{io, time::Duration};

use hickory_proto::op::{Message, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::A};
use tableflip::{Shutdown, net::TcpListener, net::TcpStream, net::UdpSocket};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, time::sleep};

pub(crate) fn answer(query: &[u8]) -> io::Result<Vec<u8>> {
    let is_query = |message: &Message| message.metadata.message_type == MessageType::Query;
    let query = Message::from_vec(query).ok().filter(is_query).ok_or(io::ErrorKind::InvalidData)?;
    let zone = Name::from_ascii("example.org.").map_err(io::Error::other)?;
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&query.metadata);
    answer.metadata.authoritative = true;
    for asked in query.queries {
        if !zone.zone_of(asked.name()) {
            answer.metadata.response_code = ResponseCode::Refused;
        } else if asked.query_type() == RecordType::A {
            answer.add_answer(Record::from_rdata(asked.name().clone(), 60, RData::A(A::new(192, 0, 2, 1))));
        }
        answer.add_query(asked);
    }
    answer.to_vec().map_err(io::Error::other)
}

async fn over_tcp(mut stream: TcpStream, mut shutdown: Shutdown) -> io::Result<()> {
    // RFC 7766: any number of queries, and a close after any answer. An idle connection gets a moment more.
    while !shutdown.is_raised() {
        let length = tokio::select! {
            length = stream.read_u16() => length?,
            () = async { (&mut shutdown).await; sleep(Duration::from_secs(2)).await } => return Ok(()),
        };
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await?;
        let answer = answer(&query)?;
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?.to_be_bytes();
        stream.write_all(&[&length, &answer[..]].concat()).await?;
    }
    Ok(())
}

#[tableflip::main(pidfile = "dns.pid", listen = [udp = "udp://127.0.0.1:5300", tcp = "tcp://127.0.0.1:5300"])]
async fn main(udp: UdpSocket, tcp: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    let mut packet = [0; 4096];
    loop {
        tokio::select! {
            accepted = tcp.accept() => drop(tokio::spawn(over_tcp(accepted?.0, shutdown.clone()))),
            () = shutdown.clone() => return Ok(()),
            received = udp.recv_from(&mut packet) => {
                let _guard = shutdown.guard();
                let (length, client) = received?;
                // A malformed query gets no answer, and a client that is gone needs none.
                if let Ok(answer) = answer(&packet[..length]) {
                    udp.send_to(&answer, client).await.unwrap_or_default();
                }
            }
        }
    }
}
