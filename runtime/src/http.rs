//! Serve HTTP so that a drain loses no request (feature `http`).
//!
//! # Connections that move
//!
//! After an upgrade the open connections of HTTP/1.1 move to the successor, and their clients notice nothing. When the successor
//! has passed its probation, and the drain of this process begins, each connection moves as soon as it is between two requests:
//!
//! * An idle connection moves at once. So does one that has sent nothing yet, or a part of the head of a request: what was read
//!   of it moves too.
//! * A request that is under way is answered first: its body is read, and the answer is written to its end. Requests that the
//!   client has pipelined behind it, and that are not read yet, are answered by the successor.
//! * The connection is a new one for the successor: `into_make_service_with_connect_info` and [`with_connect_info`] make anew
//!   what they make of the client's address, which is the same. The limits and settings are those of the successor.
//!
//! These do not move, and end as the next section says: HTTP/2, a connection behind a [handshake](with_handshake) such as TLS, one
//! that has become another protocol, one whose answer has [`Stays`], and those of a service with
//! [`Builder::move_connections`]`(false)`. A client that pipelines requests with bodies without a pause leaves no moment between
//! two of them: the seventeenth is answered with `Connection: close`. Nothing moves when the service stops, when the successor
//! does not take this kind of connection on this listener, or when it does not answer within a second: each connection has
//! one process at any time, and stays here if the successor has not said that it has it.
//!
//! # How the other connections end
//!
//! A connection stays open between requests. The peer that closes it cannot know whether the next request is already on
//! its way. So once a successor serves, a connection that does not move ends as follows:
//!
//! * HTTP/1.1: the next answer has `Connection: close`, RFC 9112 section 9.6, and the client connects to the successor.
//!   An idle connection stays open for a grace of 5 s from the beginning of the drain, but for at most half of
//!   `drain_timeout`. In that time nearly every client sends its next request or goes away by itself. After the grace
//!   the connection is closed, unless something has arrived meanwhile. So a request may arrive slowly. A request of
//!   which nothing more arrives for a whole grace is given up.
//! * HTTP/2: the connection ends by the GOAWAYs of RFC 9113 section 6.8. The first GOAWAY forbids no stream. It comes
//!   before the next answer, because a client that has its answer sends the next request. Without an answer it comes a
//!   second after the beginning of the drain. A second after the first GOAWAY the client gets a PING. Its answer shows
//!   that it has read the first GOAWAY, and that everything it sent before has arrived. Then the last GOAWAY names the
//!   last stream that is served. Open streams are served to their end. A client counts as gone if nothing arrives from
//!   it within 5 s of that PING, or within half of the rest of a short drain. The drain then waits for it only if an
//!   answer is under way.
//! * A connection that was accepted and has sent nothing yet is served like any other: its first request is answered.
//!   If no request arrives in the grace, the connection is closed, also during a TLS handshake. So it does not delay
//!   the drain. The same is true of a connection that has sent a part of a handshake or of a request, and then nothing
//!   for a grace.
//! * A connection that has become another protocol, such as a WebSocket, is counted, and has until `drain_timeout`. So
//!   is an answer that is still streaming. The handler learns of the drain from [`Shutdown`](crate::Shutdown).
//!
//! At `drain_timeout` every connection that is left is aborted.
//!
//! A client that pipelines may have sent more requests behind the one whose answer has `Connection: close`, RFC 9112
//! section 9.3.2. Hardly any client does. It has to send those requests again: that answer says that they were not
//! processed.
//!
//! # Limits
//!
//! There is one more limit, while the service serves. A client has 30 s, from its first byte on, for the handshake, and
//! for the head of a request of HTTP/1.1 or the preface of HTTP/2. After that the connection is closed, so an
//! incomplete one costs no descriptor for longer. [`Builder`] sets this limit, and those of hyper.
//!
//! Each request has the address of its client in its extensions: [`PeerAddr`]. [`with_connect_info`] adds what a framework
//! looks for, such as tonic's `TcpConnectInfo`.
//!
//! A client may be idle for as long as the service serves, from its accept or its last answer on. A limit on idle time
//! would lose the requests that cross the close. Such a limit is the task of a proxy or of a layer of the service. A
//! peer may vanish without a word, for example with its network. The kernel finds it if the address of the listener
//! asks for that: `tcp://[::]:80?keepalive=1`.

mod activity;
mod answer;
mod builder;
mod connection;
mod listener;
mod moving;
mod notice;
mod service;
mod settings;
mod version;

use std::error::Error;
use std::io;

pub use activity::Connection;
pub use answer::Stays;
pub use builder::Builder;
pub use listener::{Listener, PeerAddr, WithConnectInfo, WithHandshake, with_connect_info, with_handshake};
pub use service::{Hyper, IntoService, Make, Tower};
pub use settings::{Http1, Http2};
#[cfg(feature = "websocket")]
pub(crate) use version::accepted_stream;

type BoxError = Box<dyn Error + Send + Sync>;

/// Serves an `axum::Router`, or any other [service](IntoService), by HTTP/1.1 and HTTP/2 on a managed listener. The
/// first bytes of a connection show which version it speaks, unless a [handshake](with_handshake) has negotiated it.
///
/// This has the settings of `Builder::new()`; a [`Builder`] has others.
///
/// Returns `Ok` once the service is replaced or stopped and every HTTP connection has ended. A failure on one
/// connection ends only that connection.
///
/// # Errors
///
/// An error of accept(2) after which the listener cannot accept any more.
pub async fn serve<L, S, Kind>(listener: L, service: S) -> io::Result<()>
where
    L: Listener,
    S: IntoService<L::Addr, Kind>,
{
    Builder::new().serve(listener, service).await
}
