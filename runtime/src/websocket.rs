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

mod frames;
mod socket;
mod tracked;
#[cfg(feature = "http")]
mod upgrade;

pub use tokio_tungstenite;

pub use socket::{Parts, Socket, accept, accept_with, into_parts, resume};
pub use tracked::Tracked;
#[cfg(feature = "http")]
pub use upgrade::{Opening, Upgraded, upgrade};

#[cfg(test)]
mod tests;
