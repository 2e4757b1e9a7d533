//! The managed types of a plain `fn main`: those of `tableflip::net` for threads, without tokio.
//!
//! ```no_run
//! use std::io;
//! use std::thread;
//! use tableflip::blocking::TcpListener;
//!
//! #[tableflip::main(pidfile = "/run/echo.pid", listen = [echo = "tcp://127.0.0.1:7000"])]
//! fn main(echo: TcpListener) -> io::Result<()> {
//!     for stream in echo.incoming() {
//!         let stream = stream?;
//!         thread::spawn(move || io::copy(&mut &stream, &mut &stream));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Once this process is replaced or stopped, their calls return `None`, so that the body can return. The process waits for a body
//! that takes one of these types: it ends when the body has returned and all accepted streams are dropped.

mod datagram;
mod listener;
#[cfg_attr(not(upgrades), path = "portable/blocking/polled_gate.rs")]
mod polled_gate;
mod resumed;
mod stream;

use crate::between::params::BodyKind;

/// An accept blocks its thread.
const BODY: BodyKind = BodyKind::Blocking;

pub use crate::between::resumed::Offer;
pub use datagram::UdpSocket;
#[cfg(unix)]
pub use datagram::UnixDatagram;
#[cfg(unix)]
pub use listener::UnixListener;
pub use listener::{Incoming, TcpListener};
pub use resumed::Resumed;
#[cfg(unix)]
pub use stream::UnixStream;
pub use stream::{TcpStream, Woken};
