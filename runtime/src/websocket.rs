//! WebSockets of `tokio_tungstenite` that can be taken apart and put together again (feature `websocket`).
//!
//! A `WebSocketStream` reads ahead. Its `into_inner` loses what was read: messages that nobody has taken, the fragments of a
//! message that is not whole, a part of a frame. [`accept`] gives an ordinary `WebSocketStream`, but the stream below it keeps
//! these bytes. So [`into_parts`] loses none of them, and the socket that [`Parts::resume`] makes of the parts goes on at
//! the same byte, in this process or in another one. Messages that were read and not taken come out of the new socket.
//!
//! A Ping that was read is answered before the socket is taken apart. If nobody has taken it by then, the new socket does not
//! give it.
//!
//! In these cases a socket stays as it is:
//!
//! * A Close was read or written, or the stream has ended.
//! * What was written does not reach the kernel in time, because the peer does not read.
//! * A message is being written in fragments.
//! * The message that is being read has more than 4,096 fragments, and they have fewer than about 16 bytes on average.
//!
//! tungstenite has no extensions, so there is no state of a compression.
//!
//! [`hand_over`] moves a socket of a managed listener to the successor of this process, in one call. Its client notices nothing:
//!
//! ```no_run
//! use std::io;
//!
//! use futures_util::{SinkExt, StreamExt};
//! use tableflip::net::{TcpListener, TcpStream};
//! use tableflip::websocket::{self, Socket};
//! use tableflip::{Session, Shutdown};
//! use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
//! use tokio_tungstenite::tungstenite::{Error, Message};
//!
//! /// Answers each message with its number.
//! async fn count(mut socket: Socket<TcpStream>, mut count: u64, mut shutdown: Shutdown) -> Result<(), Error> {
//!     loop {
//!         tokio::select! {
//!             message = socket.next() => match message.transpose()? {
//!                 Some(Message::Text(_)) => {
//!                     count += 1;
//!                     socket.send(count.to_string().into()).await?;
//!                 }
//!                 Some(_) => {}
//!                 None => return Ok(()),
//!             },
//!             () = &mut shutdown => break,
//!         }
//!     }
//!     let session = Session::new("count/1").state(count.to_be_bytes());
//!     match websocket::hand_over(socket, session).await {
//!         Ok(()) => Ok(()),
//!         Err(mut socket) => {
//!             let reason = "upgrade: connect again".into();
//!             socket.close(Some(CloseFrame { code: CloseCode::Restart, reason })).await
//!         }
//!     }
//! }
//!
//! #[tableflip::main(listen = [ws = "tcp://127.0.0.1:9001"])]
//! async fn main(ws: TcpListener, mut shutdown: Shutdown) -> io::Result<()> {
//!     let mut resumed = ws.resumed(["count/1"]);
//!     loop {
//!         tokio::select! {
//!             accepted = ws.accept() => {
//!                 let (stream, shutdown) = (accepted?.0, shutdown.clone());
//!                 tokio::spawn(async move { count(websocket::accept(stream).await?, 0, shutdown).await });
//!             }
//!             offer = resumed.next() => {
//!                 let shutdown = shutdown.clone();
//!                 tokio::spawn(async move {
//!                     // A state of another length is refused: the predecessor keeps the connection.
//!                     let Ok(state) = offer.state().try_into() else { return Ok(()) };
//!                     let socket = websocket::resume(offer.take().await?, None).await;
//!                     count(socket, u64::from_be_bytes(state), shutdown).await
//!                 });
//!             }
//!             () = &mut shutdown => return Ok(()),
//!         }
//!     }
//! }
//! ```
//!
//! The sockets of `http::serve` do the same: `upgrade` answers the request, and `resume` takes
//! `Upgraded::from(offer.take().await?)`.

mod frames;
mod hand_over;
mod socket;
mod tracked;
#[cfg(feature = "http")]
mod upgrade;

pub use tokio_tungstenite;

pub use hand_over::{Managed, hand_over};
pub use socket::{Parts, Socket, accept, accept_with, into_parts, resume};
pub use tracked::Tracked;
#[cfg(feature = "http")]
pub use upgrade::{Opening, Upgraded, upgrade};

#[cfg(test)]
mod tests;
