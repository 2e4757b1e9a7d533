//! The managed types of a plain `fn main`: the twins of `tableflip::net` for threads, without tokio.
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
//! Their calls end, with `None`, once this process is stopped, and a body that takes one of them is taken to be written
//! for it: the process ends when the body has returned and the streams are dropped that were accepted before.
//!
//! std cannot wait for a socket and for a stop at once, so a thread that waits looks at its socket every 1 to 16 ms:
//! that is what the first connection after a pause waits at most.

use std::fmt;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use event_listener::{Listener, listener};

use crate::base::address::Kind;
use crate::between::gate::{Gate, GateState};
use crate::between::params::{FromListener, ListenerSocket};
use crate::outside::sockets;

#[path = "../blocking/stream.rs"]
mod stream;

pub use stream::TcpStream;
#[cfg(unix)]
pub use stream::UnixStream;

/// The pause between two looks at a socket: the first, and the longest that doubling makes of it.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// Does `attempt` on the socket as soon as it does not block while the gate is open; `None` once it is retired.
fn through<T, R>(gate: &Gate<T>, mut attempt: impl FnMut(&T) -> io::Result<R>) -> io::Result<Option<R>>
where
    T: Send + Sync,
{
    gate.ask();
    let mut pause = PAUSE;
    loop {
        // Registered before the gate is looked at, so that no change is missed in between.
        listener!(gate.changed() => changed);
        match gate.state() {
            GateState::Open(io) => match gate.pass(|_| attempt(&io)) {
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    // A stop ends the pause early.
                    changed.wait_timeout(pause);
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
                Some(result) => return result.map(Some),
                // It was closed in between.
                None => {}
            },
            GateState::Closed => changed.wait(),
            GateState::Retired => return Ok(None),
        }
    }
}

fn gate<T: Send + Sync + 'static>(socket: ListenerSocket<'_>, io: Arc<T>) -> Arc<Gate<T>> {
    let gate = Arc::new(Gate::new(socket.name().to_owned(), socket.shared().clone(), io));
    // Its calls end at a drain, so that the body can return: it is waited for.
    gate.shared().wait_for_body();
    socket.register(gate.clone());
    gate
}

/// The connections of a listener, made by its `incoming`.
#[derive(Debug)]
pub struct Incoming<'a, L> {
    listener: &'a L,
}

macro_rules! managed_listener {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $stream:ident, $std:ty, $addr:ty) => {
        $(#[$doc])*
        ///
        /// The first call of [`accept`](Self::accept) tells that the service is ready to serve it. Accepting begins
        /// once the service is active and ends when this process drains.
        #[derive(Clone)]
        pub struct $name {
            gate: Arc<Gate<$std>>,
        }

        impl $name {
            /// accept(2): waits for the next connection; `None` once this process is stopped.
            ///
            /// Connections that died in the queue are passed over, and while the process or the machine is out of
            /// descriptors or memory the queue waits. Any number of threads may wait at once.
            ///
            /// # Errors
            ///
            /// Only what makes the listener useless, such as EBADF.
            pub fn accept(&self) -> io::Result<Option<($stream, $addr)>> {
                let shared = self.gate.shared();
                loop {
                    let accepted = through(&self.gate, |listener| {
                        let (stream, peer) = listener.accept()?;
                        // Counted while the gate is held open: a drain that begins next sees this connection.
                        Ok((stream, shared.count(), peer))
                    });
                    match accepted {
                        Ok(None) => return Ok(None),
                        Ok(Some((stream, counted, peer))) => {
                            // Some systems make it like the listener.
                            stream.set_nonblocking(false)?;
                            return Ok(Some(($stream::new(stream, counted), peer)));
                        }
                        Err(error) if sockets::died_in_queue(&error) => {}
                        Err(error) => {
                            thread::sleep(self.gate.out_of_resources(error)?);
                        }
                    }
                }
            }

            /// The connections, one after the other; it ends once this process is stopped.
            pub fn incoming(&self) -> Incoming<'_, $name> {
                Incoming { listener: self }
            }

            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            /// `NotConnected` once the listener has been closed.
            pub fn local_addr(&self) -> io::Result<$addr> {
                match self.gate.io() {
                    Some(io) => io.local_addr(),
                    None => Err(io::Error::new(io::ErrorKind::NotConnected, "the listener has been closed")),
                }
            }
        }

        impl Iterator for Incoming<'_, $name> {
            type Item = io::Result<$stream>;

            fn next(&mut self) -> Option<Self::Item> {
                self.listener.accept().map(|accepted| accepted.map(|(stream, _peer)| stream)).transpose()
            }
        }

        impl FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                let io = Arc::new(<$std>::from(socket.duplicate()?));
                Ok(Self { gate: gate(socket, io) })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("local_addr", &self.local_addr().ok()).finish()
            }
        }
    };
}

managed_listener! {
    /// A managed TCP listener.
    TcpListener, Tcp, TcpStream, std::net::TcpListener, SocketAddr
}

#[cfg(unix)]
managed_listener! {
    /// A managed listener for Unix stream sockets.
    UnixListener, Unix, UnixStream, std::os::unix::net::UnixListener, UnixSocketAddr
}

macro_rules! managed_datagram {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $std:ty, $addr:ty, $send:expr) => {
        $(#[$doc])*
        ///
        /// The first call of [`recv_from`](Self::recv_from) tells that the service is ready to serve it. Receiving
        /// begins once the service is active and ends when this process drains. Sending works to the end, so that what
        /// was received is answered.
        #[derive(Clone)]
        pub struct $name {
            gate: Arc<Gate<$std>>,
            /// For sending, which needs no gate.
            io: Arc<$std>,
        }

        impl $name {
            /// recvfrom(2): waits for the next datagram and the address of its sender; `None` once this process is
            /// stopped. What does not fit in `buffer` is lost.
            ///
            /// # Errors
            ///
            /// What the system says, such as ECONNREFUSED for an earlier datagram that nobody received.
            pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, $addr)>> {
                through(&self.gate, |socket| socket.recv_from(buffer))
            }

            /// sendto(2): sends a datagram, waiting while the socket is full.
            ///
            /// # Errors
            ///
            /// What the system says.
            pub fn send_to(&self, data: &[u8], target: &$addr) -> io::Result<usize> {
                loop {
                    match $send(&self.io, data, target) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
                        result => return result,
                    }
                }
            }

            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            /// What the system says.
            pub fn local_addr(&self) -> io::Result<$addr> {
                self.io.local_addr()
            }
        }

        impl FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                let io = Arc::new(<$std>::from(socket.duplicate()?));
                Ok(Self { gate: gate(socket, io.clone()), io })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("local_addr", &self.local_addr().ok()).finish()
            }
        }
    };
}

managed_datagram! {
    /// A managed UDP socket.
    UdpSocket, Udp, std::net::UdpSocket, SocketAddr, std::net::UdpSocket::send_to
}

#[cfg(unix)]
managed_datagram! {
    /// A managed Unix datagram socket.
    UnixDatagram, UnixDatagram, std::os::unix::net::UnixDatagram, UnixSocketAddr,
    std::os::unix::net::UnixDatagram::send_to_addr
}
